//! The daemon, between a pcidom that is taken over, its guest, and others that are honest.
//!
//! Domain 1 is the hostile pcidom with devices 1 and 2, of which 1 is lent to domain 2; domain
//! 4 is an honest one, which has lent device 3 to domain 3. Steps, each a byte and what it
//! needs; modulo 16:
//!
//! | | step |
//! |---|---|
//! | 0 to 3 | the hostile pcidom writes a node: which, length, text |
//! | 4, 5 | it asks for leases: loan, generation, sequence, kind, entries |
//! | 6, 7 | it reports on a loan: loan, generation, outcome |
//! | 8 | it removes a node |
//! | 9 | its guest writes its state, or takes its directory away |
//! | 10, 11 | time passes: in units of 0.5 s |
//! | 12, 13 | somebody asks the daemon for something: verb and options, guest and device, and what these take |
//! | 14 | it does what it should, once |
//! | 15 | another toolstack asks for a reset: length, text |

use pcidom_loan::{
    BusPolicy, LeaseAnswer, LeaseAsk, LeaseRequest, LoanOrder, LoanReport, Outcome, Phase,
};
use pcidom_toolstack::fake::Owner;
use pcidom_toolstack::store::Permissions;
use pcidom_toolstack::verb::{Bdf, Bus, Reply, ResetMethod, Verb, Wish};
use pcidom_xenbus::DomId;

use crate::host::{BAD, GOOD, GUEST, Host, NEIGHBOUR, device};
use crate::input::Input;

/// Most steps of one input.
const MAX_STEPS: usize = 24;
/// Nodes that a step may add: what it writes with all parents, and what the daemon makes of
/// it (a link, an order, a record, an answer, permissions aside).
const NODES_PER_STEP: usize = 48;
/// Calls of Xen that a step may lead to. A loan of a device with one BAR takes fewer than
/// 40, a map of 65 vectors 65, and one undone twice that.
const CALLS_PER_STEP: usize = 400;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut host = Host::lent();
    let nodes = host.store.below("").len();
    let mut steps = 0;
    while steps < MAX_STEPS && !input.is_empty() {
        steps += 1;
        let calls = host.xen.log.len();
        step(&mut host, &mut input);
        host.settle();
        check(&mut host);
        assert!(host.xen.log.len() <= calls + CALLS_PER_STEP, "Xen is kept busy");
    }
    let more = host.store.below("").len().saturating_sub(nodes);
    assert!(more <= NODES_PER_STEP * steps, "XenStore fills: {more} nodes");
    check_permissions(&host);
    end(&mut host);
}

/// What the hostile pcidom can write, below its home.
const NODES: [&str; 25] = [
    "data/pcidom/state",
    "data/pcidom/loans/0",
    "data/pcidom/loans/1",
    "data/pcidom/loans/2",
    "data/pcidom/loans/256",
    "data/pcidom/loans",
    "data/pcidom/requests/0",
    "data/pcidom/requests/1",
    "data/pcidom/requests/0/deeper",
    "data/pcidom/requests",
    "data/pcidom/report/number",
    "data/pcidom/report/leases/0",
    "data/pcidom/report/a/b/c/d/e/f",
    "data/pcidom",
    "data/pcidom/../pcidom/loans/0",
    "backend/pci/2/0/state",
    "backend/pci/2/0/num_devs",
    "backend/pci/2/0/dev-0",
    "backend/pci/2/0/state-0",
    "backend/pci/2/0/vdev-0",
    "backend/pci/2/0/dev-1",
    "backend/pci/2/0/frontend",
    "backend/pci/2/0",
    "backend/pci/3/0/state",
    "data/pcidom/protocol",
];

fn node(input: &mut Input<'_>) -> String {
    format!("/local/domain/1/{}", input.pick(&NODES))
}

fn text(input: &mut Input<'_>) -> String {
    let length = usize::from(input.byte());
    String::from_utf8_lossy(input.bytes(length)).replace('\0', " ")
}

