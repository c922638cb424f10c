//! A search through every state that a model can get into.
//!
//! Breadth first, so a way to a mistake is a shortest one. A state is remembered by 64 bits
//! of hash: among a million states the chance that any two are taken for one is below one in
//! ten million, and a mistake would be missed, not made up.
//!
//! What has to happen sooner or later ([`Will::Must`]) is told from what may never happen
//! ([`Will::May`]: an operation that somebody starts, a crash). Then "never stuck" is two
//! plain questions: do the former steps always come to an end (no cycle among them), and is
//! the state in which they end ([`Model::at_rest`]) as it should be?

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What does not hold: which property, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The property.
    pub property: &'static str,
    /// What was found.
    pub found: String,
}

impl Broken {
    /// `property` does not hold.
    pub fn new(property: &'static str, found: impl Into<String>) -> Self {
        Self { property, found: found.into() }
    }
}

/// Whether a step is taken in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Will {
    /// Sooner or later, unless something else makes it impossible.
    Must,
    /// Perhaps.
    May,
}

/// Something with states and steps between them.
pub trait Model {
    /// All there is to know.
    type State: Clone + Hash + fmt::Debug;
    /// One thing that happens, whole.
    type Step: Copy + fmt::Debug;

    /// Where it starts.
    fn starts(&self) -> Vec<Self::State>;
    /// What can happen in `state`.
    fn steps(&self, state: &Self::State, to: &mut Vec<(Will, Self::Step)>);
    /// Lets it happen.
    ///
    /// # Errors
    /// If a property does not hold then.
    fn take(&self, state: &mut Self::State, step: Self::Step) -> Result<(), Broken>;
    /// Looks at a state in which nothing must happen any more.
    ///
    /// # Errors
    /// If it should not stay like that.
    fn at_rest(&self, state: &Self::State) -> Result<(), Broken>;
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// States at rest.
    pub rests: usize,
    /// Steps of the longest shortest way.
    pub depth: usize,
}

impl fmt::Display for Visited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, steps, rests, depth } = self;
        write!(f, "{states} states, {steps} steps, {rests} at rest, depth {depth}")
    }
}

/// A mistake, and a shortest way to it.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// What does not hold.
    pub broken: Broken,
    /// The steps to it.
    pub way: Vec<String>,
    /// Where they have led.
    pub state: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broken, way, state } = self;
        writeln!(f, "{}: {}", broken.property, broken.found)?;
        for (number, step) in way.iter().enumerate() {
            writeln!(f, "  {:3} {step}", number + 1)?;
        }
        write!(f, "  {state}")
    }
}

/// The property that the search itself looks after.
pub const ENDS: &str = "what is begun comes to an end";

/// One state, seen from the next: where it was first reached from, and by which of that
/// state's steps.
#[derive(Clone, Copy, Debug)]
struct Origin {
    from: Option<u32>,
    step: u16,
    start: u16,
}

struct Search<'a, M: Model> {
    model: &'a M,
    known: HashMap<u64, u32>,
    origins: Vec<Origin>,
    /// Steps that must be taken.
    musts: Vec<(u32, u32)>,
    visited: Visited,
}

