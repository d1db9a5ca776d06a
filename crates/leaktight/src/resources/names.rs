//! Names of files, folders, sockets, shared memory and the like in folders for temporary files: those that the hooks
//! saw the calls make, and all others that appeared meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use leaktight_hooks::Mark;

use super::Thing;
use super::folders::Folders;

/// Follows names from look to look.
#[derive(Default)]
pub(super) struct Names {
    /// Who made them last, as far as it was seen.
    marks: HashMap<PathBuf, Mark>,
    folders: Option<Folders>,
    /// Every name met so far, with a number that stays.
    numbers: HashMap<PathBuf, u32>,
    paths: Vec<PathBuf>,
}

impl Names {
    /// What is there now was there before; from here on the folders are compared, too.
    pub(super) fn follow_folders(&mut self) {
        let seen: BTreeSet<PathBuf> = self
            .marks
            .keys()
            .filter_map(|path| path.parent())
            .map(Path::to_owned)
            .collect();
        self.folders = Some(Folders::now(seen.into_iter()));
    }

    /// Looks for names that came and went in the folders.
    pub(super) fn compare_folders(&mut self) {
        self.folders.iter_mut().for_each(Folders::look);
    }

    /// Notes a name that a call made.
    pub(super) fn made(&mut self, path: &[u8], mark: Mark) {
        self.marks
            .insert(without_links(Path::new(OsStr::from_bytes(path))), mark);
    }

    /// The names that exist, and whose they are; those that nobody saw being made as of the last comparison.
    pub(super) fn now(&mut self) -> BTreeMap<Thing, Option<Mark>> {
        self.marks.retain(|path, _| exists(path));
        let mut all: Vec<(PathBuf, Option<Mark>)> = self
            .marks
            .iter()
            .map(|(path, mark)| (path.clone(), Some(*mark)))
            .collect();
        let unseen = self.folders.iter().flat_map(Folders::new_names);
        all.extend(
            unseen
                .filter(|path| !self.marks.contains_key(path))
                .map(|path| (path, None)),
        );
        all.into_iter().map(|(path, mark)| (self.thing(path), mark)).collect()
    }

    pub(super) fn path(&self, number: u32) -> &Path {
        &self.paths[number as usize]
    }

    /// The number of the folder that the name is in.
    pub(super) fn folder_of(&self, number: u32) -> u32 {
        let folder = self.path(number).parent();
        folder
            .and_then(|folder| self.numbers.get(folder))
            .copied()
            .unwrap_or(number)
    }

    fn thing(&mut self, path: PathBuf) -> Thing {
        let in_memory = path.starts_with("/dev/shm") || path.starts_with("/dev/mqueue");
        if let Some(folder) = path.parent() {
            self.number(folder.to_owned());
        }
        let number = self.number(path);
        match in_memory {
            true => Thing::Shared(number),
            false => Thing::File(number),
        }
    }

    fn number(&mut self, path: PathBuf) -> u32 {
        *self.numbers.entry(path).or_insert_with_key(|path| {
            self.paths.push(path.clone());
            self.paths.len() as u32 - 1
        })
    }
}

/// The path as the folder is listed under.
fn without_links(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn exists(path: &Path) -> bool {
    if fs::symlink_metadata(path).is_ok() {
        return true;
    }
    // The folder of message queues need not be mounted.
    path.strip_prefix("/dev/mqueue").is_ok_and(has_queue)
}

fn has_queue(name: &Path) -> bool {
    let mut text = b"/".to_vec();
    text.extend(name.as_os_str().as_bytes());
    let Ok(text) = CString::new(text) else {
        return false;
    };
    // SAFETY: a string that ends in NUL; without O_CREAT it makes nothing, and what it opened is closed.
    unsafe {
        let queue = libc::mq_open(text.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK);
        match queue {
            -1 => *libc::__errno_location() == libc::EACCES,
            queue => libc::close(queue) == 0,
        }
    }
}
