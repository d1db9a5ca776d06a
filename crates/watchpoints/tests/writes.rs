//! What is noted, by either way. A machine on which a way does not work fails here, with the reason.

mod common;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use common::{WAYS, by, eight, four, on_own_thread, one};
use leaktight_watchpoints::{Interrupted, Options, Refusal, Watch, Way, Width, Word, Write, watched};

#[test]
fn every_write_is_noted_with_its_values_and_in_order() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let (before, word, after) = (AtomicU64::new(0), AtomicU64::new(5), AtomicU64::new(0));
            let (told, log) = watched(&[eight(&word)], &by(way), |watch| {
                word.fetch_add(1, Ordering::SeqCst);
                before.store(1, Ordering::SeqCst);
                watch.mark(7);
                word.store(6, Ordering::SeqCst);
                word.store(u64::MAX, Ordering::SeqCst);
                after.store(1, Ordering::SeqCst);
                word.fetch_sub(3, Ordering::SeqCst);
                (watch.way(), watch.len())
            })
            .unwrap();
            word.store(0, Ordering::SeqCst);
            assert_eq!(told, (way, 4));
            let write = |mark, before, after| Write {
                word: 0,
                mark,
                before,
                after,
                stack: 0,
            };
            let expected = [
                write(0, 5, 6),
                write(7, 6, 6),
                write(7, 6, u64::MAX),
                write(7, u64::MAX, u64::MAX - 3),
            ];
            assert_eq!(log.writes(), expected, "{way:?}");
            assert_eq!(
                log.writes().iter().map(Write::change).collect::<Vec<_>>(),
                [1, 0, -7, -3]
            );
            assert!(log.is_complete(), "{log:?}");
        });
    }
}

#[test]
fn another_word_can_be_watched_from_then_on() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let words = [0, 0, 0].map(AtomicU64::new);
            let all = || {
                for word in &words {
                    word.fetch_add(1, Ordering::SeqCst);
                }
            };
            let ((), log) = watched(&[eight(&words[0]), eight(&words[1])], &by(way), |watch| {
                all();
                watch.aim(1, eight(&words[2])).unwrap();
                all();
                assert!(
                    watch
                        .aim(
                            0,
                            Word {
                                address: 8,
                                width: Width::Eight
                            }
                        )
                        .is_err()
                );
                all();
            })
            .unwrap();
            all();
            let seen: Vec<_> = log
                .writes()
                .iter()
                .map(|write| (write.word, write.before, write.after))
                .collect();
            assert_eq!(
                seen,
                [(0, 0, 1), (1, 0, 1), (0, 1, 2), (1, 1, 2), (0, 2, 3), (1, 2, 3)],
                "{way:?}"
            );
            assert!(log.is_complete(), "{log:?}");
        });
    }
}

#[test]
fn a_word_of_four_bytes_ends_there() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            #[repr(align(8))]
            struct Pair([AtomicU32; 2]);
            let Pair([low, high]) = &Pair([1, 1].map(AtomicU32::new));
            for (word, other) in [(low, high), (high, low)] {
                let (_, log) = watched(&[four(word)], &by(way), |_| {
                    other.store(9, Ordering::SeqCst);
                    word.store(0xffff_ffff, Ordering::SeqCst);
                })
                .unwrap();
                let values = log.writes().iter().map(|write| write.after).collect::<Vec<_>>();
                assert_eq!(values, [0xffff_ffff], "{way:?}");
            }
        });
    }
}

#[test]
fn four_words_are_told_apart_and_a_fifth_is_refused() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let all = [10, 20, 30, 40, 50].map(AtomicU64::new);
            let words = all.each_ref().map(eight);
            let (_, log) = watched(&words[..4], &by(way), |_| {
                for at in [2, 0, 3, 1, 4, 3, 2] {
                    all[at].fetch_add(1, Ordering::SeqCst);
                }
            })
            .unwrap();
            let told: Vec<_> = log
                .writes()
                .iter()
                .map(|write| (write.word, write.before, write.after))
                .collect();
            let expected = [
                (2, 30, 31),
                (0, 10, 11),
                (3, 40, 41),
                (1, 20, 21),
                (3, 41, 42),
                (2, 31, 32),
            ];
            assert_eq!(told, expected, "{way:?}");
            assert!(log.is_complete());
            assert!(matches!(Watch::start(&words, &by(way)), Err(Refusal::Count(5))));
            assert!(matches!(Watch::start(&[], &by(way)), Err(Refusal::Count(0))));
        });
    }
}

