//! The judge against the series that real programs make: leaks of every rhythm must be found, caches and
//! noise of every kind must not be called leaks. Each is played to the judge as the engine does it.

mod caches;
mod few_calls;
mod program;
mod rules;

use std::time::Duration;

use leaktight_verdict::{Certainty, Reason, Rules, Verdict};
use proptest::prelude::*;

use program::{Program, exhausted_after, judge, judge_timed};

fn assert_leak(seed: u64, blocks: f64, bytes: f64, certainty: Certainty, call: impl FnMut(u32, &mut Program)) {
    let (outcome, calls) = judge(Rules::default(), seed, call);
    assert_eq!(outcome.verdict, Verdict::Leak, "{outcome:?} after {calls}");
    assert_eq!(outcome.findings.len(), 1, "{outcome:?}");
    let found = outcome.findings[0];
    assert_eq!(
        (found.certainty, found.rate.blocks, found.rate.bytes),
        (certainty, blocks, bytes),
        "{outcome:?}"
    );
}

fn assert_none(seed: u64, call: impl FnMut(u32, &mut Program)) {
    let (outcome, calls) = judge(Rules::default(), seed, call);
    let fine = matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded);
    assert!(fine && outcome.findings.is_empty(), "{outcome:?} after {calls}");
    assert!(outcome.period >= 512, "{outcome:?} after {calls}");
}

#[test]
fn lost_at_every_call_is_proved_by_the_second_look() {
    let (outcome, calls) = judge(Rules::default(), 1, |call, program| program.lose(call, 0, 100));
    assert_eq!((outcome.verdict, calls), (Verdict::Leak, 64));
}

#[test]
fn screening_looks_twice_before_it_tells_places_apart() {
    let rules = Rules {
        period: 1,
        confirm: 1024,
        screen: Some(4),
        ..Rules::default()
    };
    // A table that grew in the second call, and buffers of the newest calls.
    let buffers = |call: u32, program: &mut Program| {
        program
            .blocks
            .retain(|block| block.birth + 2 > call || block.birth == 2);
        program.keep(call, 0, 64);
    };
    let (outcome, calls) = judge(rules, 1, buffers);
    assert_eq!((outcome.verdict, outcome.period, calls), (Verdict::Clean, 1, 8));
    let (outcome, calls) = judge(rules, 1, |call, program| program.lose(call, 0, 64));
    assert_eq!((outcome.verdict, calls), (Verdict::Leak, 32));
    let (outcome, calls) = judge(rules, 1, |call, program| program.keep(call, 0, 64));
    assert_eq!((outcome.verdict, calls), (Verdict::Leak, 1024));
}

#[test]
fn leaks_of_every_rhythm_are_found_at_their_exact_rate() {
    for period in [1, 10, 50, 300, 511] {
        for certainty in [Certainty::Lost, Certainty::Growing] {
            assert_leak(
                1,
                1.0 / f64::from(period),
                64.0 / f64::from(period),
                certainty,
                |call, program| match (call % period, certainty) {
                    (0, Certainty::Lost) => program.lose(call, 0, 64),
                    (0, Certainty::Growing) => program.keep(call, 0, 64),
                    _ => {}
                },
            );
        }
    }
}

#[test]
fn a_vector_that_doubles_shows_in_bytes() {
    assert_leak(1, 0.0, 16.0, Certainty::Growing, |call, program| {
        if call.is_power_of_two() {
            program.blocks.clear();
            program.keep(call, 0, u64::from(call) * 16);
        }
    });
}

#[test]
fn growth_inside_an_arena_shows_though_blocks_are_rare() {
    // Eleven bytes a call in chunks that double.
    let (outcome, _) = judge(Rules::default(), 1, |call, program| {
        let (mut chunk, mut sum) = (4592, 4592);
        while sum <= u64::from(call - 1) * 11 {
            chunk *= 2;
            sum += chunk;
        }
        if sum - chunk == u64::from(call - 1) * 11 / chunk * chunk
            || program.blocks.iter().all(|block| block.bytes != chunk)
        {
            program.keep(call, 0, chunk);
        }
    });
    assert_eq!(outcome.verdict, Verdict::Leak, "{outcome:?}");
}

#[test]
fn a_leak_beside_an_lru_is_told_from_it() {
    assert_leak(7, 1.0, 16.0, Certainty::Lost, |call, program| {
        let size = program.random(2000) + 24;
        program.keep(call, 1, size);
        if program.count(1) > 200 {
            program.free_oldest(1);
        }
        program.lose(call, 0, 16);
    });
}

#[test]
fn caches_are_bounded_however_large() {
    for entries in [64, 512, 1000, 2048] {
        assert_none(1, |call, program| {
            if program.count(0) < entries {
                program.keep(call, 0, 48);
            }
        });
    }
    // Filled at random, so ever more slowly.
    assert_none(3, |call, program| {
        if program.random(1000) >= program.count(0) as u64 {
            program.keep(call, 0, 48);
        }
    });
}

