//! Random reads from a block device.

use crate::{Failure, result};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;

/// Past the page cache (x86-64).
const O_DIRECT: i32 = 0o40000;

/// What `O_DIRECT` wants to read into.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Reads blocks at random places, so many at a time, and reports how many per second.
pub(crate) fn measure(path: &str, seconds: u64, threads: u32) -> Result<(), Failure> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)?;
    let blocks = file.seek(SeekFrom::End(0))? / BLOCK;
    if blocks == 0 {
        return Err(format!("{path} is empty").into());
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let reads = thread::scope(|scope| {
        let workers: Vec<_> = (1..=u64::from(threads))
            .map(|seed| {
                let file = &file;
                scope.spawn(move || work(file, blocks, seed, end))
            })
            .collect();
        let mut reads = 0_u64;
        for worker in workers {
            let done = worker.join().map_err(|_| "a thread panicked".to_owned())?;
            reads += done.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(reads)
    })?;
    let millis = u64::try_from(start.elapsed().as_millis())?.max(1);
    result(&format!("iops/{threads}"), reads.saturating_mul(1000) / millis);
    Ok(())
}

fn work(file: &File, blocks: u64, seed: u64, end: Instant) -> std::io::Result<u64> {
    let mut block = Box::new(Block([0; 4096]));
    let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut reads = 0;
    while Instant::now() < end {
        // Marsaglia's xorshift64.
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        file.read_exact_at(&mut block.0, number % blocks * BLOCK)?;
        reads += 1;
    }
    Ok(reads)
}
