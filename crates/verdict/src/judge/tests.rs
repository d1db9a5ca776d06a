use super::*;
use crate::births::births;

const FAST: Duration = Duration::ZERO;

fn site(id: usize, calls: impl IntoIterator<Item = u32>) -> Site {
    let births = births(calls);
    Site {
        id,
        told: true,
        peers: births.total(),
        births,
        lost: Births::default(),
        scarce: false,
    }
}

fn lost(id: usize, calls: impl IntoIterator<Item = u32>) -> Site {
    let site = site(id, calls);
    let lost = site.births.clone();
    Site { lost, ..site }
}

fn scarce(id: usize, calls: impl IntoIterator<Item = u32>) -> Site {
    let scarce = true;
    Site {
        scarce,
        ..site(id, calls)
    }
}

fn outcome(next: Next) -> Outcome {
    match next {
        Next::Done(outcome) => outcome,
        Next::Continue { .. } => panic!("no verdict"),
    }
}

#[test]
fn totals_are_wanted_at_some_calls_of_each_octave() {
    let wanted = |from: u32, to: u32| (from..to).filter(|call| Judge::wants_checkpoint(*call)).count();
    assert_eq!((wanted(256, 512), wanted(512, 1024), wanted(2048, 4096)), (4, 8, 16));
    let judge = Judge::new(Rules::default());
    assert_eq!((judge.next_look(16), judge.next_look(64)), (64, 160));
}

#[test]
fn stacks_are_worth_it_once_four_calls_left_something_in_both_halves() {
    let suspicious = |calls: u32, sites: &[Site]| {
        let next = Judge::new(Rules::default()).look(calls, FAST, sites);
        next == Next::Continue { tell_sites: true }
    };
    assert!(suspicious(64, &[site(0, [8, 10, 27]), scarce(1, [28])]));
    assert!(!suspicious(64, &[site(0, [8, 10, 27]), site(1, [27])]), "one half");
    assert!(!suspicious(64, &[site(0, [8, 10, 28])]), "three");
    assert!(!suspicious(64, &[site(0, [5, 6, 7, 30])]), "warm-up");
    assert!(suspicious(64, &[site(0, [10, 20, 30, 47])]));
    assert!(!suspicious(64, &[site(0, [10, 20, 30, 48])]), "in use");
}

#[test]
fn places_are_told_apart_from_the_first_look_that_may_acquit() {
    // What was born since call 700 is still open then.
    let sites = [site(0, (700..2048).step_by(50))];
    let after = |calls, rules| Judge::new(rules).look(calls, FAST, &sites);
    let next = |tell_sites| Next::Continue { tell_sites };
    assert_eq!(after(2048, Rules::default()), next(true));
    // Or from the second look of the screening, when that did not.
    let screening = Rules {
        screen: Some(4),
        ..Rules::default()
    };
    let early = |rules| Judge::new(rules).look(16, FAST, &[site(0, [3, 5])]);
    assert_eq!((early(screening), early(Rules::default())), (next(true), next(false)));
    let first = Judge::new(screening).look(4, FAST, &[site(0, [2, 3])]);
    assert_eq!(first, next(false));
}

#[test]
fn reachability_matters_once_places_are_told_apart_and_four_calls_left_blocks() {
    let mut judge = Judge::new(Rules::default());
    let sites = [site(0, 1..=64)];
    assert!(!judge.wants_reachability(64, &sites));
    judge.look(64, FAST, &sites);
    assert!(judge.wants_reachability(160, &[site(1, [72, 80, 90, 139])]));
    assert!(!judge.wants_reachability(160, &[site(1, [72, 80, 139])]), "three");
    assert!(!judge.wants_reachability(160, &[site(1, [72, 80, 90, 140])]), "in use");
    assert!(
        !judge.wants_reachability(160, &[site(1, [71, 80, 90, 139])]),
        "the first with stacks"
    );
    assert!(
        !judge.wants_reachability(160, &[scarce(1, [72, 80, 90, 139])]),
        "no blocks"
    );
}

