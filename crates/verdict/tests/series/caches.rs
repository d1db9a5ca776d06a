//! What fills up: caches, tables, dicts, and leaks beside them. With slow calls, too, where growth is judged earlier.

use std::time::Duration;

use leaktight_verdict::{Reason, Rules, Verdict};

use crate::program::{Program, judge, judge_timed};

/// A call of two tenths of a millisecond, after which growth is judged at 16,384 calls.
const SLOW: Duration = Duration::from_micros(200);

fn verdict_when_slow(seed: u64, call: impl FnMut(u32, &mut Program)) -> (Verdict, u32) {
    let (outcome, calls) = judge_timed(Rules::default(), SLOW, seed, call);
    (outcome.verdict, calls)
}

#[test]
fn a_cache_that_is_full_by_then_is_never_called_a_leak() {
    let cache = |entries: usize, every: u32| {
        move |call: u32, program: &mut Program| {
            if program.blocks.len() < entries && call.is_multiple_of(every) {
                program.keep(call, 0, 48);
            }
        }
    };
    for (entries, every) in [(4096, 1), (10_000, 1), (15_000, 1), (1000, 10)] {
        let (verdict, calls) = verdict_when_slow(1, cache(entries, every));
        assert_eq!((verdict, calls), (Verdict::Bounded, 32_768), "{entries}");
    }
    let (outcome, _) = judge(Rules::default(), 1, cache(20_000, 1));
    assert_eq!(outcome.verdict, Verdict::Bounded, "{outcome:?}");
    let (outcome, _) = judge(Rules::default(), 1, cache(40_000, 1));
    assert_ne!(outcome.verdict, Verdict::Leak, "{outcome:?}");
    // One that is full only afterwards looks the same as a leak.
    assert_eq!(verdict_when_slow(1, cache(17_000, 1)), (Verdict::Leak, 16_384));
}

/// Each call puts an entry into a dict and, once there are so many, takes the oldest one out (`functools.lru_cache`). The
/// dict becomes larger when its table has no entry that was never used (Objects/dictobject.c), and so for the last time long
/// after it was full.
fn least_recently_used(most: usize, entry_bytes: u64) -> impl FnMut(u32, &mut Program) {
    let usable = |slots: u64| slots * 2 / 3;
    let bytes = move |slots: u64| slots * if slots <= 1 << 16 { 2 } else { 4 } + usable(slots) * 24;
    let (mut slots, mut used) = (8u64, 0u64);
    move |call, program| {
        let live = program.blocks.len().saturating_sub(1);
        if call == 1 {
            program.keep(0, 1, bytes(slots));
        }
        if live < most {
            program.keep(call, 0, entry_bytes);
        } else {
            program.blocks[1 + call as usize % most].birth = call;
        }
        used += 1;
        if used > usable(slots) {
            used = program.blocks.len() as u64 - 1;
            slots = (used * 3).next_power_of_two();
            (program.blocks[0].bytes, program.blocks[0].birth) = (bytes(slots), call);
        }
    }
}

#[test]
fn a_dict_that_is_enlarged_once_more_after_it_is_full_is_no_leak() {
    let mut wrong = Vec::new();
    for most in (1000..16_000).step_by(250) {
        for entry_bytes in [62, 190, 1000] {
            let cache = || least_recently_used(most, entry_bytes);
            let slow = verdict_when_slow(1, cache());
            let (outcome, calls) = judge(Rules::default(), 1, cache());
            for (verdict, calls) in [slow, (outcome.verdict, calls)] {
                if verdict == Verdict::Leak {
                    wrong.push((most, entry_bytes, calls));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "entries, bytes of each, and calls: {wrong:?}");
}

/// Each call puts an entry into a slot at random, in place of the one that is there.
fn table(slots: u64) -> impl FnMut(u32, &mut Program) {
    let mut at: Vec<Option<usize>> = vec![None; slots as usize];
    move |call, program| {
        let slot = program.random(slots) as usize;
        match at[slot] {
            Some(place) => program.blocks[place].birth = call,
            None => {
                at[slot] = Some(program.blocks.len());
                program.keep(call, 0, 62);
            }
        }
    }
}

#[test]
fn a_table_of_random_slots_slows_down_long_before_it_is_full() {
    for seed in 1..=2 {
        for slots in [1000, 16_384, 65_536] {
            let (verdict, _) = verdict_when_slow(seed, table(slots));
            assert_ne!(verdict, Verdict::Leak, "{slots} slots");
            let (outcome, _) = judge(Rules::default(), seed, table(slots));
            assert_ne!(outcome.verdict, Verdict::Leak, "{slots} slots: {outcome:?}");
        }
    }
    let (outcome, _) = judge(Rules::default(), 1, table(16_384));
    assert!(matches!(outcome.reason, Reason::Slows(_)), "{outcome:?}");
    // One that is full, but for a few slots, does not grow by its last entries.
    for (slots, max_calls) in [(4096, 65_536), (4096, 65_535), (1000, 16_384), (1000, 20_000)] {
        for seed in 1..=3 {
            let (outcome, _) = judge(Rules::of(None, Some(max_calls)), seed, table(slots));
            let fine = matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded);
            assert!(fine, "{slots} slots, {max_calls} calls: {outcome:?}");
        }
    }
    // Nobody can tell from 16,384 calls whether a table of a hundred times as many slots will be full.
    assert_eq!(verdict_when_slow(1, table(1_638_400)), (Verdict::Leak, 16_384));
}

#[test]
fn growth_at_random_does_not_slow_down() {
    for seed in 1..=20 {
        for one_in in [2, 7, 50] {
            let (verdict, _) = verdict_when_slow(seed, |call, program| {
                if program.random(one_in) == 0 {
                    program.keep(call, 0, 48);
                }
            });
            assert_eq!(verdict, Verdict::Leak, "one in {one_in}, seed {seed}");
        }
    }
}

#[test]
fn a_leak_among_entries_of_the_same_place_is_found() {
    // Each call leaves a block, and puts another one into an LRU of 200.
    let mut young = std::collections::VecDeque::new();
    let (verdict, _) = verdict_when_slow(1, |call, program| {
        program.keep(call, 0, 48);
        young.push_back(program.blocks.len());
        program.keep(call, 0, 48);
        if young.len() > 200 {
            // The oldest entry's block is taken for the new one.
            let oldest = young.pop_front().unwrap();
            let newest = program.blocks.pop().unwrap();
            program.blocks[oldest] = newest;
            *young.back_mut().unwrap() = oldest;
        }
    });
    assert_eq!(verdict, Verdict::Leak);
}
