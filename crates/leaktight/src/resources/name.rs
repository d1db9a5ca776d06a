//! What a descriptor, thread, child process or file is called.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use leaktight_hooks as hooks;
use socket2::{Domain, SockAddr, SockRef, Type};

use super::Thing;
use super::names::Names;
use crate::subject::Subject;

/// So many names are enough to know what it is about.
const MOST: usize = 3;

/// Names of some things, and the runtime's type that they all have.
pub(super) struct Examples {
    pub names: Vec<String>,
    pub type_name: Option<String>,
}

/// The youngest are asked for: the oldest may be of the warm-up. The very youngest comes last: a process may bear its
/// maker's name still.
pub(super) fn examples(
    things: impl DoubleEndedIterator<Item = Thing>,
    names: &Names,
    subject: &mut impl Subject,
) -> Examples {
    let youngest: Vec<Thing> = things.rev().take(MOST).collect();
    let named: Vec<(String, Option<String>)> = youngest
        .into_iter()
        .rev()
        .filter_map(|thing| name(thing, names, subject))
        .collect();
    let type_name = named.first().and_then(|(_, type_name)| type_name.clone());
    Examples {
        type_name: type_name.filter(|one| named.iter().all(|(_, other)| other.as_ref() == Some(one))),
        names: named.into_iter().map(|(name, _)| name).collect(),
    }
}

/// Adds names that are not there yet, as long as there are few.
pub(super) fn add(names: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if names.len() < MOST && !names.contains(&name) {
            names.push(name);
        }
    }
}

fn name(thing: Thing, names: &Names, subject: &mut impl Subject) -> Option<(String, Option<String>)> {
    match thing {
        Thing::Descriptor(number) => Some((descriptor(number)?, None)),
        Thing::Thread(number) => Some(thread(number, subject)),
        Thing::Child(number) => Some((child(number), None)),
        Thing::File(_) | Thing::Shared(_) | Thing::SystemV(_) => Some((of_name(thing, names)?, None)),
        Thing::Garbage(at) => subject.uncollectable_name(at as usize),
    }
}

fn descriptor(number: i32) -> Option<String> {
    let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let target = target.to_string_lossy().into_owned();
    Some(match target.split_once(':') {
        Some(("socket", _)) => socket(number).unwrap_or(target),
        Some(("pipe", _)) => "a pipe".to_owned(),
        Some(("anon_inode", kind)) => kind.trim_matches(['[', ']']).to_owned(),
        _ => target,
    })
}

/// `TCP socket 127.0.0.1:4000, listening`, `TCP socket 127.0.0.1:4000 to 127.0.0.1:80`.
fn socket(number: i32) -> Option<String> {
    // SAFETY: just seen open; it is only asked, and not kept.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = SockRef::from(&descriptor);
    let local = socket.local_addr().ok()?;
    let kind = match (local.domain(), socket.r#type().ok()?) {
        (Domain::UNIX, _) => "Unix",
        (Domain::IPV4 | Domain::IPV6, Type::STREAM) => "TCP",
        (Domain::IPV4 | Domain::IPV6, Type::DGRAM) => "UDP",
        _ => return Some("a socket".to_owned()),
    };
    let mut name = format!("{kind} socket");
    if let Some(address) = address(&local) {
        name = format!("{name} {address}");
    }
    if let Some(peer) = socket.peer_addr().ok().as_ref().and_then(address) {
        name = format!("{name} to {peer}");
    }
    match socket.is_listener() {
        Ok(true) => Some(format!("{name}, listening")),
        _ => Some(name),
    }
}

fn address(address: &SockAddr) -> Option<String> {
    if let Some(address) = address.as_socket() {
        return Some(address.to_string()).filter(|_| address.port() != 0);
    }
    address.as_pathname().map(|path| path.display().to_string())
}

fn thread(number: i32, subject: &mut impl Subject) -> (String, Option<String>) {
    let started = hooks::started_threads();
    let started = started.iter().find(|thread| thread.number == number);
    if started.is_some_and(|thread| thread.ended) {
        return ("ended, never joined".to_owned(), None);
    }
    if let Some((name, type_name)) = subject.thread(number) {
        return (name, Some(type_name));
    }
    let name = fs::read_to_string(format!("/proc/self/task/{number}/comm")).unwrap_or_default();
    (format!("native thread `{}`, running", name.trim_end()), None)
}

fn child(number: i32) -> String {
    // `7 (command) Z …`; the command may hold parentheses itself (proc(5)).
    let status = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    let (command, rest) = status.rsplit_once(") ").unwrap_or_default();
    let command = command.split_once(" (").map_or("", |(_, command)| command);
    let state = match rest.chars().next() {
        Some('Z') => "ended, never waited for",
        _ => "running",
    };
    format!("`{command}`, {state}")
}

/// What is made by name, or by a key.
pub(super) fn of_name(thing: Thing, names: &Names) -> Option<String> {
    match thing {
        Thing::File(number) => Some(names.path(number).display().to_string()),
        Thing::Shared(number) => Some(shared(names.path(number))),
        Thing::SystemV(object) => Some(object.name()),
        _ => None,
    }
}

fn shared(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let kind = match path.parent().and_then(Path::to_str) {
        Some("/dev/mqueue") => "message queue",
        Some("/dev/shm") if name.starts_with(b"sem.") => "semaphore",
        _ => "shared memory",
    };
    format!("{kind} {}", path.display())
}