#[test]
fn screening_acquits_blocks_and_what_runs_out_each_by_itself() {
    let rules = Rules {
        period: 100,
        screen: Some(4),
        ..Rules::default()
    };
    let is_clean = |calls, sites: &[Site]| {
        let next = Judge::new(rules).look(calls, FAST, sites);
        matches!(
            next,
            Next::Done(Outcome {
                verdict: Verdict::Clean,
                period: 1,
                ..
            })
        )
    };
    assert!(is_clean(4, &[]) && is_clean(8, &[]) && !is_clean(9, &[]));
    assert!(!is_clean(4, &[site(0, 2..4)]) && !is_clean(4, &[scarce(0, 2..4)]));
    assert!(is_clean(4, &[site(0, [2]), scarce(1, [3])]));
    assert!(!is_clean(4, &[site(0, [2]), site(1, [3])]));
}

#[test]
fn screening_does_not_acquit_one_block_that_grows() {
    let rules = Rules {
        screen: Some(4),
        ..Rules::default()
    };
    let next = |calls: u32, bytes: fn(u64) -> u64| {
        let mut judge = Judge::new(rules);
        for call in 1..=calls {
            let bytes = bytes(u64::from(call));
            judge.checkpoint(call, Amount { blocks: 1, bytes });
        }
        matches!(judge.look(calls, FAST, &[site(0, [calls])]), Next::Done(_))
    };
    assert_eq!((next(4, |call| call), next(8, |call| call * 1000)), (false, false));
    assert_eq!((next(4, |_| 1000), next(8, |call| call.min(6))), (true, true));
}

#[test]
fn a_proof_waits_until_other_memory_is_decided() {
    // Descriptors that are no leak do not hurry it.
    let sites = [lost(0, 1..=512), site(1, 1..=512), scarce(2, [3, 4])];
    let mut judge = Judge::new(Rules::default());
    assert_eq!(judge.look(512, FAST, &sites), Next::Continue { tell_sites: true });
    let both = [lost(0, 1..=512), scarce(2, 1..=512), site(1, 1..=512)];
    let found = outcome(Judge::new(Rules::default()).look(512, FAST, &both));
    assert_eq!(found.findings.len(), 2);
}

#[test]
fn findings_come_largest_first() {
    let large = (1..=512).flat_map(|call| [call, call]);
    let sites = [lost(0, 1..=512), lost(1, large), lost(2, (1..=512).step_by(2))];
    let found = outcome(Judge::new(Rules::default()).look(512, FAST, &sites)).findings;
    let found: Vec<(usize, f64)> = found.iter().map(|found| (found.site, found.rate.bytes)).collect();
    assert_eq!(found, [(1, 32.0), (0, 16.0), (2, 8.0)]);
}

#[test]
fn what_says_itself_how_large_it_becomes_is_bounded_after_calls_enough() {
    let judge = Judge::new(Rules::default());
    assert_eq!(judge.within_bounds(2048).verdict, Verdict::Bounded);
    assert_eq!(judge.within_bounds(2048).reason, Reason::Stopped(Kept::default()));
    let reason = Reason::StoppedEarly { needed: 2048 };
    assert_eq!(judge.within_bounds(2047).reason, reason);
}

#[test]
fn what_the_second_half_keeps_may_be_in_use() {
    let after = |calls: &[u32]| outcome(Judge::new(Rules::default()).look(2048, FAST, &[site(0, calls.to_vec())]));
    assert_eq!(after(&[1024, 1500]).reason, Reason::NothingGrows);
    let kept = Kept {
        blocks: 1,
        bytes: 16,
        scarce: 0,
        last_call: 200,
    };
    assert_eq!(after(&[200, 1024]).reason, Reason::Stopped(kept));
}

#[test]
fn a_step_in_the_last_octaves_is_waited_for() {
    let after = |calls| {
        let mut judge = Judge::new(Rules::default());
        for call in 1..=calls {
            let bytes = u64::from(call > 6000) << 20;
            judge.checkpoint(call, Amount { blocks: 1, bytes });
        }
        matches!(judge.look(calls, FAST, &[]), Next::Done(_))
    };
    assert!(after(4096) && !after(16_384) && after(16_385));
}

#[test]
fn a_trend_goes_on_only_where_sites_rise_by_a_quarter_byte_per_call() {
    let site = |bytes| {
        let mut site = site(0, []);
        site.births.add(1, bytes);
        site
    };
    let after = |bytes: u64| {
        let mut judge = Judge::new(Rules::default());
        (1..=4096).for_each(|call| {
            judge.checkpoint(
                call,
                Amount {
                    blocks: 1,
                    bytes: u64::from(call) * 16,
                },
            )
        });
        assert_eq!(
            judge.look(2048, FAST, &[site(32_768)]),
            Next::Continue { tell_sites: true }
        );
        judge.exhausted(4096, FAST, &[site(32_768 + bytes)])
    };
    let open = after(512);
    assert_eq!(
        (open.verdict, open.findings[0].rate.bytes),
        (Verdict::Indeterminate, 0.25)
    );
    assert_eq!(open.findings[0].births, (2048, 4096));
    assert_eq!(after(511).reason, Reason::NothingGrows);
}