/// Visits every state.
///
/// # Errors
/// The first mistake.
pub fn visit<M: Model>(model: &M) -> Result<Visited, Box<Mistake>> {
    let mut search = Search {
        model,
        known: HashMap::new(),
        origins: Vec::new(),
        musts: Vec::new(),
        visited: Visited::default(),
    };
    search.run()?;
    search.check_ends()?;
    Ok(search.visited)
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self) -> Result<(), Box<Mistake>> {
        let mut layer = Vec::new();
        for (start, state) in (0_u16..).zip(self.model.starts()) {
            let origin = Origin { from: None, step: 0, start };
            let (number, new) = self.number(&state, origin);
            if new {
                layer.push((number, state));
            }
        }
        let mut steps = Vec::new();
        while !layer.is_empty() {
            let mut next = Vec::new();
            for (from, state) in layer {
                steps.clear();
                self.model.steps(&state, &mut steps);
                if steps.iter().all(|(will, _)| *will == Will::May) {
                    self.visited.rests += 1;
                    let rest = self.model.at_rest(&state);
                    rest.map_err(|broken| self.mistake(broken, from, None))?;
                }
                self.visited.steps += steps.len();
                for (index, (will, step)) in (0_u16..).zip(&steps) {
                    let mut reached = state.clone();
                    let taken = self.model.take(&mut reached, *step);
                    taken.map_err(|broken| self.mistake(broken, from, Some(index)))?;
                    let origin = Origin { from: Some(from), step: index, start: 0 };
                    let (number, new) = self.number(&reached, origin);
                    if *will == Will::Must {
                        self.musts.push((from, number));
                    }
                    if new {
                        next.push((number, reached));
                    }
                }
            }
            layer = next;
            self.visited.depth += 1;
        }
        self.visited.states = self.origins.len();
        Ok(())
    }

    fn number(&mut self, state: &M::State, origin: Origin) -> (u32, bool) {
        let next = u32::try_from(self.origins.len()).unwrap_or(u32::MAX);
        match self.known.entry(fingerprint(state)) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(vacant) => {
                vacant.insert(next);
                self.origins.push(origin);
                (next, true)
            }
        }
    }

    /// Takes away states that nothing leads to, again and again: what is left is on a cycle
    /// or behind one.
    fn check_ends(&self) -> Result<(), Box<Mistake>> {
        let count = self.origins.len();
        let mut into = vec![0_u32; count];
        // Steps by the state they lead from: `first[n]..first[n + 1]`.
        let mut first = vec![0_usize; count + 1];
        for (from, to) in &self.musts {
            into[*to as usize] += 1;
            first[*from as usize + 1] += 1;
        }
        for number in 0..count {
            first[number + 1] += first[number];
        }
        let mut sorted = vec![0_u32; self.musts.len()];
        let mut free = first.clone();
        for (from, to) in &self.musts {
            let place = &mut free[*from as usize];
            sorted[*place] = *to;
            *place += 1;
        }
        let mut ready: Vec<usize> = (0..count).filter(|n| into[*n] == 0).collect();
        let mut gone = 0;
        while let Some(number) = ready.pop() {
            gone += 1;
            for to in &sorted[first[number]..first[number + 1]] {
                let to = *to as usize;
                into[to] -= 1;
                if into[to] == 0 {
                    ready.push(to);
                }
            }
        }
        if gone == count {
            return Ok(());
        }
        Err(self.circle(&into))
    }

    /// Goes backwards from a state that is left until one comes again.
    fn circle(&self, into: &[u32]) -> Box<Mistake> {
        let left = |number: u32| into[number as usize] > 0;
        let on = into.iter().position(|left| *left > 0).unwrap_or_default();
        let mut seen = vec![u32::try_from(on).unwrap_or(u32::MAX)];
        let first = loop {
            let last = seen.last().copied().unwrap_or_default();
            let before = self.musts.iter().find(|(from, to)| *to == last && left(*from));
            let Some((before, _)) = before else { break last };
            if seen.contains(before) {
                break *before;
            }
            seen.push(*before);
        };
        let length = seen.iter().rev().take_while(|number| **number != first).count() + 1;
        let text = format!("{length} steps that must be taken lead back here");
        self.mistake(Broken::new(ENDS, text), first, None)
    }

    /// Goes the way to `number` again, and takes `last` there.
    fn mistake(&self, broken: Broken, number: u32, last: Option<u16>) -> Box<Mistake> {
        let mut indices: Vec<u16> = last.into_iter().collect();
        let mut at = number;
        let start = loop {
            let Origin { from, step, start } = self.origins[at as usize];
            let Some(from) = from else { break start };
            indices.push(step);
            at = from;
        };
        let mut state = self.model.starts().swap_remove(usize::from(start));
        let mut way = vec![format!("start {start}")];
        let mut steps = Vec::new();
        for index in indices.iter().rev() {
            steps.clear();
            self.model.steps(&state, &mut steps);
            let (_, step) = steps[usize::from(*index)];
            way.push(format!("{step:?}"));
            drop(self.model.take(&mut state, step));
        }
        Box::new(Mistake { broken, way, state: format!("{state:?}") })
    }
}
