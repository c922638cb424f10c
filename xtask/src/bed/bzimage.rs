//! The ELF file inside a bzImage.
//!
//! Xen and libxl unpack a bzImage themselves, in emulation, for every domain: that costs
//! seconds each time. Unpacked here, once, the kernel is the same.

use super::elf;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::process::{Command, Stdio};

const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Unpacks the kernel in a bzImage.
pub(crate) fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("the kernel is no bzImage")?;
    let kernel = decompress(payload)?;
    if !kernel.starts_with(b"\x7fELF") {
        bail!("the kernel's payload is no ELF file");
    }
    Ok(elf::without_zeros(kernel))
}

/// The compressed part, by the fields that Linux' boot protocol defines.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..)?.get(..4)? != b"HdrS" {
        return None;
    }
    let sectors = usize::from(*image.get(SETUP_SECTORS)?);
    let start = sectors
        .checked_add(1)?
        .checked_mul(SECTOR)?
        .checked_add(word(image, PAYLOAD_OFFSET)?)?;
    // The last four bytes are the unpacked size, which no decompressor wants to see.
    let length = word(image, PAYLOAD_LENGTH)?.checked_sub(4)?;
    image.get(start..)?.get(..length)
}

fn word(image: &[u8], offset: usize) -> Option<usize> {
    let bytes: [u8; 4] = image.get(offset..)?.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let program = match payload {
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("the kernel is compressed in an unknown way"),
    };
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut pipe = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(payload));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("{program} cannot unpack the kernel: {}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = u8::try_from(payload.len() + 4).unwrap();
        image.extend_from_slice(payload);
        image.extend_from_slice(&[9; 4]);
        image
    }

    #[test]
    fn finds_the_payload() {
        assert_eq!(payload(&image(b"inside")), Some(b"inside".as_slice()));
        let mut short = image(b"inside");
        short.truncate(short.len() - 6);
        assert_eq!(payload(&short), None);
        assert_eq!(payload(b"no kernel"), None);
    }

    #[test]
    fn unknown_compression_is_an_error() {
        assert!(unpack(&image(b"plain")).is_err());
    }
}