fn step(host: &mut Host, input: &mut Input<'_>) {
    match input.byte() % 16 {
        0..=3 => {
            let path = node(input);
            host.set(&path, &text(input));
        }
        4 | 5 => ask(host, input),
        6 | 7 => report(host, input),
        8 => {
            let path = node(input);
            host.remove(&path);
        }
        9 => match input.byte() {
            0xff => host.remove("/local/domain/2/device/pci/0"),
            state => {
                host.set("/local/domain/2/device/pci/0/state", &(state % 10).to_string());
            }
        },
        10 | 11 => host.pass(500 * u64::from(input.byte())),
        12 | 13 => {
            let verb = verb(input);
            host.ask(&verb);
        }
        14 => {
            host.play(BAD);
            host.play_guest(BAD, GUEST);
        }
        _ => {
            let text = text(input);
            host.set("/tool/pcidom/reset/tool", &text);
        }
    }
}

/// The generation of a loan as its order says, or one beside it.
fn generation(host: &Host, id: u8, off: u8) -> pcidom_loan::Generation {
    let order = host.order(BAD, id);
    let known = order.map_or(0, |order| order.generation.0);
    pcidom_loan::Generation(known.wrapping_add(u64::from(off % 8).saturating_sub(5)))
}

fn ask(host: &mut Host, input: &mut Input<'_>) {
    let [id, off, sequence, kind] =
        [input.byte() % 3, input.byte(), input.byte(), input.byte()];
    let ask = match kind {
        0..0x40 => LeaseAsk::Unmap,
        0x40..0x60 => LeaseAsk::MapMsi,
        _ => {
            LeaseAsk::MapMsix((0..kind % 140).map(|_| u16::from(input.byte())).collect())
        }
    };
    let sequence = if sequence == 0xff { u32::MAX } else { sequence.into() };
    let request = LeaseRequest { generation: generation(host, id, off), sequence, ask };
    host.set(&format!("/local/domain/1/data/pcidom/requests/{id}"), &request.to_string());
}

fn report(host: &mut Host, input: &mut Input<'_>) {
    let [id, off, kind] = [input.byte() % 3, input.byte(), input.byte()];
    let text = text(input);
    let outcome = match kind % 3 {
        0 => Outcome::Ready(text),
        1 => Outcome::Returned(text),
        _ => Outcome::Failed(text),
    };
    let report = LoanReport { generation: generation(host, id, off), outcome };
    host.set(&format!("/local/domain/1/data/pcidom/loans/{id}"), &report.to_string());
}

fn verb(input: &mut Input<'_>) -> Verb {
    use pcidom_pci::Method;
    let [kind, choice] = [input.byte(), input.byte()];
    let guest = if choice & 1 == 0 { "g1" } else { "g2" }.to_owned();
    let number = Bdf(device(1 + (choice >> 1 & 1)));
    let (pcidom, more) = (None, usize::from(kind / 6));
    match kind % 6 {
        0 | 1 => Verb::Attach {
            guest,
            owner: (choice & 0x90 == 0x10).then(|| "g2".to_owned()),
            device: number,
            slot: (choice & 0x80 != 0).then_some(choice >> 2 & 31),
            bus: (more & 3).checked_sub(1).map(|bus| Bus(BusPolicy::ALL[bus])),
            share_line: choice & 0x40 != 0,
            lax: choice & 0x20 != 0,
            wait: (more & 4 != 0).then(|| input.word()),
            wish: wish(more >> 3, input),
            pcidom,
        },
        2 => Verb::Detach { guest, device: number, force: choice & 4 != 0, pcidom },
        3 => {
            let method = (choice & 8 != 0).then_some(ResetMethod(Method::SecondaryBus));
            Verb::Reset { device: number, method, force: choice & 4 != 0, pcidom }
        }
        4 => Verb::List { guest: None, pcidom },
        _ => Verb::Status { pcidom },
    }
}

/// Exceptions: permissive, a register by name, and others as somebody types them.
fn wish(kind: usize, input: &mut Input<'_>) -> Wish {
    let mut wish = Wish { permissive: kind & 1 != 0, allow: Vec::new() };
    if kind & 2 != 0 {
        wish.allow.push("LATENCY_TIMER".into());
    }
    if kind & 4 != 0 {
        // What a person types may come back to their own terminal as it is.
        let typed = text(input).replace(char::is_control, " ");
        wish.allow.extend(typed.split(',').map(str::to_owned));
    }
    wish
}

