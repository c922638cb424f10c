//! A guest that writes anything into its page, at any moment, while loans come and go and
//! dom0 and the daemon fail.
//!
//! An input is a byte for the first device and then steps, each a byte and what it needs:
//!
//! | byte, modulo 16 | step |
//! |---|---|
//! | 0 to 3 | a request: command, device, offset (2), size, value (4); then its event; for 1 to 3 it is served to its end |
//! | 4 | any word of the page: number (2), value (4) |
//! | 5 | MSI-X entries: how many, then each (2) |
//! | 6 | an event |
//! | 7 to 9 | the question that is open is answered: how, and more |
//! | 10 | time passes: units of 50 ms |
//! | 11 | a word changes behind the server's back: after so many loads, value (4) |
//! | 12 | a device is shown |
//! | 13 | a device is taken off the link, or its loan ends |
//! | 14 | a device is reset |
//! | 15 | the link closes, or the flags change |

use std::sync::OnceLock;
use std::time::Duration;

use pcidom_pci::fake::FakeFunction;
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{FRONT_ACTIVE, RawOp, command, store_op, word};

use crate::device::Model;
use crate::guest::{Fate, Guest};
use crate::input::Input;

/// Most steps of one input: enough for several procedures on top of each other.
const MAX_STEPS: usize = 64;

fn models() -> &'static [Model; 3] {
    static MODELS: OnceLock<[Model; 3]> = OnceLock::new();
    MODELS.get_or_init(|| {
        [
            ("0000:01:00.0", FakeFunction::nvme_like()),
            ("0000:02:00.0", FakeFunction::e1000e_like()),
            ("0000:03:00.0", FakeFunction::e1000e_losing_state()),
        ]
        .map(|(address, fake)| Model::scanned(address.parse().unwrap(), fake))
    })
}

/// A page that only forwards: what a guest writes is not what we may write.
struct Theirs<'a>(&'a crate::page::Page);

impl SharedPage for Theirs<'_> {
    fn load(&self, word: usize) -> u32 {
        self.0.get(word)
    }
    fn store(&self, word: usize, value: u32) {
        self.0.set(word, value);
    }
    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        let old = self.0.get(word);
        self.0.set(word, old | bits);
        old
    }
    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        let old = self.0.get(word);
        self.0.set(word, old & bits);
        old
    }
    fn barrier(&self) {}
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let models = models();
    let mut guest = Guest::new(models.iter());
    guest.add(usize::from(input.byte()) % models.len());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut guest, &mut input, models.len());
    }
    guest.end();
}

fn step(guest: &mut Guest<'_>, input: &mut Input<'_>, devices: usize) {
    let kind = input.byte() % 16;
    log::trace!("step {kind}");
    match kind {
        0..=3 => {
            request(guest, input);
            guest.call(|server, page, now, out| server.on_event(page, now, out));
            if kind > 0 {
                guest.settle();
            }
        }
        4 => {
            let at = usize::from(input.word()) % 160;
            guest.page.set(at, input.dword());
        }
        5 => {
            for n in 0..usize::from(input.byte() % 131) {
                let entry = u32::from(input.word());
                guest.page.set(word::MSIX + n, entry << 16 | 0xffff);
            }
        }
        6 => guest.call(|server, page, now, out| server.on_event(page, now, out)),
        7..=9 => {
            let fate = input.pick(&[
                Fate::Good,
                Fate::Good,
                Fate::Failed,
                Fate::Done,
                Fate::Nonsense,
            ]);
            guest.answer(fate, input);
        }
        10 => {
            let time = Duration::from_millis(50 * u64::from(input.byte()));
            guest.now = guest.now.after(time);
            guest.call(|server, page, now, out| server.on_time(Some(page), now, out));
        }
        11 => guest.page.change_after(input.byte() % 24, input.dword()),
        12 => guest.add(usize::from(input.byte()) % devices),
        13 => {
            let (number, ends) = (usize::from(input.byte()) % devices, input.flag());
            if ends { guest.remove(number) } else { guest.withdraw(number) }
        }
        14 => guest.reset(usize::from(input.byte()) % devices),
        _ => match input.byte() {
            0 => guest.call(|server, _, _, out| server.shut(out)),
            flags => guest.page.set(word::FLAGS, flags.into()),
        },
    }
}

fn request(guest: &mut Guest<'_>, input: &mut Input<'_>) {
    let mut op = RawOp { cmd: u32::from(input.byte()), ..RawOp::default() };
    let device = input.byte();
    (op.devfn, op.bus) = match device {
        0..0x20 => (u32::from(device) << 3, 0),
        _ => (device.into(), u32::from(device & 1)),
    };
    let offset = input.word();
    // Sometimes what is no 16-bit number at all.
    op.offset =
        if offset & 0x8000 == 0 { offset.into() } else { i32::from(offset) << 16 };
    op.size = i32::from(input.byte().cast_signed());
    op.value = input.dword();
    if op.cmd == u32::from(u8::MAX) {
        (op.cmd, op.domain) = (command::CONF_READ, op.value);
    }
    log::trace!("{op:?}");
    store_op(&Theirs(&guest.page), &op);
    guest.page.set(word::FLAGS, guest.page.get(word::FLAGS) | FRONT_ACTIVE);
}
