//! mimalloc, from 2.0.7 on.
//!
//! It tells how much memory it has committed. How much of that is in use a release build does not count, so its
//! pages are visited, and there it tells a thread only of what no other thread can touch:
//!
//! | Version | `mi_heap_visit_blocks` visits |
//! |---|---|
//! | 2 | the pages of the calling thread |
//! | from 3.3 | the pages of all threads, which must not allocate meanwhile |
//!
//! The sum is the process's if no other thread uses the allocator, and if none has ended and left blocks that
//! are not visited. Otherwise there is no figure, since a smaller one would be taken for the whole. Versions 3.0
//! to 3.2 hand full pages over to nobody in particular, so there is none either.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use super::any::{Heap, Told};
use crate::functions::Functions;
use crate::{Error, HeapInfo, Statistics};

type ProcessInfo = unsafe extern "C" fn(
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
);
type Visitor = unsafe extern "C" fn(*const c_void, *const Area, *mut c_void, usize, *mut c_void) -> bool;
type Visit = unsafe extern "C" fn(*mut c_void, bool, Visitor, *mut c_void) -> bool;
type Output = unsafe extern "C" fn(*const c_char, *mut c_void);

/// One mimalloc of the process.
pub(crate) struct Mimalloc {
    process_info: ProcessInfo,
    collect: unsafe extern "C" fn(bool),
    /// This and the others may have been left out where nobody calls them.
    version: Option<unsafe extern "C" fn() -> c_int>,
    visit: Option<Visit>,
    /// Before 3.3.
    default_heap: Option<unsafe extern "C" fn() -> *mut c_void>,
    /// From 2.2 on.
    stats_get_json: Option<unsafe extern "C" fn(usize, *mut c_char) -> *mut c_char>,
    stats_print_out: Option<unsafe extern "C" fn(Output, *mut c_void)>,
}

/// `mi_heap_area_t`, what of it all versions since 2.0.7 have.
#[repr(C)]
struct Area {
    blocks: *mut c_void,
    reserved: usize,
    committed: usize,
    /// The number of blocks in use; bytes before 2.0.7.
    used: usize,
    block_size: usize,
    /// With padding.
    full_block_size: usize,
}

impl Mimalloc {
    /// # Safety
    /// As for [`super::any::find`].
    pub(crate) unsafe fn find(functions: &Functions) -> Option<Mimalloc> {
        // SAFETY: the types are those of <mimalloc.h> and <mimalloc-stats.h>; the caller answers for the rest.
        unsafe {
            Some(Mimalloc {
                process_info: functions.get(c"mi_process_info")?,
                collect: functions.get(c"mi_collect")?,
                version: functions.get(c"mi_version"),
                visit: functions.get(c"mi_heap_visit_blocks"),
                default_heap: functions.get(c"mi_heap_get_default"),
                stats_get_json: functions.get(c"mi_stats_get_json"),
                stats_print_out: functions.get(c"mi_stats_print_out"),
            })
        }
    }

    fn committed(&self) -> u64 {
        let mut committed = 0usize;
        let nothing = ptr::null_mut();
        // SAFETY: each pointer may be null; the sixth is for the bytes committed now.
        unsafe {
            (self.process_info)(
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                &raw mut committed,
                nothing,
                nothing,
            );
        }
        committed as u64
    }

    /// The blocks in use, by the sizes of their classes, or why that cannot be told.
    fn used(&self) -> Result<u64, String> {
        if self.committed() == 0 {
            return Ok(0);
        }
        let tells = self.version_number().is_some_and(|version| match self.default_heap {
            Some(_) => ((2, 0, 7)..(3, 0, 0)).contains(&version),
            None => version >= (3, 3, 0),
        });
        let Some(visit) = self.visit.filter(|_| tells) else {
            return Err("this build of mimalloc does not tell what is in use".to_owned());
        };
        // Takes in what other threads have freed, which counts as used until then.
        // SAFETY: looks at what belongs to the calling thread.
        unsafe { (self.collect)(false) };
        let heap = self.the_process_is_visited()?;
        let mut sum = 0usize;
        // SAFETY: `heap` is the calling thread's, or null for the main one while no other thread runs; `add`
        // gets the sum, which outlives the call.
        unsafe { visit(heap, false, add, (&raw mut sum).cast()) };
        Ok(sum as u64)
    }

    /// The heap to visit, if its pages are those of the whole process.
    fn the_process_is_visited(&self) -> Result<*mut c_void, String> {
        // SAFETY: takes no arguments.
        let heap = self.default_heap.map(|default| unsafe { default() });
        let complete = if let Some(json) = self.json() {
            let none = |name: &str| current(&json, name) == Some(0);
            match heap {
                // The main thread counts here.
                None => current(&json, "threads").is_some_and(|threads| threads <= 1),
                Some(_) => none("threads") && none("segments_abandoned"),
            }
        } else {
            let text = self.text().unwrap_or_default();
            let none = |name: &str| {
                let line = text.lines().find(|line| line.trim_start().starts_with(name));
                line.is_some_and(|line| line.trim_end().ends_with("ok"))
            };
            // Of the two lines on what is abandoned the first is on segments.
            none("threads:") && none("-abandoned:")
        };
        if complete {
            return Ok(heap.unwrap_or(ptr::null_mut()));
        }
        Err("mimalloc tells a thread only of its own blocks, and other threads have some".to_owned())
    }

