//! Whose stack an address lies on.

use crate::maps::mapping_around;

/// The thread, by the kernel's number for it, on whose stack the address lies, above its stack pointer; of a thread that
/// runs at this moment nothing is known.
///
/// The kernel tells the stack pointers of threads that wait (proc(5), `/proc/pid/task/tid/syscall`).
pub fn thread_with_stack(address: usize) -> Option<i32> {
    let (start, end) = mapping_around(address)?;
    let is_here = |stack_pointer: usize| (start..end).contains(&stack_pointer) && stack_pointer <= address;
    let here = 0u8;
    // SAFETY: asks for a number.
    let own = unsafe { libc::gettid() };
    if is_here(&raw const here as usize) {
        return Some(own);
    }
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let numbers = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|number| *number != own).find(|number| {
        let waits = std::fs::read_to_string(format!("/proc/self/task/{number}/syscall"));
        waits.is_ok_and(|waits| stack_pointer(&waits).is_some_and(is_here))
    })
}

/// The last word but one: the stack pointer, before the program counter.
fn stack_pointer(syscall: &str) -> Option<usize> {
    let word = syscall.split_ascii_whitespace().rev().nth(1)?;
    usize::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn each_thread_has_its_own_stack_and_the_heap_is_none() {
        let here = 0u64;
        // SAFETY: asks for a number.
        let own = unsafe { libc::gettid() };
        assert_eq!(thread_with_stack(&raw const here as usize), Some(own));
        let heap = Box::new(0u64);
        assert_eq!(thread_with_stack(&raw const *heap as usize), None);

        let (tell, told) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let there = std::hint::black_box(0u64);
            // SAFETY: asks for a number.
            tell.send((unsafe { libc::gettid() }, &raw const there as usize))
                .unwrap();
            wait.recv().unwrap();
        });
        let (number, address) = told.recv().unwrap();
        // It may be on its way to sleep.
        let found = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            thread_with_stack(address)
        });
        assert_eq!(found.take(1000).flatten().next(), Some(number));
        go_on.send(()).unwrap();
        other.join().unwrap();
    }

    #[test]
    fn the_stack_pointer_of_a_thread_that_waits_is_read_and_of_one_that_runs_there_is_none() {
        let waits = "202 0x7f0 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd0010 0x7f11\n";
        assert_eq!(stack_pointer(waits), Some(0x7ffd_0010));
        assert_eq!(stack_pointer("-1 0x7ffd0010 0x7f11\n"), Some(0x7ffd_0010));
        assert_eq!(stack_pointer("running\n"), None);
    }
}
