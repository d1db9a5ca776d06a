//! Detours: made, put in, taken out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::near::Page;
use crate::others;
use crate::x86_64;

/// A function by its place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its first byte.
    pub start: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// Why a function cannot be detoured.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// Not on this processor.
    Processor,
    /// Its first instructions cannot be moved.
    Shape(&'static str),
    /// Its first instructions are no longer those that were looked at.
    Changed,
    /// The system gives no memory for code, or does not let code be changed.
    System(std::io::Error),
    /// A running thread did not come out of the way in time.
    Threads,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Processor => f.write_str("this processor is not supported"),
            Refusal::Shape(why) => write!(f, "its first instructions cannot be moved: {why}"),
            Refusal::Changed => f.write_str("somebody else has changed its first instructions"),
            Refusal::System(why) => write!(f, "the system does not let code be changed: {why}"),
            Refusal::Threads => f.write_str("another thread could not be stopped"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The jump that is put in.
pub(crate) const JUMP: usize = 5;

/// A hook that can be put in front of a function, and taken out again, any number of times.
#[derive(Clone, Copy, Debug)]
pub struct Detour {
    /// The aligned word that the entry lies in.
    word: usize,
    entry: usize,
    original: u64,
    patched: u64,
    trampoline: usize,
}

impl Detour {
    /// Calls the original, with the hook in place or not.
    pub fn original(&self) -> usize {
        self.trampoline
    }

    /// Where the function starts.
    pub fn entry(&self) -> usize {
        self.entry
    }

    fn current(&self) -> &AtomicU64 {
        // SAFETY: an aligned word of loaded code, which whoever prepared the detour promised to keep loaded.
        unsafe { &*(self.word as *const AtomicU64) }
    }

    /// Whether the function is as it was looked at, without the hook.
    pub fn is_out(&self) -> bool {
        self.current().load(Ordering::Relaxed) == self.original
    }
}

/// Makes a detour to each hook, and puts none of them in.
///
/// # Safety
///
/// Each function is code that stays loaded for as long as its detour is used, and each hook takes and returns what its
/// function does.
pub unsafe fn prepare(wanted: &[(Function, usize)]) -> Vec<Result<Detour, Refusal>> {
    if !cfg!(target_arch = "x86_64") {
        return wanted.iter().map(|_| Err(Refusal::Processor)).collect();
    }
    let mut page: Option<Page> = None;
    let mut make = |function: Function, hook: usize| {
        if !page.as_ref().is_some_and(|page| page.serves(function.start)) {
            if let Some(full) = page.take() {
                full.seal()?;
            }
            page = Some(Page::near(function.start)?);
        }
        let Some(page) = &mut page else {
            return Err(Refusal::Processor);
        };
        detour(function, hook, page)
    };
    let mut made: Vec<_> = wanted.iter().map(|(function, hook)| make(*function, *hook)).collect();
    if let Some(Err(why)) = page.map(Page::seal) {
        made = vec![Err(why)];
        made.extend(wanted[1..].iter().map(|_| Err(Refusal::Processor)));
    }
    made
}

fn detour(function: Function, hook: usize, page: &mut Page) -> Result<Detour, Refusal> {
    let word = function.start & !7;
    let at = function.start - word;
    if at + JUMP > 8 {
        return Err(Refusal::Shape("its entry is not aligned"));
    }
    let (code, gate) = x86_64::trampoline(function, page.next(), hook)?;
    let trampoline = page.put(&code)?;
    let jump = x86_64::jump(function.start, trampoline + gate).ok_or(Refusal::Shape("too far from its trampoline"))?;
    // SAFETY: code of the function, loaded and aligned.
    let original = unsafe { &*(word as *const AtomicU64) }.load(Ordering::Relaxed);
    let mut patched = original.to_ne_bytes();
    patched[at..at + JUMP].copy_from_slice(&jump);
    Ok(Detour {
        word,
        entry: function.start,
        original,
        patched: u64::from_ne_bytes(patched),
        trampoline,
    })
}

/// Puts all of these in, or none of them.
///
/// # Safety
///
/// As for [`prepare`]. The hooks may be called from now on, by any thread.
pub unsafe fn put_in(detours: &[Detour]) -> Result<(), Refusal> {
    if detours.iter().any(|detour| !detour.is_out()) {
        return Err(Refusal::Changed);
    }
    let between: Vec<(usize, usize)> = detours
        .iter()
        .map(|detour| (detour.entry + 1, detour.entry + JUMP))
        .collect();
    change(
        detours,
        |detour| detour.patched,
        |store| others::away_from(&between, store),
    )
}

/// Takes those out that are still in. Whoever is in a hook stays there until it returns.
///
/// # Safety
///
/// As for [`prepare`].
pub unsafe fn take_out(detours: &[Detour]) -> Result<(), Refusal> {
    let still_in: Vec<Detour> = detours
        .iter()
        .filter(|detour| detour.current().load(Ordering::Relaxed) == detour.patched)
        .copied()
        .collect();
    // The jump is one instruction: nobody is between.
    change(
        &still_in,
        |detour| detour.original,
        |store| {
            store();
            Ok(())
        },
    )
}

fn change(
    detours: &[Detour],
    to: impl Fn(&Detour) -> u64,
    when: impl FnOnce(&mut dyn FnMut()) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    const EXECUTED: libc::c_int = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: sysconf reads a constant of the system.
    let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut pages: Vec<usize> = detours.iter().map(|detour| detour.word & !(page_size - 1)).collect();
    pages.sort_unstable();
    pages.dedup();
    let protect = |page: usize, rights| {
        // SAFETY: a page of loaded code, which stays executable throughout.
        match unsafe { libc::mprotect(page as *mut libc::c_void, page_size, rights) } {
            0 => Ok(()),
            _ => Err(Refusal::System(std::io::Error::last_os_error())),
        }
    };
    let opened = pages
        .iter()
        .try_for_each(|page| protect(*page, EXECUTED | libc::PROT_WRITE));
    let result = opened.and_then(|()| {
        when(&mut || {
            for detour in detours {
                detour.current().store(to(detour), Ordering::SeqCst);
            }
        })
    });
    let closed = pages.iter().try_for_each(|page| protect(*page, EXECUTED));
    others::see_new_code();
    result.and(closed)
}