#[test]
fn what_other_threads_write_is_not_seen_but_in_the_next_value() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let word = AtomicU64::new(0);
            let (_, log) = watched(&[eight(&word)], &by(way), |_| {
                word.fetch_add(1, Ordering::SeqCst);
                on_own_thread(|| {
                    word.fetch_add(100, Ordering::SeqCst);
                });
                word.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap();
            let told: Vec<_> = log.writes().iter().map(|write| (write.before, write.after)).collect();
            assert_eq!(told, [(0, 1), (1, 102)], "{way:?}");
        });
    }
}

#[test]
fn many_writes_in_a_row_are_all_there() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            // Where a trap comes before the write, each takes two, and two helpers.
            let many = match way {
                _ if cfg!(target_arch = "x86_64") => 100_000,
                Way::Perf => 10_000,
                Way::Ptrace => 500,
            };
            let word = AtomicU64::new(0);
            let options = Options {
                most_writes: many as usize,
                ..by(way)
            };
            let started = std::time::Instant::now();
            let (_, log) = watched(&[eight(&word)], &options, |_| {
                for _ in 0..many {
                    word.fetch_add(1, Ordering::Relaxed);
                }
            })
            .unwrap();
            eprintln!("{way:?}: {:?} a write", started.elapsed() / many as u32);
            assert!(log.is_complete(), "{way:?}: {} missed", log.missed);
            assert!(
                log.writes()
                    .iter()
                    .zip(1..)
                    .all(|(write, at)| (write.before, write.after) == (at - 1, at))
            );
            assert_eq!(log.writes().len() as u64, many);
        });
    }
}

#[test]
fn what_there_is_no_room_for_is_counted_and_in_the_end_ends_it() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let word = AtomicU64::new(0);
            let options = Options {
                most_writes: 10,
                stop_after_dropping: 20,
                ..by(way)
            };
            let write = |times: u64| {
                let (_, log) = watched(&[eight(&word)], &options, |_| {
                    for _ in 0..times {
                        word.fetch_add(1, Ordering::SeqCst);
                    }
                })
                .unwrap();
                (log.writes().len(), log.dropped, log.missed, log.stopped_early)
            };
            assert_eq!(write(10), (10, 0, 0, false), "{way:?}");
            assert_eq!(write(30), (10, 20, 0, false), "{way:?}");
            assert_eq!(write(1000), (10, 21, 0, true), "{way:?}");
        });
    }
}

static WATCHED: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

