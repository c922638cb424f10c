//! Lists as xl prints them.

use std::fmt::Write;

use crate::verb::{Bus, DeniedLine, ListLine, OwnerLine, PcidomLine, Status};

const NOT_STRICT: &str = "lent even where no reset method works, made quiet only \
    (no-strict-reset=1)";

/// `Vdev Device`, and the guest in front if there may be several.
pub fn list(lines: &[ListLine], with_guest: bool) -> String {
    let mut text = String::new();
    let width = lines.iter().map(|line| line.guest.len()).max().unwrap_or(0).max(5);
    let mut line = |guest: &str, vdev: &str, device: &str| {
        let guest = if with_guest { format!("{guest:width$} ") } else { String::new() };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{guest}{vdev:4} {device}");
    };
    line("Guest", "Vdev", "Device");
    for ListLine { guest, virtual_device, device, owner } in lines {
        let owner = owner.as_ref().map(|owner| format!(" (of {owner})"));
        let device = format!("{}{}", device.0, owner.unwrap_or_default());
        line(guest, virtual_device.as_deref().unwrap_or("-"), &device);
    }
    text
}

/// All of it, for people.
pub fn status(status: &Status) -> String {
    let mut text =
        format!("daemon {}, serves {}\n", status.daemon, status.names.join(", "));
    if let Some(trouble) = &status.trouble {
        text += &format!("trouble: {trouble}\n");
    }
    if status.pcidoms.is_empty() {
        text += "no pcidom runs: start one with: xl create pcidom.cfg\n";
    }
    for pcidom in &status.pcidoms {
        pcidom_text(&mut text, pcidom);
    }
    text
}

fn pcidom_text(text: &mut String, pcidom: &PcidomLine) {
    let PcidomLine { name, domid, ready, pool, loans, report } = pcidom;
    let serves = if *ready { "serves" } else { "does not serve" };
    // Writing to a string can't fail, here and below.
    let _ = writeln!(text, "\n{name} (domain {domid}): {serves}");
    let _ = writeln!(text, "  {:12} State", "Device");
    for line in pool {
        let note = line.note.as_ref().map(|note| format!(" ({note})"));
        let note = note.unwrap_or_default();
        let _ = writeln!(text, "  {} {}{note}", line.device.0, line.state);
        if let Some(port) = line.port {
            let _ = writeln!(text, "       bus reset: by the port {}", port.0);
        }
        if let Some(no_port) = &line.no_port {
            let _ = writeln!(text, "       no bus reset: {no_port}");
        }
        for armed in &line.armed {
            let _ = writeln!(text, "       note: {armed}");
        }
    }
    if !loans.is_empty() {
        let _ = writeln!(
            text,
            "  {:>4} {:>6} {:12} {:16} {:9} Pirqs",
            "Loan", "Gen", "Device", "Guest", "Phase"
        );
    }
    for loan in loans {
        let pirqs: Vec<String> = loan.pirqs.iter().map(u16::to_string).collect();
        let guest = format!("{} ({})", loan.guest, loan.domid);
        let pirqs = if pirqs.is_empty() { "-".into() } else { pirqs.join(",") };
        let _ = writeln!(
            text,
            "  {:>4} {:>6} {} {guest:16} {:9} {pirqs}",
            loan.id, loan.generation, loan.device.0, loan.phase
        );
        if let Some(OwnerLine { name, domid }) = &loan.owner {
            let _ = writeln!(
                text,
                "       owner: {name} ({domid}), whose stub domain has it on its link"
            );
        }
        if let Some(no_line) = &loan.no_line {
            let _ = writeln!(text, "       note: {no_line}");
        }
        if loan.bus != Bus::default() {
            let _ =
                writeln!(text, "       note: the guest's bus is {}", loan.bus.0.word());
        }
        if loan.no_strict_reset {
            let _ = writeln!(text, "       note: {NOT_STRICT}");
        }
        if let Some(difference) = &loan.difference {
            let _ = writeln!(text, "       trouble: {difference}");
        }
        if !loan.exceptions.is_empty() {
            let all = loan.exceptions.join(", ");
            let _ = writeln!(text, "       allowed by a person: {all}");
        }
        for line in &loan.denied {
            let _ = writeln!(text, "       denied: {}", denied(line));
        }
    }
    match report {
        Some(report) => {
            let _ = writeln!(text, "  says of itself:");
            for (node, value) in report {
                let _ = writeln!(text, "    {node}: {value}");
            }
        }
        None if *ready => {
            let _ = writeln!(text, "  did not report in time: look at xl console {name}");
        }
        None => {}
    }
}

/// One register whose writes were denied or changed.
fn denied(line: &DeniedLine) -> String {
    let DeniedLine { register, offset, bytes, wanted, times, exception, why } = line;
    let name = register.as_deref().unwrap_or("a register without a name");
    let plural = |number: u32| if number == 1 { "" } else { "s" };
    let what = format!(
        "{name}, {bytes} byte{} at {offset:#04x}, wanted {wanted:#x} ({times} time{})",
        plural((*bytes).into()),
        plural(*times)
    );
    match exception {
        Some(option) => {
            format!("{what}; attach with {option} allows it; the risk: {why}")
        }
        None => format!("{what}; nothing allows it: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{denied, list};
    use crate::verb::{Bdf, DeniedLine, ListLine};

    #[test]
    fn a_denied_write_is_one_line_that_says_what_to_do() {
        let mut line = DeniedLine {
            register: Some("DEVCTL".into()),
            offset: 0x88,
            bytes: 2,
            wanted: 0x2817,
            times: 3,
            exception: Some("allow=DEVCTL".into()),
            why: "fire".into(),
        };
        assert_eq!(
            denied(&line),
            "DEVCTL, 2 bytes at 0x88, wanted 0x2817 (3 times); attach with allow=DEVCTL \
             allows it; the risk: fire"
        );
        (line.register, line.exception) = (None, None);
        (line.bytes, line.times) = (1, 1);
        assert_eq!(
            denied(&line),
            "a register without a name, 1 byte at 0x88, wanted 0x2817 (1 time); nothing \
             allows it: fire"
        );
    }

    #[test]
    fn lists_look_like_xl_pci_list() {
        let line = |guest: &str, virtual_device: Option<&str>| ListLine {
            guest: guest.into(),
            virtual_device: virtual_device.map(Into::into),
            device: Bdf("01:00.0".parse().unwrap()),
            owner: None,
        };
        assert_eq!(
            list(&[line("g1", Some("00.0"))], false),
            "Vdev Device\n00.0 0000:01:00.0\n"
        );
        assert_eq!(
            list(&[line("g1", Some("00.0")), line("longer", None)], true),
            "Guest  Vdev Device\ng1     00.0 0000:01:00.0\nlonger -    0000:01:00.0\n"
        );
        let mut stub = line("g1-dm", Some("00.0"));
        stub.owner = Some("g1".into());
        assert_eq!(list(&[stub], false), "Vdev Device\n00.0 0000:01:00.0 (of g1)\n");
    }
}
