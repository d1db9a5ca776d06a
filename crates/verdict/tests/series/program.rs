//! A simulated program, and playing it to the judge as the engine does it.

use std::time::Duration;

use leaktight_verdict::{Amount, Births, Judge, Next, Outcome, Rules, Site};

/// Of each block in another place.
const ELSEWHERE_BYTES: u64 = 48;
/// What a call takes where nothing else is said.
const EACH: Duration = Duration::from_micros(10);

/// The live blocks of a simulated program.
#[derive(Default)]
pub struct Program {
    /// The blocks stand for descriptors or threads.
    pub scarce: bool,
    /// Live blocks of the same sizes in other places.
    pub elsewhere: u64,
    pub blocks: Vec<Block>,
    random: u64,
}

#[derive(Clone, Copy)]
pub struct Block {
    pub birth: u32,
    pub site: usize,
    pub bytes: u64,
    pub lost: bool,
    /// It is a descriptor.
    pub scarce: bool,
}

impl Program {
    pub fn keep(&mut self, birth: u32, site: usize, bytes: u64) {
        self.blocks.push(Block {
            birth,
            site,
            bytes,
            lost: false,
            scarce: self.scarce,
        });
    }

    pub fn lose(&mut self, birth: u32, site: usize, bytes: u64) {
        self.blocks.push(Block {
            birth,
            site,
            bytes,
            lost: true,
            scarce: self.scarce,
        });
    }

    pub fn count(&self, site: usize) -> usize {
        self.blocks.iter().filter(|block| block.site == site).count()
    }

    pub fn free_oldest(&mut self, site: usize) {
        if let Some(at) = self.blocks.iter().position(|block| block.site == site) {
            self.blocks.remove(at);
        }
    }

    /// A number below `below` (xorshift).
    pub fn random(&mut self, below: u64) -> u64 {
        let mut state = self.random | 1;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random = state;
        (state >> 11) % below
    }
}

pub fn judge(rules: Rules, seed: u64, call: impl FnMut(u32, &mut Program)) -> (Outcome, u32) {
    judge_timed(rules, EACH, seed, call)
}

pub fn judge_timed(rules: Rules, each: Duration, seed: u64, call: impl FnMut(u32, &mut Program)) -> (Outcome, u32) {
    play(rules, each, seed, u32::MAX, call)
}

/// Judged as if time had run out after so many calls.
pub fn exhausted_after(calls: u32, rules: Rules, call: impl FnMut(u32, &mut Program)) -> Outcome {
    play(rules, EACH, 1, calls, call).0
}

fn play(rules: Rules, each: Duration, seed: u64, end: u32, mut call: impl FnMut(u32, &mut Program)) -> (Outcome, u32) {
    let mut program = Program {
        random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        ..Program::default()
    };
    let mut judge = Judge::new(rules);
    let mut told_since = judge.tells_sites().then_some(0);
    let mut calls = 0;
    judge.screen(0, Amount::default());
    loop {
        let look = judge.next_look(calls);
        assert!(look > calls, "a look at call {look} after {calls}");
        while calls < look.min(end) {
            calls += 1;
            call(calls, &mut program);
            if Judge::wants_checkpoint(calls) {
                let bytes: u64 = program.blocks.iter().map(|block| block.bytes).sum();
                let bytes = bytes + program.elsewhere * ELSEWHERE_BYTES;
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
        if calls < look {
            return (judge.exhausted(calls, each * calls, &sites), calls);
        }
        match judge.look(calls, each * calls, &sites) {
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
        let id = if told { block.site + 1 } else { 0 } + if block.scarce { 1000 } else { 0 };
        let at = sites.iter().position(|site| site.id == id).unwrap_or_else(|| {
            let (births, lost) = (Births::default(), Births::default());
            sites.push(Site {
                id,
                told,
                births,
                lost,
                peers: Amount::default(),
                scarce: block.scarce,
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
        site.peers.blocks += program.elsewhere;
        site.peers.bytes += program.elsewhere * ELSEWHERE_BYTES;
    }
    sites
}