#[inline(never)]
fn writes_once() {
    // Not in one, for which a function of the compiler's may be called.
    WATCHED.store(WATCHED.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
}

#[test]
fn the_stack_is_what_the_capture_returns_and_its_own_writes_are_not_noted() {
    let _one = one();
    fn capture(interrupted: &Interrupted<'_>) -> u32 {
        SEEN[0].store(interrupted.program_counter(), Ordering::SeqCst);
        SEEN[1].store(interrupted.stack_pointer(), Ordering::SeqCst);
        SEEN[2].store(interrupted.frame_pointer(), Ordering::SeqCst);
        WATCHED.fetch_add(10, Ordering::SeqCst);
        // SAFETY: spoils what the handler must put back.
        unsafe { *libc::__errno_location() = libc::EXDEV };
        42
    }
    for way in WAYS {
        on_own_thread(|| {
            WATCHED.store(0, Ordering::SeqCst);
            let options = Options {
                capture: Some(capture),
                ..by(way)
            };
            let here = 0;
            let (errno, log) = watched(&[eight(&WATCHED)], &options, |_| {
                // SAFETY: the thread's own.
                unsafe { *libc::__errno_location() = libc::ENOTTY };
                writes_once();
                writes_once();
                // SAFETY: as above.
                unsafe { *libc::__errno_location() }
            })
            .unwrap();
            assert_eq!(errno, libc::ENOTTY);
            let told: Vec<_> = log
                .writes()
                .iter()
                .map(|write| (write.before, write.after, write.stack))
                .collect();
            assert_eq!(told, [(0, 1, 42), (11, 12, 42)], "{way:?}");
            assert!(log.is_complete(), "{log:?}");
            let function = writes_once as *const () as usize;
            let counter = SEEN[0].load(Ordering::SeqCst);
            assert!(
                (function + 1..function + 64).contains(&counter),
                "{counter:#x} in {function:#x}"
            );
            let here = &raw const here as usize;
            assert!(here.abs_diff(SEEN[1].load(Ordering::SeqCst)) < 1 << 14);
        });
    }
}

#[test]
fn one_instruction_that_writes_two_words_is_not_taken_for_complete_by_perf() {
    let _one = one();
    #[repr(align(16))]
    struct Pair([AtomicU64; 2]);
    for way in WAYS {
        on_own_thread(|| {
            let pair = Pair([1, 2].map(AtomicU64::new));
            let words = pair.0.each_ref().map(eight);
            let (_, log) = watched(&words, &by(way), |_| {
                // SAFETY: stores 16 zero bytes to 16 aligned bytes.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    std::arch::asm!("xorps xmm0, xmm0", "movaps [{}], xmm0", in(reg) &pair, out("xmm0") _);
                }
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                unsafe {
                    std::arch::asm!("stp xzr, xzr, [{}]", in(reg) &pair);
                }
            })
            .unwrap();
            assert_eq!(log.writes().len() as u64 + log.missed, 2, "{way:?}: {log:?}");
        });
    }
}

#[test]
fn without_a_value_that_changed_ptrace_does_not_know_which_of_two() {
    let _one = one();
    on_own_thread(|| {
        let all = [1, 2].map(AtomicU64::new);
        let write = || {
            all.iter()
                .for_each(|word| word.store(word.load(Ordering::SeqCst), Ordering::SeqCst))
        };
        let (_, log) = watched(&all.each_ref().map(eight), &by(Way::Perf), |_| write()).unwrap();
        assert_eq!((log.writes().len(), log.is_complete()), (2, true));
        let (_, log) = watched(&all.each_ref().map(eight), &by(Way::Ptrace), |_| write()).unwrap();
        assert_eq!((log.writes().len(), log.unknown, log.is_complete()), (0, 2, false));
    });
}

#[test]
fn an_address_is_that_of_a_word() {
    let word = AtomicU64::new(0);
    let refused = |address, width| matches!(Watch::start(&[Word { address, width }], &Options::default()), Err(Refusal::Address(at)) if at == address);
    let start = word.as_ptr() as usize;
    assert!(refused(0, Width::Eight) && refused(start + 4, Width::Eight) && refused(start + 2, Width::Four));
}

#[test]
fn memory_that_is_unmapped_meanwhile_does_no_harm() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            const BYTES: usize = 1 << 16;
            let word = AtomicU64::new(0);
            let map = || {
                let (access, flags) = (
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                );
                // SAFETY: a new mapping.
                unsafe { libc::mmap(std::ptr::null_mut(), BYTES, access, flags, -1, 0) }
            };
            let gone = map();
            let gone_word = Word {
                address: gone as usize,
                width: Width::Eight,
            };
            let (_, log) = watched(&[eight(&word), gone_word], &by(way), |_| {
                // SAFETY: written to, then unmapped, and not used after that.
                unsafe {
                    gone.cast::<u64>().write_volatile(3);
                    libc::munmap(gone, BYTES);
                }
                word.store(1, Ordering::SeqCst);
            })
            .unwrap();
            let told: Vec<_> = log.writes().iter().map(|write| (write.word, write.after)).collect();
            assert_eq!(told, [(1, 3), (0, 1)], "{way:?}");
        });
    }
}
