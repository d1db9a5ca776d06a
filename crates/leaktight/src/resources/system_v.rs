//! Objects of System V: shared memory, semaphores and message queues (svipc(7)).

use std::collections::BTreeMap;
use std::fs;

use leaktight_hooks::Made;

/// One object, for as long as it exists. Its number is not given out again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Object {
    SharedMemory(i32),
    Semaphores(i32),
    Queue(i32),
}

impl Object {
    pub(super) fn of(made: Made) -> Option<Object> {
        match made {
            Made::SharedMemory(number) => Some(Object::SharedMemory(number)),
            Made::Semaphores(number) => Some(Object::Semaphores(number)),
            Made::Queue(number) => Some(Object::Queue(number)),
            Made::Name | Made::Child(_) => None,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Object::SharedMemory(number) => format!("System V shared memory {number}"),
            Object::Semaphores(number) => format!("System V semaphores {number}"),
            Object::Queue(number) => format!("System V message queue {number}"),
        }
    }
}

/// Those of this user, and whether this very process made them, where the system says so.
pub(super) fn objects() -> BTreeMap<Object, bool> {
    let mut all = BTreeMap::new();
    for (kind, object) in [
        ("shm", Object::SharedMemory as fn(i32) -> Object),
        ("sem", Object::Semaphores),
        ("msg", Object::Queue),
    ] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        all.extend(parse(&table).into_iter().map(|(number, own)| (object(number), own)));
    }
    all
}

/// The lines of this user in a table with a head (proc(5)): the number of each object, and whether this process made it.
fn parse(table: &str) -> Vec<(i32, bool)> {
    // SAFETY: both only ask.
    let (user, process) = unsafe { (libc::geteuid().to_string(), libc::getpid().to_string()) };
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|other| *other == name);
    let (Some(number), Some(creator)) = (head.iter().position(|name| name.ends_with("id")), column("cuid")) else {
        return Vec::new();
    };
    let parse = |line: Vec<&str>| {
        let own = column("cpid").is_some_and(|at| line.get(at) == Some(&process.as_str()));
        let mine = line.get(creator) == Some(&user.as_str());
        line.get(number)?
            .parse()
            .ok()
            .filter(|_| mine)
            .map(|number| (number, own))
    };
    lines.filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_its_head() {
        let user = this_user();
        let process = std::process::id();
        let table = format!(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid\n\
             0          7  1600                  4096 {process}   1      0 {user} 0 {user} 0\n\
             0          8  1600                  4096     1       1      0 {user} 0 {user} 0\n\
             0          9  1600                  4096     1       1      0  4242 0  4242 0\n"
        );
        assert_eq!(parse(&table), [(7, true), (8, false)]);
        assert_eq!(parse(""), []);
        assert_eq!(parse("key\n1\n"), []);
    }

    fn this_user() -> u32 {
        // SAFETY: only asks.
        unsafe { libc::geteuid() }
    }

    proptest::proptest! {
        #[test]
        fn any_table_is_read_or_refused(table: String) {
            let _ = parse(&table);
        }
    }
}
