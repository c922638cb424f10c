//! `start_info` (public/xen.h), typed.

use core::ffi::CStr;

use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};
use xen_sys::{MAX_GUEST_CMDLINE, SIF_INITDOMAIN, start_info};

/// A shared ring page and the port that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Machine frame of the page.
    pub frame: PhysFrame,
    /// Event channel port, ours.
    pub port: u32,
}

/// What Xen told the domain at its start.
#[derive(Clone, Debug)]
pub struct StartInfo {
    /// "xen-VERSION-PLATFORM"
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub pages: u64,
    /// Machine frame of the `shared_info` page.
    pub shared_info: PhysFrame,
    /// This is the first domain: a smoke test without a toolstack.
    pub initial_domain: bool,
    /// XenStore, if there is one.
    pub store: Option<Ring>,
    /// The PV console, if there is one.
    pub console: Option<Ring>,
    /// The top page table.
    pub page_table: VirtAddr,
    /// Frames of page tables.
    pub page_table_frames: u64,
    /// The list of the domain's machine frames, one `u64` for each page.
    pub frame_list: VirtAddr,
    command_line: [u8; MAX_GUEST_CMDLINE],
}

impl StartInfo {
    /// Takes over what Xen has written.
    pub fn new(raw: &start_info) -> Self {
        let initial_domain = raw.flags & SIF_INITDOMAIN != 0;
        let console = raw.console;
        Self {
            magic: raw.magic,
            pages: raw.nr_pages,
            shared_info: PhysFrame::containing_address(PhysAddr::new_truncate(
                raw.shared_info,
            )),
            initial_domain,
            store: (raw.store_evtchn != 0)
                .then(|| Ring { frame: frame(raw.store_mfn), port: raw.store_evtchn }),
            console: (!initial_domain && console.evtchn != 0)
                .then(|| Ring { frame: frame(console.mfn), port: console.evtchn }),
            page_table: VirtAddr::new_truncate(raw.pt_base),
            page_table_frames: raw.nr_pt_frames,
            frame_list: VirtAddr::new_truncate(raw.mfn_list),
            command_line: raw.cmd_line.map(i8::cast_unsigned),
        }
    }

    /// The magic as text.
    pub fn magic(&self) -> &str {
        text(&self.magic)
    }

    /// The command line (`extra=` of the domain's config); empty if it is not UTF-8.
    pub fn command_line(&self) -> &str {
        text(&self.command_line)
    }

    /// The value of a `key=value` word of the command line.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.command_line()
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value))
    }
}

/// The frame with machine frame number `mfn`.
pub fn frame(mfn: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new_truncate(mfn << 12))
}

/// The machine frame number of `frame`.
pub fn mfn(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() >> 12
}

fn text(bytes: &[u8]) -> &str {
    CStr::from_bytes_until_nul(bytes)
        .ok()
        .and_then(|text| text.to_str().ok())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::StartInfo;
    use xen_sys::{MAX_GUEST_CMDLINE, start_info, start_info_console};

    fn raw(command_line: &str) -> start_info {
        let mut cmd_line = [0; MAX_GUEST_CMDLINE];
        for (to, from) in cmd_line.iter_mut().zip(command_line.bytes()) {
            *to = from.cast_signed();
        }
        let mut magic = [0; 32];
        magic[..14].copy_from_slice(b"xen-3.0-x86_64");
        start_info {
            magic,
            nr_pages: 2048,
            shared_info: 0x1234_5000,
            flags: 0,
            store_mfn: 0x777,
            store_evtchn: 1,
            console: start_info_console { mfn: 0x778, evtchn: 2 },
            pt_base: 0x60_0000,
            nr_pt_frames: 4,
            mfn_list: 0x50_0000,
            mod_start: 0,
            mod_len: 0,
            cmd_line,
            first_p2m_pfn: 0,
            nr_p2m_frames: 0,
        }
    }

    #[test]
    fn options_of_the_command_line_are_found_by_their_key() {
        let info = StartInfo::new(&raw("ro loglevel=debug  quiet x=1=2"));
        assert_eq!(info.magic(), "xen-3.0-x86_64");
        assert_eq!(info.option("loglevel"), Some("debug"));
        assert_eq!(info.option("x"), Some("1=2"));
        assert_eq!(info.option("quiet"), None);
    }

    #[test]
    fn a_command_line_that_fills_its_array_has_no_end_and_counts_as_empty() {
        let long = "a".repeat(MAX_GUEST_CMDLINE);
        assert_eq!(StartInfo::new(&raw(&long)).command_line(), "");
    }

    #[test]
    fn the_first_domain_has_no_rings() {
        let mut raw = raw("");
        raw.flags = xen_sys::SIF_INITDOMAIN;
        raw.store_evtchn = 0;
        let info = StartInfo::new(&raw);
        assert!(info.initial_domain && info.store.is_none() && info.console.is_none());
    }
}
