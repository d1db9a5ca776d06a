//! A short period, few calls, or little time: whatever can be said then, a leak of the period is not called clean.

use leaktight_verdict::{Outcome, Rules, Verdict};

use crate::program::{Program, exhausted_after, judge};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leak {
    Lost,
    Kept,
    Descriptor,
}

const LEAKS: [Leak; 3] = [Leak::Lost, Leak::Kept, Leak::Descriptor];

impl Leak {
    fn leave(self, call: u32, program: &mut Program) {
        program.scarce = self == Leak::Descriptor;
        match self {
            Leak::Lost => program.lose(call, 0, 24),
            Leak::Kept => program.keep(call, 0, 24),
            Leak::Descriptor => program.keep(call, 0, 0),
        }
    }
}

fn is_acquitted(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded)
}

/// What is said of this period, with as many calls as it takes, and with a few more or fewer.
fn rules(period: u32) -> impl Iterator<Item = Rules> {
    let least = Rules::of(Some(period), None).clean_at();
    let limits = [0, 1, 2, 3, 5, 9, 20, 50].map(|more| Some(least + more));
    // Places are told apart at once, or from 2,048 calls on when something is suspicious.
    let limits = limits.into_iter().chain([Some(least * 3 / 4), Some(3000)]);
    limits.map(move |limit| Rules::of(Some(period), limit))
}

#[test]
fn a_leak_of_the_period_is_never_clean() {
    for period in (1..=34).chain([64, 70]) {
        for rules in rules(period) {
            for (leak, phase) in LEAKS
                .into_iter()
                .flat_map(|leak| (0..period).map(move |phase| (leak, phase)))
            {
                let (outcome, calls) = judge(rules, 1, |call, program| {
                    if call % period == phase {
                        leak.leave(call, program);
                    }
                });
                assert!(
                    !is_acquitted(&outcome),
                    "{rules:?} {leak:?} at {phase}: {outcome:?} after {calls}"
                );
            }
        }
    }
}

#[test]
fn a_leak_in_every_call_is_found_in_as_many_calls_as_a_clean_verdict_takes() {
    for (period, leak) in (1..=70).flat_map(|period| LEAKS.map(|leak| (period, leak))) {
        let limit = Rules::of(Some(period), None).clean_at();
        let (outcome, _) = judge(Rules::of(Some(period), Some(limit)), 1, |call, program| {
            leak.leave(call, program)
        });
        // What something still holds may be a ring or a pool that is being filled.
        let may_be_full_soon = leak == Leak::Kept || leak == Leak::Descriptor && limit < 112;
        let expected = match outcome.verdict {
            Verdict::Indeterminate => may_be_full_soon,
            verdict => verdict == Verdict::Leak,
        };
        assert!(expected, "{period} {leak:?}: {outcome:?}");
        assert_eq!(outcome.findings.len(), 1, "{period} {leak:?}: {outcome:?}");
    }
}

#[test]
fn what_was_in_use_for_a_while_hides_no_leak() {
    let screening = [2, 3, 4, 7].map(|first| Rules {
        period: 1,
        confirm: 1024,
        screen: Some(first),
        ..Rules::default()
    });
    for period in 1..=12 {
        for rules in rules(period).chain(screening.into_iter().filter(|_| period == 1)) {
            // The screening looks from the second call on, or from the first.
            let begins = match rules.screen {
                Some(2) => &[1][..],
                Some(_) => &[1, 2],
                None => &[1, 2, 3],
            };
            for (leak, freed, from) in LEAKS
                .into_iter()
                .flat_map(|leak| (3..14).flat_map(move |freed| begins.iter().map(move |from| (leak, freed, *from))))
            {
                let (outcome, calls) = judge(rules, 1, |call, program| {
                    program.blocks.retain(|block| block.site == 0);
                    if (2..freed).contains(&call) {
                        program.scarce = false;
                        program.keep(call, 1, 20_000);
                    }
                    if call >= from {
                        leak.leave(call, program);
                    }
                });
                assert!(
                    !is_acquitted(&outcome),
                    "{rules:?} {leak:?} {freed} {from}: {outcome:?} after {calls}"
                );
            }
        }
    }
}

#[test]
fn a_leak_is_not_clean_whenever_time_runs_out() {
    for period in [1, 2, 3, 5, 7, 12, 20, 100, 512] {
        let rules = Rules::of(Some(period), None);
        for (leak, calls) in LEAKS
            .into_iter()
            .flat_map(|leak| (1..300).chain([600, 1030, 2050, 2200]).map(move |calls| (leak, calls)))
        {
            let outcome = exhausted_after(calls, rules, |call, program| {
                if call % period == 0 {
                    leak.leave(call, program);
                }
            });
            assert!(!is_acquitted(&outcome), "{period} {leak:?}: {outcome:?} after {calls}");
        }
    }
}

#[test]
fn what_is_in_use_or_kept_once_is_no_leak_in_a_few_calls() {
    for period in 1..=20 {
        for rules in rules(period) {
            for (scarce, entries) in [false, true]
                .into_iter()
                .flat_map(|scarce| (0..12).map(move |entries| (scarce, entries)))
            {
                let ring = judge(rules, 1, |call, program| {
                    program.blocks.retain(|block| block.birth + entries > call);
                    program.scarce = scarce;
                    program.keep(call, 0, 48);
                });
                let once = judge(rules, 1, |call, program| {
                    program.scarce = scarce;
                    if call == entries + 3 {
                        program.keep(call, 0, 48);
                    }
                });
                for (outcome, calls) in [ring, once] {
                    assert_ne!(
                        outcome.verdict,
                        Verdict::Leak,
                        "{rules:?} {scarce} {entries}: {outcome:?} after {calls}"
                    );
                    if rules.max_calls > 1000 {
                        assert!(
                            is_acquitted(&outcome),
                            "{rules:?} {scarce} {entries}: {outcome:?} after {calls}"
                        );
                    }
                }
            }
        }
    }
}