#[test]
fn rings_sawteeth_warm_up_and_late_buffers_are_no_leaks() {
    for size in [64, 200, 500] {
        assert_none(1, |call, program| {
            program.keep(call, 0, 48);
            if program.count(0) > size {
                program.free_oldest(0);
            }
        });
        assert_none(1, |call, program| {
            program.keep(call, 0, 64);
            if call % size as u32 == 0 {
                program.blocks.clear();
            }
        });
    }
    for warm_up in [1, 30, 500] {
        assert_none(1, |call, program| {
            if call <= warm_up {
                program.keep(call, 0, 100);
            }
        });
        assert_none(1, |call, program| {
            if call == warm_up {
                program.keep(call, 0, 4096);
            }
        });
    }
}

#[test]
fn few_calls_say_nothing() {
    let outcome = exhausted_after(15, Rules::default(), |_, _| {});
    assert_eq!(
        (outcome.verdict, outcome.reason, outcome.period),
        (Verdict::Indeterminate, Reason::TooFewCalls, 0)
    );
    let outcome = exhausted_after(16, Rules::default(), |_, _| {});
    assert_ne!(outcome.reason, Reason::TooFewCalls);
}

#[test]
fn fewer_calls_than_the_period_needs_are_never_clean() {
    // Also where one call in 30 leaks, a cache has filled up, or a descriptor stayed.
    let calls: [fn(u32, &mut Program); 4] = [
        |_, _| {},
        |call, program| {
            if call.is_multiple_of(30) {
                program.lose(call, 0, 64);
            }
        },
        |call, program| {
            if (65..=80).contains(&call) {
                program.keep(call, 0, 64);
            }
        },
        |call, program| {
            program.scarce = true;
            if call == 70 {
                program.keep(call, 0, 0);
            }
        },
    ];
    for call in calls {
        let outcome = exhausted_after(97, Rules::default(), call);
        assert_eq!(outcome.verdict, Verdict::Indeterminate, "{outcome:?}");
        let outcome = exhausted_after(2047, Rules::default(), call);
        assert_ne!(outcome.verdict, Verdict::Clean, "{outcome:?}");
        assert_ne!(outcome.verdict, Verdict::Bounded, "{outcome:?}");
    }
    let outcome = exhausted_after(97, Rules::default(), |_, _| {});
    let reason = Reason::StoppedEarly { needed: 2048 };
    assert_eq!((outcome.reason, outcome.period), (reason, 24));
    let outcome = exhausted_after(2048, Rules::default(), |_, _| {});
    assert_eq!((outcome.verdict, outcome.period), (Verdict::Clean, 512));
}

#[test]
fn what_was_asked_for_decides_how_deep_to_look() {
    let depth = |period, max_calls| {
        let rules = Rules::of(period, max_calls);
        (rules.period, rules.max_calls, rules.clean_at())
    };
    assert_eq!(depth(None, None), (512, 65_536, 2048));
    assert_eq!(depth(None, Some(100)), (25, 100, 100));
    assert_eq!(depth(None, Some(9000)), (512, 9000, 2048));
    assert_eq!(depth(None, Some(1)), (1, 1, 16));
    assert_eq!(depth(Some(8), None), (8, 65_536, 32));
    assert_eq!(depth(Some(1000), None), (1000, 128_000, 4000));
    assert_eq!(depth(Some(512), Some(100)), (512, 100, 2048));
    assert_eq!(depth(Some(0), Some(0)), (1, 1, 16));
    for (rules, verdict, period) in [
        (Rules::of(None, Some(100)), Verdict::Clean, 25),
        (Rules::of(Some(8), Some(100)), Verdict::Clean, 8),
        (Rules::of(Some(512), Some(100)), Verdict::Indeterminate, 25),
    ] {
        let (outcome, _) = judge(rules, 1, |_, _| {});
        assert_eq!((outcome.verdict, outcome.period), (verdict, period), "{rules:?}");
    }
    // A leak as rare as that is found.
    let (outcome, _) = judge(Rules::of(None, Some(100)), 1, |call, program| {
        if call.is_multiple_of(10) {
            program.keep(call, 0, 64);
        }
    });
    assert_eq!(outcome.verdict, Verdict::Indeterminate, "{outcome:?}");
}

