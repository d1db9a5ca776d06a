//! The process as a whole: its size, and who else runs in it.

use std::fs::{self, File};
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::reading::page_size;

/// How much memory the process has (proc(5), statm), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// All that is mapped.
    pub mapped: u64,
    /// What is in memory.
    pub resident: u64,
}

/// Tells the sizes again and again, from a file that stays open.
pub struct Meter(File);

impl Meter {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// Where the system does not have it.
    pub fn open() -> Result<Meter> {
        File::open("/proc/self/statm").map(Meter)
    }

    /// The sizes now; `None` where the kernel does not tell.
    pub fn sizes(&self) -> Option<Sizes> {
        let mut text = [0; 128];
        let got = self.0.read_at(&mut text, 0).ok()?;
        Sizes::parse(std::str::from_utf8(&text[..got]).ok()?)
    }
}

impl Sizes {
    fn parse(statm: &str) -> Option<Sizes> {
        let mut pages = statm.split_ascii_whitespace().map(str::parse::<u64>);
        let mut bytes = || Some(pages.next()?.ok()?.saturating_mul(page_size() as u64));
        Some(Sizes {
            mapped: bytes()?,
            resident: bytes()?,
        })
    }
}

/// How many bytes of files are in memory (proc(5), `RssFile` of status); `None` where the kernel does not tell.
pub fn resident_of_files() -> Option<u64> {
    of_files(&fs::read_to_string("/proc/self/status").ok()?)
}

fn of_files(status: &str) -> Option<u64> {
    let told = status.lines().find_map(|line| line.strip_prefix("RssFile:"))?;
    let kibibytes: u64 = told.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

static OWN_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Runs what a thread of the tracker's does: it is no thread of the program's meanwhile.
pub fn own_thread<R>(run: impl FnOnce() -> R) -> R {
    struct Gone;
    impl Drop for Gone {
        fn drop(&mut self) {
            OWN_THREADS.fetch_sub(1, Ordering::SeqCst);
        }
    }
    OWN_THREADS.fetch_add(1, Ordering::SeqCst);
    let _gone = Gone;
    run()
}

/// Whether the program runs threads beside the calling one, or nobody says.
pub fn has_other_threads() -> bool {
    let others = fs::read_dir("/proc/self/task").map(|tasks| tasks.count().saturating_sub(1));
    others.map_or(true, |others| others > OWN_THREADS.load(Ordering::SeqCst))
}

/// Whether all threads beside the calling one wait for something other than a processor; not if nobody says.
pub fn others_sleep() -> bool {
    // SAFETY: asks for a number.
    let own = unsafe { libc::gettid() }.to_string();
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return false;
    };
    let mut others = threads.flatten().filter(|thread| *thread.file_name() != *own);
    // A thread that has ended meanwhile does nothing either.
    others.all(|thread| fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| !is_at_work(&stat)))
}

/// By the state in `/proc/pid/task/tid/stat` (proc(5)), behind the name, which may hold anything.
fn is_at_work(stat: &str) -> bool {
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    state.starts_with(['R', 'D'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_is_at_work_and_one_that_waits_is_not() {
        assert!(is_at_work("12 (a) S) R 1 2"));
        assert!(is_at_work("12 (a) D 1 2"));
        assert!(!is_at_work("12 (R) S 1 2"));
        assert!(!is_at_work("") && !is_at_work("12"));
    }

    #[test]
    fn sizes_are_read_and_garbage_is_none() {
        let page = page_size() as u64;
        let sizes = Sizes::parse("1000 300 20 5 0 400 0\n").unwrap();
        assert_eq!((sizes.mapped, sizes.resident), (1000 * page, 300 * page));
        for garbage in ["", "1000", "x 1", "1 -2"] {
            assert_eq!(Sizes::parse(garbage), None, "{garbage:?}");
        }
        let status = "Name:\tx\nRssAnon:\t 8 kB\nRssFile:\t    3164 kB\n";
        assert_eq!(of_files(status), Some(3164 << 10));
        for garbage in ["", "RssFile:", "RssFile: x kB", "RssFile: 3", "RssAnon: 8 kB"] {
            assert_eq!(of_files(garbage), None, "{garbage:?}");
        }
        let now = Meter::open().unwrap().sizes().unwrap();
        let of_files = resident_of_files().unwrap();
        assert!(of_files > 0 && of_files < now.resident, "{of_files}");
        assert!(now.resident > 0 && now.mapped > now.resident);
    }
}
