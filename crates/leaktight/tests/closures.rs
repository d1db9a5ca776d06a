//! Closures of a plain Rust program, judged exactly.

use std::collections::VecDeque;
use std::ffi::CString;

use leaktight::{Certainty, Report, Verdict, check};

fn assert_leak(report: &Report, blocks: f64, bytes: f64, function: &str) {
    assert_eq!(report.verdict, Verdict::Leak, "{report}");
    assert!(report.control.passed(), "{report}");
    assert_eq!(report.findings.len(), 1, "{report}");
    let finding = &report.findings[0];
    assert_eq!(
        (finding.blocks_per_call, finding.bytes_per_call),
        (blocks, bytes),
        "{report}"
    );
    assert!(
        finding.stack[0].function.as_deref().unwrap_or("").contains(function),
        "{report}"
    );
}

fn assert_no_leak(report: &Report) {
    assert!(matches!(report.verdict, Verdict::Clean | Verdict::Bounded), "{report}");
    assert!(report.control.passed(), "{report}");
    assert!(report.findings.is_empty(), "{report}");
}

#[inline(never)]
fn forget_a_vector() {
    std::mem::forget(std::hint::black_box(Vec::<u8>::with_capacity(100)));
}

#[inline(never)]
fn give_a_string_away() {
    std::hint::black_box(CString::new("twelve bytes").unwrap().into_raw());
}

#[test]
fn a_forgotten_vector_is_lost() {
    let report = check(forget_a_vector);
    assert_leak(&report, 1.0, 100.0, "forget_a_vector");
    assert_eq!(report.findings[0].certainty, Certainty::Lost);
}

#[test]
fn a_string_given_to_c_and_not_taken_back() {
    assert_leak(&check(give_a_string_away), 1.0, 13.0, "give_a_string_away");
}

#[test]
fn what_the_caller_keeps_in_its_own_variable_is_held_by_its_stack() {
    let mut kept: Vec<Box<[u8; 48]>> = Vec::new();
    let check = leaktight::Check::new().max_calls(600).holders(true);
    let report = check.closure("keep", || {
        if kept.len() < 40 {
            kept.push(std::hint::black_box(Box::new([1; 48])));
        }
    });
    assert_no_leak(&report);
    // The vector's memory, for 64 pointers at last, owns the boxes.
    assert_eq!(report.kept.len(), 1, "{}", report.to_json());
    let path = report.kept[0].path.iter();
    let path: Vec<String> = path.map(|step| format!("{}{}", step.name, step.what)).collect();
    let expected = ["the stack of the thread that makes the calls", "a block of 512 bytes"];
    assert_eq!(path, expected, "{}", report.to_json());
    drop(kept);
}

#[test]
fn every_tenth_call() {
    let mut calls = 0;
    let report = check(|| {
        calls += 1;
        if calls % 10 == 0 {
            forget_a_vector();
        }
    });
    assert_leak(&report, 0.1, 10.0, "forget_a_vector");
    assert_eq!(report.findings[0].every, Some(10));
}

#[test]
fn a_thread_that_leaks_belongs_to_the_call() {
    let report = check(|| std::thread::spawn(forget_a_vector).join().unwrap());
    assert_leak(&report, 1.0, 100.0, "forget_a_vector");
}

#[test]
fn what_is_freed_is_clean() {
    assert_no_leak(&check(|| drop(std::hint::black_box(vec![1u8; 1000]))));
}

#[test]
fn a_ring_is_clean() {
    let mut ring = VecDeque::new();
    assert_no_leak(&check(|| {
        ring.push_back(Box::new([0u8; 40]));
        if ring.len() > 64 {
            ring.pop_front();
        }
    }));
}

#[test]
fn a_bounded_cache_is_no_leak() {
    let mut cache = Vec::new();
    assert_no_leak(&check(|| {
        if cache.len() < 512 {
            cache.push(Box::new([0u8; 40]));
        }
    }));
}

#[test]
fn a_vector_that_grows_for_ever_grows_in_bytes() {
    let mut all: Vec<u64> = Vec::new();
    let report = check(|| all.push(1));
    assert_eq!(report.verdict, Verdict::Leak, "{report}");
    let finding = &report.findings[0];
    assert_eq!(
        (finding.certainty, finding.blocks_per_call),
        (Certainty::Growing, 0.0),
        "{report}"
    );
    assert_eq!(finding.bytes_per_call, 8.0, "{report}");
}