#[test]
fn growth_that_the_calls_did_not_settle_is_not_decided() {
    let outcome = exhausted_after(4096, Rules::default(), |call, program| program.keep(call, 0, 48));
    assert_eq!(
        (outcome.verdict, &outcome.reason),
        (Verdict::Indeterminate, &Reason::StillGrowing)
    );
    assert_eq!(outcome.findings.len(), 1, "{outcome:?}");
    assert_eq!(outcome.findings[0].rate.every, Some(1));
    // A list that grows by a pointer at each call, and one that is filled once.
    let list = |until: u32| {
        move |call: u32, program: &mut Program| {
            program.blocks.clear();
            program.keep(call, 0, u64::from(call.min(until)).next_multiple_of(8) * 9);
        }
    };
    let outcome = exhausted_after(256, Rules::default(), list(u32::MAX));
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Indeterminate, 1));
    let outcome = exhausted_after(256, Rules::default(), list(30));
    assert!(outcome.findings.is_empty(), "{outcome:?}");
}

#[test]
fn growth_of_what_is_held_is_called_a_leak_late_or_where_calls_are_slow() {
    let hoard = |call, program: &mut Program| program.keep(call, 0, 48);
    let after = |micros, max_calls| {
        let rules = Rules::of(None, Some(max_calls));
        let (outcome, calls) = judge_timed(rules, Duration::from_micros(micros), 1, hoard);
        (outcome.verdict, calls)
    };
    // Another 49,152 calls take 4.9 seconds, or 5.02.
    assert_eq!(after(100, 65_536), (Verdict::Leak, 65_536));
    assert_eq!(after(102, 65_536), (Verdict::Leak, 16_384));
    assert_eq!(after(102, 16_383), (Verdict::Indeterminate, 16_383));
    assert_eq!(after(100, 65_535), (Verdict::Indeterminate, 65_535));
    assert_eq!(after(102, 20_000), (Verdict::Leak, 16_384));
}

#[test]
fn descriptors_are_judged_early_and_at_their_exact_rate() {
    for period in [1, 3, 10, 100, 500] {
        let (outcome, calls) = judge(Rules::default(), 1, |call, program| {
            program.scarce = true;
            if call % period == 0 {
                program.keep(call, 0, 0);
            }
        });
        assert_eq!(outcome.verdict, Verdict::Leak, "{period}: {outcome:?}");
        assert_eq!(outcome.findings[0].rate.every, Some(period), "{outcome:?}");
        assert!(calls <= if period <= 10 { 512 } else { 8192 }, "{period}: {calls}");
    }
}

#[test]
fn pools_of_descriptors_are_no_leaks() {
    for size in [1, 8, 32, 100, 250] {
        assert_none(1, |call, program| {
            program.scarce = true;
            if program.count(0) < size {
                program.keep(call, 0, 0);
            }
        });
    }
    // Opened lazily, late.
    assert_none(1, |call, program| {
        program.scarce = true;
        if call == 300 || call == 400 {
            program.keep(call, 0, 0);
        }
    });
    // Always the youngest five.
    assert_none(1, |call, program| {
        program.scarce = true;
        program.keep(call, 0, 0);
        if program.count(0) > 5 {
            program.free_oldest(0);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_noise_without_a_trend_is_never_a_leak(seed: u64, live in 1usize..300, most in 24u64..4000) {
        let (outcome, _) = judge(Rules::default(), seed, |call, program| {
            // A pool of `live` slots, each replaced at random.
            let size = program.random(most) + 1;
            program.keep(call, 0, size);
            if program.blocks.len() > live {
                let victim = program.random(program.blocks.len() as u64) as usize;
                program.blocks.swap_remove(victim);
            }
        });
        prop_assert!(matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded), "{:?}", outcome);
    }

    #[test]
    fn any_fixed_period_up_to_the_guarantee_is_found(period in 1u32..=512, offset in 0u32..512, lost: bool) {
        let (outcome, _) = judge(Rules::default(), 1, |call, program| {
            if call % period == offset % period {
                match lost {
                    true => program.lose(call, 0, 32),
                    false => program.keep(call, 0, 32),
                }
            }
        });
        prop_assert_eq!(outcome.verdict, Verdict::Leak, "{:?}", outcome);
        prop_assert_eq!(outcome.findings[0].rate.every, Some(period));
    }

    #[test]
    fn a_random_leak_is_found(seed: u64, one_in in 2u64..60) {
        let (outcome, _) = judge(Rules::default(), seed, |call, program| {
            if program.random(one_in) == 0 {
                program.lose(call, 0, 32);
            }
        });
        prop_assert_eq!(outcome.verdict, Verdict::Leak, "{:?}", outcome);
    }

    #[test]
    fn growth_that_ended_is_no_leak(entries in 1usize..2000, one_in in 1u64..4, seed: u64) {
        let (outcome, _) = judge(Rules::default(), seed, |call, program| {
            if program.count(0) < entries && program.random(one_in) == 0 {
                program.keep(call, 0, 48);
            }
        });
        prop_assert!(matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded), "{:?}", outcome);
    }
}
