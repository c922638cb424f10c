//! A backend in dom0 that writes anything into the page of the A-link.
//!
//! Steps, each a byte and what it needs; modulo 8:
//! 0, 1: an access is submitted (offset (2), width, value (4)); 2: any word of the page
//! (number, value (4)); 3: the request is answered (err, value (4)); 4: the page is looked
//! at; 5: time passes; 6: a word changes after so many loads; 7: an error report (cmd, err,
//! domain, bus, devfn).

use std::time::Duration;

use pcidom_pci::{Access, Register, VirtualBdf, Width};
use pcidom_script::Instant;
use pcidom_xenbus::pciif::{BACK_ACTIVE, FRONT_ACTIVE, word};
use pcifront::{OP_DEADLINE, OpSlot, announce_aer, serve_aer};

use crate::input::Input;
use crate::page::{End, Page};

/// Most steps of one input.
const MAX_STEPS: usize = 128;

/// What the slot owes us.
#[derive(Clone, Copy, Debug)]
struct Asked {
    access: Access,
    deadline: Instant,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let page = Page::new(End::Front);
    announce_aer(&page);
    let (mut slot, mut now) = (OpSlot::new(), Instant::from_nanos(1));
    let mut asked = None;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 | 1 => submit(&mut slot, &page, now, &mut asked, &mut input),
            2 => page.set(usize::from(input.byte()), input.dword()),
            3 => {
                page.set(
                    word::OP_ERR,
                    i32::from(input.byte().cast_signed()).cast_unsigned(),
                );
                page.set(word::OP_VALUE, input.dword());
                page.set(word::FLAGS, page.get(word::FLAGS) & !FRONT_ACTIVE);
            }
            4 => look(&mut slot, &page, now, &mut asked),
            5 => {
                now = now.after(Duration::from_millis(10 * u64::from(input.byte())));
                look(&mut slot, &page, now, &mut asked);
            }
            6 => page.change_after(input.byte() % 16, input.dword()),
            _ => report(&page, &mut input),
        }
        assert_eq!(slot.deadline(), asked.map(|asked: Asked| asked.deadline));
        assert!(asked.is_none() || !slot.is_idle() && !slot.is_stuck());
    }
    // A backend that comes to its senses is served again.
    page.change_after(u8::MAX, 0);
    page.set(word::FLAGS, 0);
    look(&mut slot, &page, now.after(OP_DEADLINE), &mut asked);
    assert!(asked.is_none() && slot.is_idle(), "the slot is lost");
}

fn submit(
    slot: &mut OpSlot,
    page: &Page,
    now: Instant,
    asked: &mut Option<Asked>,
    input: &mut Input<'_>,
) {
    let width = input.pick(&[Width::Byte, Width::Word, Width::Dword]);
    let Some(register) =
        Register::new((input.word() % 0x1000) & !(width.bytes() - 1), width)
    else {
        return;
    };
    let value = input.dword();
    let access = match value & 1 {
        0 => Access::Read(register),
        _ => Access::Write(register, value),
    };
    let (stores, taken) = (page.stores(), page.get(word::FLAGS) & FRONT_ACTIVE != 0);
    let at = VirtualBdf("0000:00:00.0".parse().unwrap());
    let result = slot.submit(page, now, at, access);
    if result.is_ok() {
        assert!(asked.is_none() && !taken, "the slot was taken");
        assert_ne!(page.get(word::FLAGS) & FRONT_ACTIVE, 0);
        *asked = Some(Asked { access, deadline: now.after(OP_DEADLINE) });
    } else {
        assert_eq!(page.stores(), stores, "a refused request touches the page");
        assert!(taken || asked.is_some(), "refused without a reason");
    }
}

fn look(slot: &mut OpSlot, page: &Page, now: Instant, asked: &mut Option<Asked>) {
    let stores = page.stores();
    let answer = slot.poll(page, now);
    assert_eq!(page.stores(), stores, "looking changes the page");
    let Some(answer) = answer else {
        assert!(asked.is_none_or(|asked| now < asked.deadline), "it is not given up");
        return;
    };
    let asked = asked.take().expect("an answer to nothing");
    if let Ok(value) = answer {
        let mask = match asked.access {
            Access::Read(register) => register.width().mask(),
            Access::Write(..) => 0,
        };
        assert_eq!(value & !mask, 0, "{value:#x} for {:?}", asked.access);
    }
}

fn report(page: &Page, input: &mut Input<'_>) {
    page.set(word::AER, u32::from(input.byte()));
    page.set(word::AER_ERR, u32::from(input.byte()));
    for n in 2..5 {
        page.set(word::AER + n, u32::from(input.word()));
    }
    let active = page.get(word::FLAGS) | BACK_ACTIVE;
    page.set(word::FLAGS, active);
    let report = serve_aer(page).expect("a report that is not answered");
    assert_eq!(page.get(word::FLAGS) & BACK_ACTIVE, 0, "dom0 would wait for 300 s");
    let text = report.to_string();
    assert!(text.len() < 200 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}
