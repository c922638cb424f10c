//! Many measurements of the same thing.

use crate::Failure;
use std::time::Instant;

/// Runs `work` so often and returns the median of its times, in nanoseconds.
///
/// The median, since an emulated machine has rare and huge outliers.
pub(crate) fn median_time(
    count: u32,
    mut work: impl FnMut(u32) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    median(times(count, &mut work)?).ok_or_else(|| "nothing was measured".into())
}

/// Runs `work` so often and returns the time within which 99 of 100 were done.
pub(crate) fn late_time(
    count: u32,
    mut work: impl FnMut(u32) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut times = times(count, &mut work)?;
    times.sort_unstable();
    let last = times.len().saturating_mul(99).div_ceil(100);
    let late = last.checked_sub(1).and_then(|index| times.get(index)).copied();
    late.ok_or_else(|| "nothing was measured".into())
}

fn times(
    count: u32,
    work: &mut impl FnMut(u32) -> Result<(), Failure>,
) -> Result<Vec<u64>, Failure> {
    let mut times = Vec::new();
    for number in 0..count {
        let start = Instant::now();
        work(number)?;
        times.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(times)
}

/// The value in the middle; of an even number, the lower of the two.
pub(crate) fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    let middle = values.len().checked_sub(1)? / 2;
    values.get(middle).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![5]), Some(5));
        assert_eq!(median(vec![9, 1]), Some(1));
        assert_eq!(median(vec![900, 1, 3]), Some(3));
    }

    #[test]
    fn an_error_ends_the_series() {
        let mut calls = 0;
        let result = median_time(5, |_| {
            calls += 1;
            Err("no".into())
        });
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }
}
