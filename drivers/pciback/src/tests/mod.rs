//! A server between a scripted guest, a fake dom0 backend and a fake daemon.

mod config;
mod hostile;
mod interrupts;
mod policy;
mod sequences;
mod time;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use pcidom_loan::{LeaseAsk, LeaseRefusal};
use pcidom_pci::fake::{FakeBackend, FakeFunction, run};
use pcidom_pci::{AccessError, Function, Register, Sbdf, VirtualBdf, scan};
use pcidom_script::Instant;
use pcidom_xenbus::page::PAGE_WORDS;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, RawMsixEntry, RawOp, command, load_msix, load_op, store_msix, store_op,
    word,
};
use pcidom_xenbus::{Pirq, SharedPage};

use crate::serve::Action;
use crate::{LeaseError, Server, VirtualFunction};

/// Memory that a guest can write at any moment, and that knows what was loaded.
pub(crate) struct Page {
    words: RefCell<Vec<u32>>,
    loads: RefCell<Vec<u32>>,
    /// Every word of the slot changes right after it was loaded.
    pub(crate) shifting: Cell<bool>,
}

impl Page {
    fn new() -> Self {
        let words = || RefCell::new(vec![0; PAGE_WORDS]);
        Self { words: words(), loads: words(), shifting: Cell::new(false) }
    }

    /// How often each word was loaded since the last call.
    pub(crate) fn take_loads(&self) -> Vec<u32> {
        self.loads.replace(vec![0; PAGE_WORDS])
    }

    pub(crate) fn words(&self) -> Vec<u32> {
        self.words.borrow().clone()
    }
}

impl SharedPage for Page {
    fn load(&self, word: usize) -> u32 {
        let value = self.words.borrow()[word];
        self.loads.borrow_mut()[word] += 1;
        if self.shifting.get() && word != word::FLAGS {
            self.words.borrow_mut()[word] = !value;
        }
        value
    }
    fn store(&self, word: usize, value: u32) {
        self.words.borrow_mut()[word] = value;
    }
    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        let old = self.words.borrow()[word];
        self.words.borrow_mut()[word] = old | bits;
        old
    }
    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        let old = self.words.borrow()[word];
        self.words.borrow_mut()[word] = old & bits;
        old
    }
    fn barrier(&self) {}
}

/// The daemon's side of leases: what is mapped, by its own record.
#[derive(Default)]
pub(crate) struct Daemon {
    pub(crate) mapped: BTreeMap<Sbdf, Vec<u16>>,
    pub(crate) maps: u32,
    next: u16,
    pub(crate) refuse: Option<LeaseRefusal>,
}

impl Daemon {
    pub(crate) fn serve(
        &mut self,
        sbdf: Sbdf,
        ask: &LeaseAsk,
    ) -> Result<Vec<Pirq>, LeaseError> {
        let count = match ask {
            LeaseAsk::Unmap => {
                self.mapped.remove(&sbdf);
                return Ok(Vec::new());
            }
            LeaseAsk::MapMsi => 1,
            LeaseAsk::MapMsix(entries) => entries.len(),
        };
        if let Some(refusal) = self.refuse {
            return Err(refusal.into());
        }
        if self.mapped.contains_key(&sbdf) {
            return Err(LeaseRefusal::Busy.into());
        }
        self.maps += 1;
        let pirqs = (0..count).map(|_| {
            self.next += 1;
            1000 + self.next
        });
        let pirqs: Vec<u16> = pirqs.collect();
        self.mapped.insert(sbdf, pirqs.clone());
        Ok(pirqs.into_iter().map(Pirq).collect())
    }
}

/// All of it. One device: the NIC with both kinds of message interrupts at 00:00.0, or the
/// NVMe.
pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) page: Page,
    pub(crate) dom0: FakeBackend,
    pub(crate) function: Function,
    pub(crate) daemon: Daemon,
    pub(crate) now: Instant,
    /// Questions that nobody has answered yet.
    pub(crate) questions: VecDeque<Action>,
    /// Questions that were asked, ever.
    pub(crate) asked: usize,
    /// The question, counted from 1, that fails.
    pub(crate) fail_at: Option<usize>,
    /// Whether an access that is reported as failed was done all the same.
    pub(crate) fails_after: bool,
    pub(crate) notified: usize,
    pub(crate) spurious: usize,
    pub(crate) troubles: usize,
    pub(crate) withdrawn: usize,
}

pub(crate) fn sbdf(text: &str) -> Sbdf {
    text.parse().unwrap()
}

impl Bed {
    pub(crate) fn nvme() -> Self {
        Self::new(FakeFunction::nvme_like())
    }

    pub(crate) fn nic() -> Self {
        Self::new(FakeFunction::e1000e_like())
    }

    pub(crate) fn new(hardware: FakeFunction) -> Self {
        let mut dom0 = FakeBackend::new(sbdf("01:00.0"), hardware);
        let found = run(&mut dom0, |config| async move { scan(&config).await });
        let function = found.0.unwrap();
        let dom0 = dom0.armed(function.pcie.as_ref().map(|pcie| pcie.offset));
        let mut server = Server::new();
        server.add(VirtualBdf(sbdf("00:00.0")), VirtualFunction::new(&function));
        let mut bed = Self {
            server,
            page: Page::new(),
            dom0,
            function,
            daemon: Daemon::default(),
            now: Instant::from_nanos(1_000_000_000),
            questions: VecDeque::new(),
            asked: 0,
            fail_at: None,
            fails_after: false,
            notified: 0,
            spurious: 0,
            troubles: 0,
            withdrawn: 0,
        };
        bed.dom0.hardware_mut().take_writes();
        bed
    }

