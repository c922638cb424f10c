//! A kernel's ELF file without what says nothing.
//!
//! Linux has its `.bss` in the file, as zeros: two fifths of it, which dom0 would unpack in
//! emulation, and libxl read and copy for every guest.

use object::LittleEndian;
use object::elf::{FileHeader64, ProgramHeader64};
use object::pod::{from_bytes_mut, slice_from_bytes_mut};

/// All kernels here are of this kind.
const ORDER: LittleEndian = LittleEndian;

/// A file that ends with its last segment's last byte that is not zero: whoever loads it makes
/// the rest zero. One that is not as expected stays as it is.
pub(crate) fn without_zeros(mut file: Vec<u8>) -> Vec<u8> {
    if let Some(length) = shorten_last(&mut file) {
        file.truncate(length);
    }
    file
}

/// Corrects the headers; how long the file has to be.
fn shorten_last(file: &mut [u8]) -> Option<usize> {
    let (header, _) = from_bytes_mut::<FileHeader64<LittleEndian>>(file).ok()?;
    let first = usize::try_from(header.e_phoff.get(ORDER)).ok()?;
    let count = usize::from(header.e_phnum.get(ORDER));
    if usize::from(header.e_phentsize.get(ORDER))
        != size_of::<ProgramHeader64<LittleEndian>>()
    {
        return None;
    }
    let (segments, _) = slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(
        file.get_mut(first..)?,
        count,
    )
    .ok()?;
    let last = segments.iter().max_by_key(|segment| segment.p_offset.get(ORDER))?;
    let (start, length) = (last.p_offset.get(ORDER), last.p_filesz.get(ORDER));
    if last.p_memsz.get(ORDER) < length {
        return None;
    }
    let at = usize::try_from(start).ok()?;
    let segment = file.get(at..)?.get(..usize::try_from(length).ok()?)?;
    let used = segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (segments, _) = slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(
        file.get_mut(first..)?,
        count,
    )
    .ok()?;
    for segment in segments.iter_mut().filter(|s| s.p_offset.get(ORDER) == start) {
        segment.p_filesz.set(ORDER, used as u64);
    }
    // Sections came behind it, and nobody who loads a file needs them.
    let (header, _) = from_bytes_mut::<FileHeader64<LittleEndian>>(file).ok()?;
    header.e_shoff.set(ORDER, 0);
    header.e_shnum.set(ORDER, 0);
    header.e_shstrndx.set(ORDER, 0);
    at.checked_add(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the last segment begins.
    const DATA: usize = 0x200;

    /// Two segments, of which the last one in the file comes first in the headers, and what
    /// stands for sections.
    fn elf(data: &[u8], header_size: u16) -> Vec<u8> {
        let mut file = vec![0; DATA];
        file.extend_from_slice(data);
        file.extend_from_slice(b"sections");
        let (header, _) =
            from_bytes_mut::<FileHeader64<LittleEndian>>(&mut file).unwrap();
        header.e_phoff.set(ORDER, 64);
        header.e_phnum.set(ORDER, 2);
        header.e_phentsize.set(ORDER, header_size);
        header.e_shoff.set(ORDER, 0x206);
        header.e_shnum.set(ORDER, 3);
        let (segments, _) =
            slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(&mut file[64..], 2)
                .unwrap();
        for (segment, (offset, length)) in
            segments.iter_mut().zip([(DATA, data.len()), (0x100, 0x10)])
        {
            segment.p_offset.set(ORDER, offset as u64);
            segment.p_filesz.set(ORDER, length as u64);
            segment.p_memsz.set(ORDER, length as u64);
        }
        file
    }

    #[test]
    fn zeros_at_the_end_need_not_be_in_the_file() {
        let mut file = without_zeros(elf(&[7, 0, 9, 0, 0, 0], 56));
        assert_eq!(&file[DATA..], [7, 0, 9]);
        let (header, _) =
            from_bytes_mut::<FileHeader64<LittleEndian>>(&mut file).unwrap();
        assert_eq!((header.e_shoff.get(ORDER), header.e_shnum.get(ORDER)), (0, 0));
        let (segments, _) =
            slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(&mut file[64..], 2)
                .unwrap();
        let sizes = |n: usize| {
            let segment: &ProgramHeader64<LittleEndian> = &segments[n];
            (segment.p_filesz.get(ORDER), segment.p_memsz.get(ORDER))
        };
        assert_eq!((sizes(0), sizes(1)), ((3, 6), (0x10, 0x10)));
    }

    #[test]
    fn what_is_no_such_file_stays_as_it_is() {
        let other = elf(&[1, 0], 32);
        assert_eq!(without_zeros(other.clone()), other);
        for length in 0..0x80 {
            let short = vec![1; length];
            assert_eq!(without_zeros(short.clone()), short);
        }
    }
}
