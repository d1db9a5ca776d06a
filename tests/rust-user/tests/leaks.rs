//! Judged side by side, on the threads of plain `cargo test`, and exactly.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use leaktight::{Certainty, Check, Report, Verdict, check};
use leaktight_rust_user::{
    forget_a_vector, give_a_string_away, keep_a_handle, leak_a_record, look_up, use_a_handle,
};

/// Blocks per call, bytes per call where known, and the innermost function.
fn assert_lost(report: &Report, blocks: f64, bytes: Option<f64>, function: &str) {
    assert_eq!(report.verdict, Verdict::Leak, "{report}");
    assert!(report.control.passed(), "{report}");
    assert_eq!(report.findings.len(), 1, "{report}");
    let finding = &report.findings[0];
    assert_eq!(finding.certainty, Certainty::Lost, "{report}");
    assert_eq!(finding.blocks_per_call, blocks, "{report}");
    assert_eq!(finding.bytes_per_call, bytes.unwrap_or(finding.bytes_per_call), "{report}");
    let top = &finding.stack[0];
    let name = top.function.as_deref().unwrap_or("");
    assert!(name.ends_with(function) || name.contains(&format!("{function}::")), "{name}: {report}");
    assert!(top.file.as_deref().unwrap_or("").ends_with("lib.rs"), "{report}");
}

fn assert_no_leak(report: &Report, verdicts: &[Verdict]) {
    assert!(verdicts.contains(&report.verdict), "{report}");
    assert!(report.control.passed(), "{report}");
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn a_forgotten_vector() {
    assert_lost(&check(forget_a_vector), 1.0, Some(100.0), "forget_a_vector");
}

#[test]
fn a_string_given_to_c() {
    assert_lost(&check(give_a_string_away), 1.0, Some(13.0), "give_a_string_away");
}

#[test]
fn a_record_and_what_it_owns() {
    assert_lost(&check(leak_a_record), 3.0, Some(48.0 + 24.0 + 40.0), "leak_a_record");
}

#[test]
fn a_handle_of_the_c_library() {
    let report = check(keep_a_handle);
    assert_lost(&report, 1.0, None, "keep_a_handle");
    let finding = &report.findings[0];
    // glibc's jumps on to a part of it that has no exported name.
    assert!(finding.via.as_deref().is_none_or(|via| via.starts_with("opendir")), "{report}");
    // A `DIR` is as long as its buffer for entries, which glibc makes 32 KiB long and musl 2 KiB.
    assert!(finding.bytes_per_call > 2000.0, "{report}");
    assert_eq!(finding.block_size.map(|size| size as f64), Some(finding.bytes_per_call), "{report}");
}

#[test]
fn a_handle_that_is_closed() {
    assert_no_leak(&check(use_a_handle), &[Verdict::Clean]);
}

#[test]
fn a_joined_thread_that_leaks() {
    let report = check(|| std::thread::spawn(forget_a_vector).join().expect("it does not panic"));
    assert_lost(&report, 1.0, Some(100.0), "forget_a_vector");
}

#[test]
fn threads_that_leak_together() {
    let report = check(|| {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(give_a_string_away);
            }
        });
    });
    assert_lost(&report, 3.0, Some(39.0), "give_a_string_away");
}

#[test]
fn every_seventh_call() {
    let calls = AtomicU32::new(0);
    let report = check(|| {
        if calls.fetch_add(1, Ordering::Relaxed) % 7 == 0 {
            forget_a_vector();
        }
    });
    assert_lost(&report, 1.0 / 7.0, Some(100.0 / 7.0), "forget_a_vector");
    assert_eq!(report.findings[0].every, Some(7), "{report}");
}

#[test]
fn a_bounded_cache() {
    let mut cache: HashMap<u64, Box<u64>> = HashMap::new();
    let mut calls = 0;
    let report = check(|| {
        calls += 1;
        black_box(cache.entry(calls % 200).or_insert_with(|| Box::new(calls)));
    });
    assert_no_leak(&report, &[Verdict::Clean, Verdict::Bounded]);
}

#[test]
fn a_ring() {
    let mut ring = VecDeque::new();
    let report = check(|| {
        ring.push_back(Box::new([0u8; 40]));
        if ring.len() > 64 {
            ring.pop_front();
        }
    });
    assert_no_leak(&report, &[Verdict::Clean, Verdict::Bounded]);
}

#[test]
fn a_clean_call() {
    let report = check(|| {
        black_box((0..50).map(|n| format!("{n}")).collect::<Vec<_>>());
    });
    assert_no_leak(&report, &[Verdict::Clean]);
}

/// Two tests fill the same cache, each with checks of its own.
fn judge_the_shared_cache(first_key: u64) {
    let key = AtomicU64::new(first_key);
    let report = check(|| {
        black_box(look_up(key.fetch_add(1, Ordering::Relaxed)));
    });
    assert_no_leak(&report, &[Verdict::Clean, Verdict::Bounded]);
}

#[test]
fn a_shared_cache() {
    judge_the_shared_cache(0);
}

#[test]
fn a_shared_cache_that_another_test_fills_too() {
    judge_the_shared_cache(150);
}

#[test]
fn the_cache_and_a_leak_beside_it() {
    let key = AtomicU64::new(70);
    let report = check(|| {
        black_box(look_up(key.fetch_add(1, Ordering::Relaxed)));
        forget_a_vector();
    });
    assert_lost(&report, 1.0, Some(100.0), "forget_a_vector");
}

/// Not judged: the noise of a test that has nothing to do with leaks.
#[test]
fn another_test_at_work() {
    let mut kept = Vec::new();
    for n in 0..200_000usize {
        kept.push(vec![0u8; n % 300]);
        if n % 3 == 0 {
            kept.swap_remove(n % kept.len());
        }
    }
    assert!(kept.len() > 100_000);
}

#[test]
fn a_panic_ends_the_check_and_no_other() {
    let panicked = std::panic::catch_unwind(|| {
        let mut calls = 0;
        check(|| {
            calls += 1;
            forget_a_vector();
            assert!(calls < 20, "enough");
        })
    });
    let why = panicked.expect_err("the closure panics");
    assert_eq!(why.downcast_ref::<&str>(), Some(&"enough"));
    assert_lost(&check(forget_a_vector), 1.0, Some(100.0), "forget_a_vector");
}

#[test]
fn no_more_calls_than_allowed() {
    let mut calls = 0;
    let report = Check::new().max_calls(100).closure("counted", || calls += 1);
    assert_eq!((report.calls, calls), (100, 100), "{report}");
}