#[test]
fn a_table_that_grows_once_more_after_a_cache_is_full_is_no_leak() {
    // 1,000 entries of 512 bytes, and a table that has grown by so much since the look before.
    let after = |bytes: u64| {
        let rules = Rules {
            period: 1,
            confirm: 2048,
            confirm_slow: 2048,
            ..Rules::default()
        };
        let mut judge = Judge::new(rules);
        (1..=2048u32).for_each(|call| {
            let bytes = u64::from(call.min(1000)) * 512;
            judge.checkpoint(call, Amount { blocks: 1, bytes });
        });
        let table = |bytes| {
            let mut site = site(0, []);
            site.births.add(1, bytes);
            site
        };
        judge.look(1024, FAST, &[table(36_000)]);
        judge.look(2048, FAST, &[table(36_000 + bytes)])
    };
    let leaks = |next| matches!(next, Next::Done(outcome) if outcome.verdict == Verdict::Leak);
    // The trend has brought 744 entries.
    assert!(leaks(after(47_616)) && !leaks(after(47_615)));
}

/// A judge of so many calls, in each of which a witness counts so many more bytes than blocks explain.
fn witnessed(calls: u32, per_call: &[u64]) -> Judge {
    let mut judge = Judge::new(Rules::default());
    for call in (64..=calls).step_by(32) {
        for (witness, bytes) in per_call.iter().enumerate() {
            judge.watch(witness, call, 64 << 10, 0.0);
            judge.witness(witness, call, u64::from(call) * bytes);
        }
    }
    judge
}

#[test]
fn what_only_a_witness_counts_is_a_leak_at_4096_calls() {
    assert_eq!(
        witnessed(1024, &[100]).look(1024, FAST, &[]),
        Next::Continue { tell_sites: false }
    );
    assert_eq!(
        witnessed(2048, &[100]).look(2048, FAST, &[]),
        Next::Continue { tell_sites: true }
    );
    let found = outcome(witnessed(4096, &[0, 100, 200]).look(4096, FAST, &[]));
    assert_eq!((found.verdict, found.reason), (Verdict::Leak, Reason::Findings));
    let found: Vec<_> = found
        .findings
        .iter()
        .map(|found| (found.site, found.rate.bytes, found.births))
        .collect();
    assert_eq!(
        found,
        [(WITNESS + 2, 200.0, (1024, 4096)), (WITNESS + 1, 100.0, (1024, 4096))]
    );
    assert!(WITNESS > u32::MAX as usize, "no number of a site");
    assert_eq!(
        outcome(witnessed(2048, &[0]).look(2048, FAST, &[])).verdict,
        Verdict::Clean
    );
}

#[test]
fn a_witness_is_not_believed_before_the_calls_that_the_period_needs() {
    let mut judge = witnessed(4096, &[100]);
    judge.rules.period = 1025;
    assert_eq!(judge.look(4096, FAST, &[]), Next::Continue { tell_sites: false });
}

#[test]
fn a_witness_is_not_asked_where_blocks_explain_the_growth() {
    let found = outcome(witnessed(4096, &[100]).look(4096, FAST, &[lost(0, 1..=4096)]));
    assert_eq!((found.findings.len(), found.findings[0].site), (1, 0));
    let open = witnessed(4096, &[100]).exhausted(4096, FAST, &[site(0, 1..=4096)]);
    assert_eq!(
        (open.verdict, open.findings.len(), open.findings[0].site),
        (Verdict::Indeterminate, 1, 0)
    );
}

#[test]
fn what_a_witness_saw_too_briefly_is_not_decided() {
    let open = witnessed(2048, &[100]).exhausted(2048, FAST, &[]);
    assert_eq!(
        (open.verdict, open.reason),
        (Verdict::Indeterminate, Reason::StillGrowing)
    );
    assert_eq!((open.findings[0].site, open.findings[0].rate.bytes), (WITNESS, 100.0));
}
