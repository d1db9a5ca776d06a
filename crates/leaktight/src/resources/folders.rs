//! What folders for temporary files hold, whoever made it: a second witness beside the marks of the hooks.
//!
//! A folder is only listed again when its time of change says that names came or went, so this costs a `stat` for
//! each.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The folders at one moment, to tell later which names came after it.
pub(super) struct Folders {
    folders: Vec<Folder>,
    /// The user whose names may be ours.
    user: u32,
}

struct Folder {
    path: PathBuf,
    /// When it had last changed when it was listed; unknown when that was so recent that a later change may bear the
    /// same time.
    changed: Option<Moment>,
    /// What was there before; `None` for a folder that has not changed for long, and was not listed.
    before: Option<HashSet<OsString>>,
    /// What came since, and whether it is this user's.
    new: HashMap<OsString, bool>,
}

/// Seconds and nanoseconds since 1970.
type Moment = (i64, i64);

/// Folders for temporary files may hold very many others: those of the upper levels, and that changed last, come
/// first.
const MOST_FOLDERS: usize = 200;
const DEEPEST: usize = 4;
/// A folder with more names than this takes too long to compare, and is left out.
const MOST_NAMES: usize = 5000;
/// A folder that has changed no longer ago than this may be one of the calls': they have been made a few times by now.
const RECENT: Duration = Duration::from_secs(60);
/// The kernel's clock for files goes in steps, which are of 10 ms at most (`CONFIG_HZ`).
const STEP: Duration = Duration::from_millis(20);

impl Folders {
    /// The folders for temporary files and those in them, as they are now. Only what is in folders that have changed
    /// lately is known, down to some depth; the others are listed when they change.
    pub(super) fn now() -> Folders {
        // SAFETY: only asks.
        let user = unsafe { libc::geteuid() };
        let recent = moment_of(SystemTime::now().checked_sub(RECENT).unwrap_or(UNIX_EPOCH));
        let mut found = Vec::new();
        let mut level: Vec<(PathBuf, Moment)> = roots().into_iter().filter_map(with_change).collect();
        for depth in 0..=DEEPEST {
            level.sort_by_key(|(_, changed)| std::cmp::Reverse(*changed));
            level.truncate(MOST_FOLDERS.saturating_sub(found.len()));
            for (path, changed) in std::mem::take(&mut level) {
                let mut folder = Folder {
                    changed: settled(changed),
                    before: None,
                    new: HashMap::new(),
                    path,
                };
                if depth == 0 || changed >= recent {
                    let (names, inner) = list(&folder.path);
                    level.extend(inner.into_iter().filter_map(with_change));
                    if names.len() > MOST_NAMES {
                        continue;
                    }
                    folder.before = Some(names.into_iter().collect());
                }
                found.push(folder);
            }
        }
        Folders { folders: found, user }
    }

    /// Looks for names that came and went.
    pub(super) fn look(&mut self) {
        let user = self.user;
        self.folders.retain_mut(|folder| {
            let Some(changed) = change_of(&folder.path) else {
                return false;
            };
            if folder.changed != Some(changed) {
                folder.list(user);
                folder.changed = settled(changed);
            }
            true
        });
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
    fn list(&mut self, user: u32) {
        let (names, _) = list(&self.path);
        let Some(before) = &self.before else {
            // It has not changed for long and was not listed. What comes from here on is new.
            self.before = Some(names.into_iter().collect());
            return;
        };
        let known = std::mem::take(&mut self.new);
        let new = names.into_iter().filter(|name| !before.contains(name));
        self.new = new
            .map(|name| {
                let own = known.get(&name).copied().unwrap_or_else(|| {
                    let file = fs::symlink_metadata(self.path.join(&name));
                    file.is_ok_and(|file| file.uid() == user)
                });
                (name, own)
            })
            .collect();
    }
}

fn roots() -> Vec<PathBuf> {
    let temporary = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"].map(PathBuf::from);
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in usual.into_iter().chain(temporary.filter(|path| path.is_absolute())) {
        if let Ok(path) = fs::canonicalize(root)
            && !roots.iter().any(|known| path.starts_with(known))
        {
            roots.push(path);
        }
    }
    roots
}

/// The names in a folder, and those of them that are folders, as paths. Empty where it cannot be read.
fn list(folder: &Path) -> (Vec<OsString>, Vec<PathBuf>) {
    let (mut names, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
        names.push(entry.file_name());
    }
    (names, folders)
}

fn with_change(path: PathBuf) -> Option<(PathBuf, Moment)> {
    change_of(&path).map(|changed| (path, changed))
}

fn change_of(folder: &Path) -> Option<Moment> {
    let folder = fs::symlink_metadata(folder).ok().filter(Metadata::is_dir)?;
    Some((folder.mtime(), folder.mtime_nsec()))
}

fn settled(changed: Moment) -> Option<Moment> {
    let long_ago = moment_of(SystemTime::now().checked_sub(STEP)?);
    (changed < long_ago).then_some(changed)
}

fn moment_of(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}
