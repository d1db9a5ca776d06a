//! Each rule by itself: a series that it must judge one way, and the closest one that it must judge the other way.

use std::time::Duration;

use leaktight_verdict::references::{Holding, Tally, judge as judge_references};
use leaktight_verdict::{Births, Reason, Rules, Verdict, is_proof};

use crate::program::{Program, exhausted_after, judge, judge_timed};

/// Each call leaves a block; meanwhile other places free `freed` blocks of that size in a hundred calls.
fn beside_frees(freed: u64) -> Verdict {
    let slow = Duration::from_millis(1);
    let rules = Rules::of(None, Some(16_384));
    let (outcome, _) = judge_timed(rules, slow, 1, |call, program| {
        program.keep(call, 0, 48);
        program.elsewhere = 1_000_000 - u64::from(call) * freed / 100;
    });
    outcome.verdict
}

#[test]
fn blocks_that_a_free_list_hands_from_place_to_place_are_no_growth() {
    assert_eq!(beside_frees(0), Verdict::Leak);
    // All together become no more, hardly more, or half as many more as were born.
    assert_eq!(beside_frees(100), Verdict::Bounded);
    assert_eq!(beside_frees(90), Verdict::Indeterminate);
    assert_eq!(beside_frees(51), Verdict::Indeterminate);
    assert_eq!(beside_frees(50), Verdict::Leak);
}

#[test]
fn few_calls_after_a_look_are_not_compared_with_it() {
    // Nothing was born in the last ten calls, and nothing grew.
    let outcome = exhausted_after(2058, Rules::default(), |call, program| {
        if call.is_multiple_of(300) {
            program.keep(call, 0, 48);
        }
    });
    assert_eq!(
        (outcome.verdict, outcome.reason),
        (Verdict::Indeterminate, Reason::StillGrowing)
    );
}

#[test]
fn sites_must_have_been_told_apart_for_long_enough() {
    let rules = |screen| Rules {
        period: 1,
        confirm: 64,
        confirm_slow: 64,
        screen,
        ..Rules::default()
    };
    let hoard = |call, program: &mut Program| program.keep(call, 0, 48);
    // Told apart since call 8, 10, or 16.
    assert_eq!(judge(rules(Some(4)), 1, hoard).1, 64);
    assert_eq!(judge(rules(Some(5)), 1, hoard).1, 128);
    assert_eq!(judge(rules(None), 1, hoard).1, 128);
}

#[test]
fn lost_blocks_prove_a_leak_only_when_they_repeat() {
    let lost = |calls: &[u32]| {
        let mut births = Births::default();
        calls.iter().for_each(|call| births.add(*call, 16));
        is_proof(&births, 100, 200)
    };
    assert!(lost(&[100, 101, 102, 150]) && lost(&[149, 150, 151, 199]));
    assert!(!lost(&[100, 101, 150]), "three");
    assert!(!lost(&[100, 120, 140, 149]), "early ones only");
    assert!(!lost(&[150, 160, 180, 199]), "late ones only");
    assert!(!lost(&[98, 99, 100, 150, 200, 201]), "not in the window");
    assert!(!lost(&[100, 100, 100, 150]), "two calls");
    // As series: three pointers kept where no scan finds them, and a rare leak.
    let hidden = |calls: [u32; 4]| {
        let (outcome, _) = judge(Rules::default(), 1, |call, program| {
            if calls.contains(&call) {
                program.lose(call, 0, 64);
            }
        });
        outcome.verdict
    };
    assert_eq!(hidden([20, 40, 60, 70]), Verdict::Bounded);
}

/// A vector of 16 bytes a call that doubles, and another block that grows by so many bytes a call beside it.
fn beside_a_vector(bytes: u64) -> usize {
    let (outcome, _) = judge(Rules::default(), 1, |call, program| {
        if call.is_power_of_two() {
            program.blocks.clear();
            program.keep(call, 0, u64::from(call) * 16);
            program.keep(call, 1, u64::from(call) * bytes / 1000);
        }
    });
    assert_eq!(outcome.verdict, Verdict::Leak);
    outcome.findings.len()
}

