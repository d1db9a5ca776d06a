//! What folders for temporary files hold, whoever made it: a second witness beside the marks of the hooks.
//!
//! Other programs may have filled them with anything, so everything here is bounded: a look costs a `stat` for each of
//! a few folders, and only one that has changed is listed. What lies beyond the bounds is not compared.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The folders at one moment, to tell later which names came after it.
pub(super) struct Folders {
    folders: Vec<Folder>,
    /// The user whose names may be ours.
    user: u32,
    /// So many names may still be listed.
    left: usize,
}

struct Folder {
    path: PathBuf,
    /// How far below a folder for temporary files.
    depth: usize,
    /// When it had last changed when it was listed; unknown when that was so recent that a later change may bear the
    /// same time.
    changed: Option<Moment>,
    /// What was there before.
    before: HashSet<OsString>,
    /// What came since, and whether it is this user's.
    new: HashMap<OsString, bool>,
}

/// Seconds and nanoseconds since 1970.
type Moment = (i64, i64);

/// So many folders are compared, the folders for temporary files themselves among them.
const MOST_FOLDERS: usize = 20;
/// So many are asked when they changed to choose those, and so many of one folder.
const MOST_ASKED: usize = 200;
const MOST_INNER: usize = 100;
const DEEPEST: usize = 4;
/// A folder with more names than this takes too long to compare, and is left out.
const MOST_NAMES: usize = 5000;
/// Where others go on changing a large folder, it would be listed at each look: with so many names in all it is enough.
const MOST_LISTED: usize = 100_000;
/// A folder that has changed no longer ago than this may be one of the calls': they have been made a few times by now.
const RECENT: Duration = Duration::from_secs(10);
/// The kernel's clock for files goes in steps, which are of 10 ms at most (`CONFIG_HZ`).
const STEP: Duration = Duration::from_millis(20);

impl Folders {
    /// The folders for temporary files as they are now, those that the calls were `seen` to make names in, and of the
    /// folders in them those of this user that have changed lately, down to some depth.
    pub(super) fn now(seen: impl Iterator<Item = PathBuf>) -> Folders {
        Folders::of(&roots(), seen)
    }

    fn of(roots: &[PathBuf], seen: impl Iterator<Item = PathBuf>) -> Folders {
        // SAFETY: only asks.
        let user = unsafe { libc::geteuid() };
        let recent = moment_of(SystemTime::now().checked_sub(RECENT).unwrap_or(UNIX_EPOCH));
        let mut folders = Folders {
            folders: Vec::new(),
            user,
            left: MOST_LISTED,
        };
        let is_inside = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root) && path != root);
        let mut level: Vec<PathBuf> = roots.iter().cloned().chain(seen.filter(is_inside)).collect();
        level.truncate(MOST_FOLDERS);
        let mut asked = 0;
        for depth in 0..=DEEPEST {
            level.truncate(MOST_ASKED - asked);
            asked += level.len();
            let found = level.drain(..).filter_map(|path| Some((of_folder(&path)?, path)));
            let mut found: Vec<(Metadata, PathBuf)> = found
                .filter(|(folder, _)| depth == 0 || (folder.uid() == user && change_of(folder) >= recent))
                .collect();
            found.sort_by_key(|(folder, _)| std::cmp::Reverse(change_of(folder)));
            for (_, path) in found {
                level.extend(folders.follow(path, depth, true));
            }
        }
        folders
    }

    /// Compares this folder from now on, if there is room; `was_there` says whether what it holds has been there
    /// before. Gives the folders in it, the youngest first as far as that can be told for nothing.
    fn follow(&mut self, path: PathBuf, depth: usize, was_there: bool) -> Vec<PathBuf> {
        if self.folders.len() >= MOST_FOLDERS || self.folders.iter().any(|known| known.path == path) {
            return Vec::new();
        }
        let mut folder = Folder {
            path,
            depth,
            changed: None,
            before: HashSet::new(),
            new: HashMap::new(),
        };
        let mut inner = Vec::new();
        if was_there {
            // Its time first: what changes it meanwhile is then found at the next look.
            folder.changed = of_folder(&folder.path).and_then(|now| settled(change_of(&now)));
            let Some(mut list) = list(&folder.path, &mut self.left) else {
                return Vec::new();
            };
            // Most file systems number what they make in turn.
            list.folders
                .sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
            let youngest = list.folders.iter().take(MOST_INNER);
            inner.extend(youngest.map(|(_, at)| folder.path.join(&list.names[*at])));
            folder.before = list.names.into_iter().collect();
        }
        self.folders.push(folder);
        inner
    }

    /// Looks for names that came and went.
    pub(super) fn look(&mut self) {
        let (user, left) = (self.user, &mut self.left);
        let mut made = Vec::new();
        self.folders.retain_mut(|folder| {
            let Some(changed) = of_folder(&folder.path).map(|now| change_of(&now)) else {
                return false;
            };
            if folder.changed != Some(changed) {
                folder.changed = settled(changed);
                return folder.list(user, left, &mut made);
            }
            true
        });
        for (path, depth) in made {
            self.follow(path, depth, false);
        }
    }

    /// The names of this user that came since and are there.
    pub(super) fn new_names(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.folders.iter().flat_map(|folder| {
            let own = folder.new.iter().filter(|(_, own)| **own);
            own.map(|(name, _)| folder.path.join(name))
        })
    }
}

