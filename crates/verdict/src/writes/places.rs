//! Places: where writes come from, and how closely two of them belong together.

use std::collections::HashMap;

use super::Change;

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The interpreter itself, with the types that it has built in.
    Interpreter,
    /// A library, by any number: an extension, or what it calls.
    Library(u32),
}

/// One frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// The function, by any number, such as its address.
    pub function: u64,
    /// Where in the function: the call, or for the innermost frame the write.
    pub address: u64,
    /// Whose function it is.
    pub owner: Owner,
    /// The line of source in that function, by any number; 0: not known.
    pub line: u32,
    /// The function frees objects: what is called from there belongs to an end, such as a destructor.
    pub frees: bool,
}

/// How closely two places belong together, in degrees. Both are followed from the outermost frame in, to the function in
/// which their ways part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kinship {
    /// They have no function in common, or their ways part in one of the interpreter, and go on in code of different owners,
    /// or in two functions of a library of which none is part of a destructor.
    None = 1,
    /// One is in a function of the interpreter, the other in a library that it calls.
    Called = 2,
    /// Their ways part in a function of the interpreter, and go on in code of the same owner: a container made and
    /// freed, an object's constructor and its destructor.
    Siblings = 3,
    /// One is in a function of the interpreter, the other in one of its own that it calls: what a frame holds when it is
    /// cleared. Most of the interpreter is called from one function, so this says less than the next.
    Within = 4,
    /// One is in a function of a library, the other in one that it calls: what a helper takes, or what a container
    /// frees. Or their ways part in such a function, and go on in code of the same owner.
    Nested = 5,
    /// They are in the same function.
    Same = 6,
    /// They are in one line of a function of a library, or were called from there: a temporary of one expression, or what
    /// generated code does for one statement. No other pairing is about as good.
    Line = 8,
}

impl Kinship {
    pub(super) const CLOSEST_FIRST: [Kinship; 7] = [
        Kinship::Line,
        Kinship::Same,
        Kinship::Nested,
        Kinship::Within,
        Kinship::Siblings,
        Kinship::Called,
        Kinship::None,
    ];

    /// The kinship, and how many frames lie between the two.
    pub(super) fn of(first: &[Frame], second: &[Frame]) -> (Kinship, usize) {
        let pairs = first.iter().rev().zip(second.iter().rev());
        let common = pairs.take_while(|(a, b)| a == b).count();
        // Inwards of the function in which they part: that of the last common frame, or where they go on from different
        // places in one function, that one.
        let (mut inner, mut other) = (&first[..first.len() - common], &second[..second.len() - common]);
        let mut parting = first.get(inner.len());
        let mut is_one_line = false;
        if let (Some((a, a_rest)), Some((b, b_rest))) = (inner.split_last(), other.split_last())
            && a.function == b.function
        {
            (inner, other, parting) = (a_rest, b_rest, Some(a));
            is_one_line = a.line != 0 && a.line == b.line;
        }
        let distance = inner.len() + other.len();
        let Some(parting) = parting else {
            return (Kinship::None, distance);
        };
        let kinship = match (parting.owner, side(inner), side(other)) {
            (_, None, None) => Kinship::Same,
            (Owner::Interpreter, Some(Owner::Interpreter), None) => Kinship::Within,
            (Owner::Interpreter, None, Some(Owner::Interpreter)) => Kinship::Within,
            (Owner::Interpreter, Some(_), None) | (Owner::Interpreter, None, Some(_)) => Kinship::Called,
            (_, Some(_), None) | (_, None, Some(_)) => Kinship::Nested,
            (_, Some(a), Some(b)) if a != b => Kinship::None,
            (Owner::Interpreter, Some(Owner::Library(_)), _) if !is_end(inner) && !is_end(other) => Kinship::None,
            (Owner::Interpreter, ..) => Kinship::Siblings,
            (Owner::Library(_), ..) => Kinship::Nested,
        };
        match kinship {
            Kinship::Same | Kinship::Nested if is_one_line && parting.owner != Owner::Interpreter => {
                (Kinship::Line, distance)
            }
            kinship => (kinship, distance),
        }
    }
}

/// For whom these frames work: the innermost library, or the interpreter. `None` without a frame.
fn side(frames: &[Frame]) -> Option<Owner> {
    let library = frames.iter().find(|frame| frame.owner != Owner::Interpreter);
    Some(library.or(frames.first())?.owner)
}

/// Whether a library is called there since an object is freed.
fn is_end(frames: &[Frame]) -> bool {
    let library = frames.iter().position(|frame| frame.owner != Owner::Interpreter);
    library.is_some_and(|at| frames[at..].iter().any(|frame| frame.frees))
}

/// The frames of the innermost library, of those that follow each other: what the interpreter did on its behalf may be
/// done elsewhere once an opcode is specialised. Without a library, the innermost frame.
fn own_frames(stack: &[Frame]) -> &[Frame] {
    let is_library = |frame: &Frame| frame.owner != Owner::Interpreter;
    let Some(begins) = stack.iter().position(is_library) else {
        return &stack[..stack.len().min(1)];
    };
    let own = &stack[begins..];
    &own[..own.iter().position(|frame| !is_library(frame)).unwrap_or(own.len())]
}

/// All places of a log.
pub(super) struct Places<'a> {
    of_change: Vec<usize>,
    stacks: Vec<&'a [Frame]>,
    /// The place that stands for all with the same [`own_frames`].
    sites: Vec<usize>,
    kinship: Vec<(Kinship, usize)>,
}

impl<'a> Places<'a> {
    pub fn of(log: &'a [Change]) -> Self {
        let (mut known, mut known_sites) = (HashMap::new(), HashMap::new());
        let (mut stacks, mut sites) = (Vec::new(), Vec::new());
        let mut of_change = Vec::new();
        for change in log {
            let stack = change.stack.as_slice();
            let place = *known.entry(stack).or_insert_with(|| {
                stacks.push(stack);
                sites.push(*known_sites.entry(own_frames(stack)).or_insert(stacks.len() - 1));
                stacks.len() - 1
            });
            of_change.push(place);
        }
        let pairs = stacks.iter().flat_map(|a| stacks.iter().map(|b| Kinship::of(a, b)));
        Places {
            kinship: pairs.collect(),
            of_change,
            stacks,
            sites,
        }
    }

    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    pub fn of_change(&self, change: usize) -> usize {
        self.of_change[change]
    }

    pub fn site(&self, place: usize) -> usize {
        self.sites[place]
    }

    pub fn of_site(&self, site: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(move |place| self.sites[*place] == site)
    }

    pub fn has_library(&self, place: usize) -> bool {
        self.stacks[place].iter().any(|frame| frame.owner != Owner::Interpreter)
    }

    pub fn kinship(&self, first: usize, second: usize) -> Kinship {
        self.kinship[first * self.len() + second].0
    }

    pub fn distance(&self, first: usize, second: usize) -> usize {
        self.kinship[first * self.len() + second].1
    }
}
