//! A guest that attacks its PCI backend, by the name of an attack or by all in turn, as long as
//! it is told to:
//!
//! ```text
//! @@FRONT hostile begins
//! @@FRONT hostile attack=NAME tries=COUNT done=COUNT refused=COUNT unanswered=COUNT
//! @@FRONT hostile ends
//! ```
//!
//! One line is printed for each turn of an attack. Before each the link is connected again, if
//! the one before has broken it. What is done to XenStore is done in the guest's own folder. No
//! attack ever answers the removal of a device.

mod config;
mod keys;
mod nodes;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use pcidom_script::Instant;
use pcidom_xenbus::pciif::{MAGIC, word};
use pcidom_xenbus::{SharedPage, XenbusState};

use crate::link::{Link, front, set_state};
use crate::say::say;
use crate::xen::{Xen, give_way, notify, now};

/// How long one attack goes on before the next one's turn, or its own again.
const TURN: Duration = Duration::from_secs(1);

/// How long the backend has for the next state.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often its state is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Things that are done between two looks at the clock.
const BURST: u32 = 256;

/// What an attack works with.
struct Enemy<'a> {
    xen: &'a mut Xen,
    link: &'a Link,
    random: Random,
    count: Count,
    /// When its turn is over.
    until: Instant,
}

/// An attack.
struct Attack {
    name: &'static str,
    /// Whether it is one of `all`.
    counts: bool,
    run: fn(&mut Enemy<'_>),
}

const fn attack_of(name: &'static str, run: fn(&mut Enemy<'_>)) -> Attack {
    Attack { name, counts: true, run }
}

/// Only by its name. Three are no attacks on pcidom: what the same work costs whoever shares a
/// CPU, XenStore or the machine's hardware with the guest.
const fn alone(name: &'static str, run: fn(&mut Enemy<'_>)) -> Attack {
    Attack { name, counts: false, run }
}

const SILENT: &str = "silent";

const ATTACKS: [Attack; 13] = [
    alone("spin", spin),
    alone("noise", nodes::noise),
    alone("paced", config::paced),
    alone(SILENT, silent),
    attack_of("port", port),
    attack_of("rewrite", config::rewrite),
    attack_of("lies", config::lies),
    alone("vectors", config::vectors),
    attack_of("hog", config::hog),
    attack_of("grants", keys::grants),
    attack_of("ports", keys::ports),
    attack_of("states", nodes::states),
    attack_of("nodes", nodes::nodes),
];

/// What an attack has done in its turn.
#[derive(Default)]
struct Count {
    tries: u64,
    /// The backend did what it was told.
    done: u64,
    refused: u64,
    unanswered: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, done, refused, unanswered } = self;
        write!(f, "tries={tries} done={done} refused={refused} unanswered={unanswered}")
    }
}

/// Marsaglia's xorshift64: the same attacks in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let [.., a, b, c, d] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// One of them.
    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.next() as usize % from.len().max(1)).copied()
    }
}

/// Attacks for so many seconds.
pub(crate) fn attack(xen: &mut Xen, name: &str, seconds: &str) -> Result<(), String> {
    let chosen = |attack: &&Attack| match name {
        "all" => attack.counts,
        name => attack.name == name,
    };
    let attacks: Vec<&Attack> = ATTACKS.iter().filter(chosen).collect();
    if attacks.is_empty() {
        return Err(format!("hostile={name} is no attack"));
    }
    let seconds =
        seconds.parse().map_err(|_| format!("seconds={seconds} is no number"))?;
    let end = now().after(Duration::from_secs(seconds));
    let link = Link::connect(xen)?;
    say!("@@FRONT hostile begins");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for Attack { name, run, .. } in attacks.iter().cycle() {
        if now() >= end {
            break;
        }
        let until = now().after(TURN);
        let mut enemy =
            Enemy { xen, link: &link, random, count: Count::default(), until };
        // Without a link, say after a detach by force, it attacks what is left. Who connects
        // again has given back what it was asked for, so the silent one does not.
        if *name != SILENT {
            let _ = enemy.connect();
        }
        run(&mut enemy);
        say!("@@FRONT hostile attack={name} {}", enemy.count);
        random = enemy.random;
    }
    say!("@@FRONT hostile ends");
    Ok(())
}

impl Enemy<'_> {
    fn goes_on(&self) -> bool {
        now() < self.until
    }

    /// Connects the link, if it isn't.
    fn connect(&mut self) -> Option<()> {
        self.link.page.store(word::FLAGS, 0);
        let own = crate::nodes::read(self.xen, &front("state"));
        let own = XenbusState::parse(own.as_deref());
        if (own, self.back()) == (XenbusState::Connected, XenbusState::Connected) {
            return Some(());
        }
        for (key, value) in [
            ("backend", self.link.back.clone()),
            ("backend-id", format!("{}", self.link.peer.0)),
        ] {
            self.write(key, &value);
        }
        let Link { reference, port, .. } = self.link;
        let (reference, port) = (format!("{}", reference.0), format!("{}", port.0));
        match self.offer(&reference, &port, MAGIC)? {
            XenbusState::Connected => set_state(self.xen, XenbusState::Connected).ok(),
            _ => None,
        }
    }

    /// Publishes keys, and says what the backend makes of them.
    fn offer(&mut self, reference: &str, port: &str, magic: &str) -> Option<XenbusState> {
        self.write("state", "1");
        self.wait(&[XenbusState::InitWait, XenbusState::Initialised])?;
        self.write("pci-op-ref", reference);
        self.write("event-channel", port);
        self.write("magic", magic);
        self.write("state", "3");
        self.wait(&[XenbusState::Connected, XenbusState::Closing, XenbusState::Closed])
    }

    /// Writes a node of the frontend. What XenStore refuses is no news.
    fn write(&mut self, key: &str, value: &str) {
        let _ = crate::nodes::write(self.xen, &front(key), value);
    }

    /// The backend's state.
    fn back(&mut self) -> XenbusState {
        let state = crate::nodes::read(self.xen, &format!("{}/state", self.link.back));
        XenbusState::parse(state.as_deref())
    }

    /// Waits until the backend is in one of the states.
    fn wait(&mut self, wanted: &[XenbusState]) -> Option<XenbusState> {
        let deadline = now().after(PATIENCE);
        loop {
            let state = self.back();
            if wanted.contains(&state) {
                return Some(state);
            }
            if now() >= deadline {
                return None;
            }
            self.xen.sleep(Some(now().after(POLL)));
        }
    }
}

/// Burns its CPU.
fn spin(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        for _ in 0..BURST {
            core::hint::spin_loop();
        }
        enemy.count.tries += 1;
    }
}

/// Does nothing at all; whatever it should answer it doesn't.
fn silent(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        enemy.xen.sleep(Some(enemy.until));
    }
    enemy.count.tries += 1;
}

/// Sends events for nothing.
fn port(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        for _ in 0..BURST {
            notify(enemy.link.port);
        }
        enemy.count.tries += u64::from(BURST);
        // Xen's timer may not take the CPU from who never waits in time.
        give_way();
    }
}