#[test]
fn sites_with_a_small_share_of_the_growth_are_not_blamed() {
    assert_eq!(beside_a_vector(0), 1);
    assert_eq!(beside_a_vector(800), 1);
    // From 5 percent of both together on.
    assert_eq!(beside_a_vector(850), 2);
    assert_eq!(beside_a_vector(4000), 2);
}

#[test]
fn what_the_first_calls_keep_is_warm_up() {
    let kept_once = |at| {
        judge(Rules::default(), 1, move |call, program: &mut Program| {
            if call == at {
                program.keep(call, 0, 64);
            }
        })
    };
    assert_eq!(kept_once(63).0.verdict, Verdict::Clean);
    let (outcome, _) = kept_once(64);
    assert_eq!(outcome.verdict, Verdict::Bounded);
    let Reason::Stopped(kept) = outcome.reason else {
        panic!("{outcome:?}")
    };
    assert_eq!((kept.blocks, kept.bytes, kept.scarce, kept.last_call), (1, 64, 0, 64));
}

#[test]
fn many_descriptors_at_once_are_sure_after_few_calls() {
    let opened = |per_call: u64, calls: u32| {
        let outcome = exhausted_after(calls, Rules::default(), |call, program| {
            program.scarce = true;
            (0..per_call).for_each(|_| program.keep(call, 0, 0));
        });
        outcome.verdict
    };
    // Nine calls are compared: they opened 117, or 108.
    assert_eq!(opened(13, 20), Verdict::Leak);
    assert_eq!(opened(12, 20), Verdict::Indeterminate);
    assert_eq!(opened(1, 112), Verdict::Leak);
    assert_eq!(opened(1, 111), Verdict::Indeterminate);
}

#[test]
fn what_runs_out_is_told_while_memory_is_not_decided() {
    let descriptors = |leaks: bool| {
        judge(Rules::default(), 1, move |call, program: &mut Program| {
            program.scarce = false;
            program.keep(call, 0, 48);
            program.scarce = true;
            if leaks {
                program.keep(call, 1, 0);
            }
        })
    };
    let (outcome, calls) = descriptors(true);
    assert_eq!((outcome.verdict, calls), (Verdict::Leak, 512));
    let (outcome, calls) = descriptors(false);
    assert_eq!((outcome.verdict, calls), (Verdict::Leak, 65_536));
}

/// 60 calls and then 141, in which a count changes by so many, and words of memory with it in the second.
fn references(before: i64, after: i64, words: i64) -> Holding {
    let tally = |calls, count, words| Tally {
        calls,
        count,
        visible: 0,
        words,
    };
    let (count, all) = (1000, (201, before + after));
    let tallies = [
        tally(100, count, 0),
        tally(160, count + before, 0),
        tally(301, count + before + after, words),
    ];
    judge_references(&tallies, all)
}

#[test]
fn references_are_hidden_where_memory_could_hold_half_of_them() {
    assert_eq!(references(60, 140, 70), Holding::Hidden);
    assert!(matches!(references(60, 140, 69), Holding::Leaked(_)));
    assert_eq!(references(-60, -140, -70), Holding::Seen);
    assert!(matches!(references(-60, -140, -69), Holding::Released(_)));
}

#[test]
fn one_reference_is_chance_and_two_are_not() {
    assert_eq!(references(1, 3, 0), Holding::Seen);
    assert!(matches!(references(2, 5, 0), Holding::Leaked(_)));
    assert_eq!(references(-1, -3, 0), Holding::Seen);
    assert!(matches!(references(-2, -5, 0), Holding::Released(_)));
}

#[test]
fn a_count_keeps_step_give_or_take_a_half_and_two() {
    // 10 in 60 calls let expect 23.5 in 141, give or take 13.75.
    for (after, keeps_step) in [(9, false), (10, true), (37, true), (38, false)] {
        let holding = references(10, after, 0);
        assert_eq!(
            matches!(holding, Holding::Leaked(_)),
            keeps_step,
            "{after}: {holding:?}"
        );
    }
}