    pub(crate) fn at(&self) -> Sbdf {
        self.function.sbdf
    }

    /// Lets the server do something and keeps what it wants.
    pub(crate) fn call(
        &mut self,
        call: impl FnOnce(&mut Server, &Page, Instant, &mut Vec<Action>),
    ) {
        let mut out = Vec::new();
        call(&mut self.server, &self.page, self.now, &mut out);
        for action in out {
            match action {
                Action::Notify => self.notified += 1,
                Action::Spurious => self.spurious += 1,
                Action::Trouble(..) => self.troubles += 1,
                Action::Withdrawn(_) => self.withdrawn += 1,
                Action::Config(..) | Action::Lease(..) => {
                    self.questions.push_back(action);
                    self.asked += 1;
                }
            }
        }
        assert!(self.questions.len() <= 1, "two questions at once");
    }

    /// Answers one question, as dom0 and the daemon do.
    pub(crate) fn answer(&mut self) {
        let fails = self.fail_at == Some(self.asked);
        match self.questions.pop_front().expect("a question") {
            Action::Config(device, access) => {
                assert_eq!(device, self.at());
                self.is_no_message(access.register());
                let answer = match fails && !self.fails_after {
                    true => Err(AccessError::TimedOut),
                    false => self.dom0.access(access),
                };
                let answer = if fails { Err(AccessError::TimedOut) } else { answer };
                self.call(|server, page, now, out| {
                    server.on_config(Some(page), answer, now, out);
                });
            }
            Action::Lease(device, ask) => {
                // An answer that never comes, to something that was done.
                let answer = self.daemon.serve(device, &ask);
                let answer = if fails { Err(LeaseError::Unavailable) } else { answer };
                self.call(|server, page, now, out| {
                    server.on_lease(Some(page), answer, now, out);
                });
            }
            _ => unreachable!(),
        }
    }

    /// Nothing is ever learnt from MSI address or data: no access goes there.
    fn is_no_message(&self, register: Register) {
        let Some(msi) = &self.function.msi else { return };
        // Address and data (PCI 6.8.1).
        let end = if msi.is_64bit { 14 } else { 10 };
        let message = msi.offset + 4..msi.offset + end;
        let (first, last) = (register.offset(), register.end() - 1);
        assert!(!message.contains(&first) && !message.contains(&last), "{register:?}");
    }

    pub(crate) fn settle(&mut self) {
        let mut budget = 100;
        while !self.questions.is_empty() {
            budget -= 1;
            assert!(budget > 0, "a procedure that doesn't end");
            self.answer();
        }
    }

    /// Writes a request into the page and sends the event, as a frontend does.
    pub(crate) fn request(&mut self, op: RawOp) {
        assert_eq!(self.page.load(word::FLAGS) & FRONT_ACTIVE, 0);
        store_op(&self.page, &op);
        self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        self.event();
    }

    pub(crate) fn event(&mut self) {
        self.call(|server, page, now, out| server.on_event(page, now, out));
    }

    /// A whole operation, as its frontend sees it.
    pub(crate) fn op(&mut self, op: RawOp) -> (i32, u32) {
        let notified = self.notified;
        self.request(op);
        self.settle();
        assert_eq!(self.notified, notified + 1, "exactly one event per completion");
        self.result()
    }

    pub(crate) fn result(&self) -> (i32, u32) {
        assert_eq!(self.page.load(word::FLAGS) & FRONT_ACTIVE, 0, "not answered");
        let op = load_op(&self.page);
        (op.err, op.value)
    }

    pub(crate) fn read(&mut self, offset: u16, size: i32) -> u32 {
        let (err, value) = self.op(read(offset, size));
        assert_eq!(err, 0, "read {offset:#x}+{size}");
        value
    }

    pub(crate) fn write(&mut self, offset: u16, size: i32, value: u32) -> i32 {
        let op = RawOp { cmd: command::CONF_WRITE, value, ..read(offset, size) };
        self.op(op).0
    }

    pub(crate) fn interrupt(&mut self, cmd: u32) -> (i32, u32) {
        self.op(RawOp { cmd, ..RawOp::default() })
    }

    pub(crate) fn put_entries(&mut self, entries: &[u16]) -> RawOp {
        let raw: Vec<RawMsixEntry> = entries
            .iter()
            .map(|entry| RawMsixEntry { vector: 0xffff, entry: *entry })
            .collect();
        store_msix(&self.page, &raw);
        let value = entries.len().try_into().unwrap();
        RawOp { cmd: command::ENABLE_MSIX, value, ..RawOp::default() }
    }

    pub(crate) fn enable_msix(&mut self, entries: &[u16]) -> (i32, u32) {
        let op = self.put_entries(entries);
        self.op(op)
    }

    pub(crate) fn vectors(&self, count: usize) -> Vec<u16> {
        load_msix(&self.page, count).iter().map(|entry| entry.vector).collect()
    }

    /// The 16-bit word at `offset` of the hardware.
    pub(crate) fn hardware(&self, offset: u16) -> u16 {
        let low = offset & !3;
        let word = self.dom0.hardware().word(low) >> (8 * (offset - low));
        u16::try_from(word & 0xffff).unwrap()
    }

    pub(crate) fn mapped(&self) -> Vec<u16> {
        self.daemon.mapped.get(&self.at()).cloned().unwrap_or_default()
    }
}

pub(crate) fn read(offset: u16, size: i32) -> RawOp {
    RawOp { cmd: command::CONF_READ, offset: offset.into(), size, ..RawOp::default() }
}
