//! The judge against the series that real programs make: leaks of every rhythm must be found, caches and
//! noise of every kind must not be called leaks. Each is played to the judge as the engine does it.

use leaktight_verdict::{Amount, Births, Certainty, Judge, Next, Outcome, Rules, Site, Verdict};
use proptest::prelude::*;

/// The live blocks of a simulated program.
#[derive(Default)]
struct Program {
    /// The blocks stand for descriptors or threads.
    scarce: bool,
    blocks: Vec<Block>,
    random: u64,
}

#[derive(Clone, Copy)]
struct Block {
    birth: u32,
    site: usize,
    bytes: u64,
    lost: bool,
}

impl Program {
    fn keep(&mut self, birth: u32, site: usize, bytes: u64) {
        self.blocks.push(Block {
            birth,
            site,
            bytes,
            lost: false,
        });
    }

    fn lose(&mut self, birth: u32, site: usize, bytes: u64) {
        self.blocks.push(Block {
            birth,
            site,
            bytes,
            lost: true,
        });
    }

    fn count(&self, site: usize) -> usize {
        self.blocks.iter().filter(|block| block.site == site).count()
    }

    fn free_oldest(&mut self, site: usize) {
        if let Some(at) = self.blocks.iter().position(|block| block.site == site) {
            self.blocks.remove(at);
        }
    }

    /// A number below `below` (xorshift).
    fn random(&mut self, below: u64) -> u64 {
        let mut state = self.random | 1;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random = state;
        (state >> 11) % below
    }
}

fn judge(rules: Rules, seed: u64, mut call: impl FnMut(u32, &mut Program)) -> (Outcome, u32) {
    let mut program = Program {
        random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        ..Program::default()
    };
    let mut judge = Judge::new(rules);
    let mut told_since = None;
    let mut calls = 0;
    loop {
        let look = judge.next_look(calls);
        while calls < look {
            calls += 1;
            call(calls, &mut program);
            if Judge::wants_checkpoint(calls) {
                let bytes = program.blocks.iter().map(|block| block.bytes).sum();
                judge.checkpoint(
                    calls,
                    Amount {
                        blocks: program.blocks.len() as u64,
                        bytes,
                    },
                );
            }
        }
        let mut sites = sites(&program, told_since);
        if !judge.wants_reachability(calls, &sites) {
            sites.iter_mut().for_each(|site| site.lost = Births::default());
        }
        match judge.look(calls, &sites) {
            Next::Done(outcome) => return (outcome, calls),
            Next::Continue { tell_sites: true } => told_since = told_since.or(Some(calls)),
            Next::Continue { tell_sites: false } => {}
        }
    }
}

fn sites(program: &Program, told_since: Option<u32>) -> Vec<Site> {
    let mut sites: Vec<Site> = Vec::new();
    for block in &program.blocks {
        let told = told_since.is_some_and(|since| block.birth > since);
        let id = if told { block.site + 1 } else { 0 };
        let at = sites.iter().position(|site| site.id == id).unwrap_or_else(|| {
            let (births, lost) = (Births::default(), Births::default());
            sites.push(Site {
                id,
                told,
                births,
                lost,
                peers: Amount::default(),
                scarce: program.scarce,
            });
            sites.len() - 1
        });
        sites[at].births.add(block.birth, block.bytes);
        if block.lost {
            sites[at].lost.add(block.birth, block.bytes);
        }
    }
    for site in &mut sites {
        // Every site has sizes of its own here.
        site.peers = site.births.total();
    }
    sites
}

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
fn few_calls_say_nothing_and_a_budget_says_how_deep() {
    let shallow = |max_calls| Rules {
        max_calls,
        ..Rules::default()
    };
    let (outcome, _) = judge(shallow(8), 1, |_, _| {});
    assert_eq!(outcome.verdict, Verdict::Indeterminate);
    let (outcome, _) = judge(shallow(100), 1, |_, _| {});
    assert_eq!((outcome.verdict, outcome.period), (Verdict::Clean, 25));
    let (outcome, _) = judge(shallow(4096), 1, |call, program| program.keep(call, 0, 48));
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Indeterminate, 1));
    // A list that grows by a pointer at each call, and one that is filled once.
    let list = |until: u32| {
        move |call: u32, program: &mut Program| {
            program.blocks.clear();
            program.keep(call, 0, u64::from(call.min(until)).next_multiple_of(8) * 9);
        }
    };
    let (outcome, _) = judge(shallow(256), 1, list(u32::MAX));
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Indeterminate, 1));
    let (outcome, _) = judge(shallow(256), 1, list(30));
    assert_ne!(outcome.verdict, Verdict::Indeterminate, "{outcome:?}");
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