    /// The statistics as JSON.
    fn json(&self) -> Option<String> {
        /// Some 15,000 in version 3.4; what is too long is cut off.
        const BYTES: usize = 1 << 16;
        let mut buffer = vec![0u8; BYTES];
        // SAFETY: so many bytes may be written, and the text ends in a zero.
        let text = unsafe { self.stats_get_json?(BYTES, buffer.as_mut_ptr().cast()) };
        if text.is_null() {
            return None;
        }
        let text = CStr::from_bytes_until_nul(&buffer).ok()?;
        Some(text.to_string_lossy().into_owned())
    }

    /// The statistics as a table.
    fn text(&self) -> Option<String> {
        let mut text = String::new();
        // SAFETY: `append` gets the text, which outlives the call.
        unsafe { self.stats_print_out?(append, (&raw mut text).cast()) };
        Some(text)
    }

    fn version_number(&self) -> Option<(c_int, c_int, c_int)> {
        // SAFETY: takes no arguments.
        self.version.map(|version| parts(unsafe { version() }))
    }
}

impl Heap for Mimalloc {
    fn name(&self) -> &'static str {
        "mimalloc"
    }

    fn version(&self) -> Option<String> {
        let (major, minor, patch) = self.version_number()?;
        Some(format!("{major}.{minor}.{patch}"))
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        let what = "heap_info";
        let heap_used = self.used().map_err(|why| Error::Unsupported { what, why })?;
        Ok(HeapInfo {
            heap_used,
            mmap_used: self.committed(),
        })
    }

    fn statistics(&self) -> Result<Told, Error> {
        let used = self.used();
        Ok(Told {
            statistics: Statistics {
                used: used.as_ref().ok().copied(),
                mapped: Some(self.committed()),
                // Pages that were never touched are part of what is committed.
                held_free: None,
            },
            note: used.err(),
        })
    }

    fn trim(&self) -> Result<(), Error> {
        // SAFETY: may be called from any thread; gives back what the calling one, and no other, holds.
        unsafe { (self.collect)(true) };
        Ok(())
    }
}

unsafe extern "C" fn add(
    _heap: *const c_void,
    area: *const Area,
    _block: *mut c_void,
    _size: usize,
    sum: *mut c_void,
) -> bool {
    // SAFETY: mimalloc passes an area for the time of this call, and the sum of `used`.
    let (area, sum) = unsafe { (&*area, &mut *sum.cast::<usize>()) };
    *sum += area.used * area.full_block_size;
    true
}

unsafe extern "C" fn append(part: *const c_char, text: *mut c_void) {
    // SAFETY: mimalloc passes a C string, and the text of `Mimalloc::text`.
    let (part, text) = unsafe { (CStr::from_ptr(part), &mut *text.cast::<String>()) };
    text.push_str(&part.to_string_lossy());
}

/// `"threads": { "total": 1, "peak": 1, "current": 1 }`: the last of the three.
fn current(json: &str, name: &str) -> Option<i64> {
    let (_, after) = json.split_once(&format!("\"{name}\":"))?;
    let (fields, _) = after.split_once('}')?;
    let (_, value) = fields.split_once("\"current\":")?;
    value.trim_matches([' ', ',']).parse().ok()
}

/// Until 2.2.5 a digit each, then two digits for the second and the third part (`MI_MALLOC_VERSION`).
fn parts(number: c_int) -> (c_int, c_int, c_int) {
    if number < 10_000 {
        (number / 100, number / 10 % 10, number % 10)
    } else {
        (number / 10_000, number / 100 % 100, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_version_is_read_in_both_forms() {
        assert_eq!(parts(209), (2, 0, 9));
        assert_eq!(parts(225), (2, 2, 5));
        assert_eq!(parts(20_302), (2, 3, 2));
        assert_eq!(parts(30_403), (3, 4, 3));
    }

    #[test]
    fn a_figure_is_found_in_the_statistics_and_nothing_else_is() {
        let json = r#"{ "threads": { "total": 3, "peak": 2, "current": 1 },
            "mmap_calls": 7, "pages": { "total": 1, "peak": 1, "current": -34 }, "cut": { "total": 1"#;
        assert_eq!(current(json, "threads"), Some(1));
        assert_eq!(current(json, "pages"), Some(-34));
        assert_eq!(current(json, "thread"), None);
        assert_eq!(current(json, "cut"), None);
        assert_eq!(current("", "threads"), None);
    }
}