impl Folder {
    /// Lists it anew; folders that came are `made`. Says whether it can be compared any longer.
    fn list(&mut self, user: u32, left: &mut usize, made: &mut Vec<(PathBuf, usize)>) -> bool {
        let Some(list) = list(&self.path, left) else {
            return false;
        };
        let known = std::mem::take(&mut self.new);
        for name in list.names.into_iter().filter(|name| !self.before.contains(name)) {
            let own = known.get(&name).copied().unwrap_or_else(|| {
                let path = self.path.join(&name);
                let Ok(file) = fs::symlink_metadata(&path) else {
                    return false;
                };
                if file.is_dir() && file.uid() == user && self.depth < DEEPEST {
                    made.push((path, self.depth + 1));
                }
                file.uid() == user
            });
            self.new.insert(name, own);
        }
        true
    }
}

fn roots() -> Vec<PathBuf> {
    let temporary = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"].map(PathBuf::from);
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in temporary.filter(|path| path.is_absolute()).into_iter().chain(usual) {
        if let Ok(path) = fs::canonicalize(root)
            && !roots.contains(&path)
        {
            roots.push(path);
        }
    }
    roots
}

struct List {
    names: Vec<OsString>,
    /// Those that are folders: their numbers in the file system, and places among the names.
    folders: Vec<(u64, usize)>,
}

/// What is in a folder, where it can be read; `None` if that is too much.
fn list(folder: &Path, left: &mut usize) -> Option<List> {
    let most = MOST_NAMES.min(*left);
    let (mut names, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if names.len() == most {
            return None;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push((entry.ino(), names.len()));
        }
        names.push(entry.file_name());
    }
    *left -= names.len();
    Some(List { names, folders })
}

fn of_folder(path: &Path) -> Option<Metadata> {
    #[cfg(test)]
    tests::ASKED.set(tests::ASKED.get() + 1);
    fs::symlink_metadata(path).ok().filter(Metadata::is_dir)
}

/// Programs can set the other time of change back.
fn change_of(folder: &Metadata) -> Moment {
    (folder.ctime(), folder.ctime_nsec())
}

fn settled(changed: Moment) -> Option<Moment> {
    let long_ago = moment_of(SystemTime::now().checked_sub(STEP)?);
    (changed < long_ago).then_some(changed)
}

fn moment_of(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// So many folders were asked when they changed.
        pub(super) static ASKED: Cell<usize> = const { Cell::new(0) };
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("leaktight-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn make(&self, name: &str) {
            fs::create_dir_all(self.0.join(name)).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn asked<T>(ask: impl FnOnce() -> T) -> (T, usize) {
        ASKED.set(0);
        (ask(), ASKED.get())
    }

    /// So that a time of change is no longer taken for one that may come twice.
    fn settle() {
        std::thread::sleep(2 * STEP);
    }

    #[test]
    fn a_crowded_folder_is_not_walked() {
        let scratch = Scratch::new("crowd");
        (0..600).for_each(|number| scratch.make(&format!("{number}/inner")));
        settle();
        let root = std::slice::from_ref(&scratch.0);
        let (mut folders, at_first) = asked(|| Folders::of(root, std::iter::empty()));
        // Once more each of those that are followed.
        assert!(at_first <= MOST_ASKED + MOST_FOLDERS, "{at_first}");
        assert_eq!(asked(|| folders.look()).1, MOST_FOLDERS);
        assert_eq!(folders.left, MOST_LISTED - 600 - (MOST_FOLDERS - 1));
        assert_eq!(folders.new_names().count(), 0);
        scratch.make("new");
        folders.look();
        assert_eq!(folders.new_names().collect::<Vec<_>>(), [scratch.0.join("new")]);
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let scratch = Scratch::new("many");
        (0..=MOST_NAMES).for_each(|number| fs::write(scratch.0.join(number.to_string()), "").unwrap());
        let root = std::slice::from_ref(&scratch.0);
        assert!(Folders::of(root, std::iter::empty()).folders.is_empty());
        fs::remove_file(scratch.0.join("0")).unwrap();
        let mut folders = Folders::of(root, std::iter::empty());
        assert_eq!(folders.folders.len(), 1);
        // It goes on changing, and would be listed at each look.
        for _ in 0..MOST_LISTED / MOST_NAMES {
            assert_eq!(folders.folders.len(), 1);
            fs::rename(scratch.0.join("1"), scratch.0.join("0")).unwrap();
            fs::rename(scratch.0.join("0"), scratch.0.join("1")).unwrap();
            folders.look();
        }
        assert!(folders.folders.is_empty());
    }

    #[test]
    fn names_in_folders_that_come_later_or_hold_names_of_the_calls_are_compared() {
        let scratch = Scratch::new("later");
        scratch.make("a/b/c/d/e/f");
        settle();
        let deep = scratch.0.join("a/b/c/d/e/f");
        let root = std::slice::from_ref(&scratch.0);
        let mut folders = Folders::of(root, std::iter::once(deep.clone()));
        scratch.make("new");
        folders.look();
        fs::write(scratch.0.join("new/file"), "").unwrap();
        fs::write(deep.join("file"), "").unwrap();
        folders.look();
        let mut new: Vec<_> = folders.new_names().collect();
        new.sort();
        assert_eq!(
            new,
            [deep.join("file"), scratch.0.join("new"), scratch.0.join("new/file")]
        );
    }
}