/// What must be so whatever a pcidom says.
fn check(host: &mut Host) {
    // No right of its own, ever.
    if let Some(own) = host.xen.holdings.get(&BAD) {
        let none = own.pages.is_empty() && own.ports.is_empty() && own.lines.is_empty();
        assert!(none && own.pirqs.is_empty(), "{own:?}");
    }
    for (device, owner) in &host.xen.owners {
        let Owner::Domain(domain) = owner else { continue };
        assert!(
            [GUEST, NEIGHBOUR].contains(domain),
            "{device} belongs to domain {domain}"
        );
    }
    // Vectors only for what is lent to that guest, and of its table.
    for guest in [GUEST, NEIGHBOUR] {
        let Some(holdings) = host.xen.holdings.get(&guest) else { continue };
        for (device, entry) in holdings.pirqs.values().flatten() {
            let owner = host.xen.owners.get(device);
            assert_eq!(owner, Some(&Owner::Domain(guest)), "vector {entry} of {device}");
            assert!(*entry < 65, "vector {entry}");
        }
    }
    // Those who have nothing to do with it keep what they have.
    let kept = host.xen.owners.get(&device(3));
    assert_eq!(kept, Some(&Owner::Domain(NEIGHBOUR)), "the honest pcidom's loan is gone");
    // Nothing of what it says is obeyed by a terminal.
    while let Some((_, reply)) = host.daemon.next_reply() {
        let texts = match reply {
            Reply::Progress { text } | Reply::Done { text } | Reply::Failed { text } => {
                vec![text]
            }
            Reply::Status { status } => {
                let reports = status.pcidoms.into_iter().filter_map(|line| line.report);
                reports.flatten().flat_map(|(key, value)| [key, value]).collect()
            }
            Reply::List { .. } => Vec::new(),
        };
        for text in texts {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

/// What is dom0's stays dom0's.
fn check_permissions(host: &Host) {
    let record = host.store.permissions("/tool/pcidom/loans");
    assert_eq!(record, Some(Permissions::private(DomId::DOM0)));
    for (path, _) in host.store.below("/local/domain/1/pcidom") {
        let permissions = host.store.permissions(&path);
        assert!(
            permissions.is_some_and(|p| p.owner == DomId::DOM0),
            "{path}: {permissions:?}"
        );
    }
}

/// The honest pcidom is served as ever, and all that was the hostile one's can be taken back.
fn end(host: &mut Host) {
    let order: LoanOrder =
        host.order(GOOD, 1).expect("the honest pcidom's order is gone");
    assert_eq!((order.phase, order.device), (Phase::Lent, device(3)));
    let ask = LeaseAsk::MapMsix([0, 1, 2].into());
    let request = LeaseRequest { generation: order.generation, sequence: 1, ask };
    host.set("/local/domain/4/data/pcidom/requests/1", &request.to_string());
    host.settle();
    let answer = host.store.get("/local/domain/4/pcidom/answers/1").map(str::parse);
    let answer: Option<LeaseAnswer> = answer.and_then(Result::ok);
    assert!(answer.is_some_and(|answer| answer.result.is_ok()), "it got no vectors");
    for guest in ["g1", "g2"] {
        for number in [1, 2] {
            let (guest, pcidom) = (guest.to_owned(), None);
            let device = Bdf(device(number));
            host.ask(&Verb::Detach { guest, device, force: true, pcidom });
        }
    }
    // Longer than anything waits.
    for _ in 0..4 {
        host.pass(200_000);
    }
    check(host);
    let left = host.xen.of(GUEST);
    assert!(
        left.pages.is_empty() && left.pirqs.is_empty(),
        "{left:?} is left of the guest's"
    );
    for number in [1, 2] {
        let owner = host.xen.owners.get(&device(number));
        assert_eq!(owner, Some(&Owner::Quarantine), "device {number}");
    }
}
