//! Threads that were there before: whether they work for the calls.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use leaktight_hooks as hooks;

use super::Run;
use crate::budget::Spent;
use crate::check::Error;
use crate::room::with_room;
use crate::sites::IDLE;
use crate::subject::Subject;

const NO_TIME: &str = "another thread allocates, and no calls or no time were left to see whether it works for the calls; its \
    blocks are left out";

impl<S: Subject> Run<'_, S> {
    /// Threads that were there before may do work for the calls, or go their own way. Only places where
    /// they leave more behind while calls are made than while nothing is called are judged.
    pub(super) fn leave_out_other_threads(&mut self, spent: Option<Spent>) -> Result<(), Error<S::Error>> {
        const ROUNDS: usize = 4;
        const LEAST_CALLS: u32 = 16;
        const SHORTEST: Duration = Duration::from_millis(2);
        const LONGEST: Duration = Duration::from_millis(100);
        if !self.in_step.is_empty() {
            self.let_others_catch_up(LONGEST);
        }
        let suspects = self.suspects();
        self.sites.leave_out(&suspects);
        if suspects.is_empty() {
            return Ok(());
        }
        let left = (self.max_calls - self.calls) / ROUNDS as u32;
        let calls = (self.calls / 8).max(LEAST_CALLS).min(left);
        if spent.is_some() || calls < LEAST_CALLS {
            // What has kept step at the look before does so now.
            let is_unknown = |site: &usize| !self.in_step.contains(site);
            let unknown: Vec<usize> = suspects.into_iter().filter(is_unknown).collect();
            self.sites.leave_out(&unknown);
            if !unknown.is_empty() {
                self.remark(NO_TIME);
            }
            return Ok(());
        }
        self.let_others_catch_up(SHORTEST * 5);
        // Some are from earlier looks.
        let idle_before = with_room(|| self.sites.survey(&[], self.subject)).idle_by_site();
        let (mut busy_time, mut idle_time) = (Duration::ZERO, Duration::ZERO);
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let started = Instant::now();
            let first = self.calls + 1;
            self.call_until(self.calls + calls)?;
            idle_time += started.elapsed().clamp(SHORTEST, LONGEST);
            self.let_others_catch_up(if round < ROUNDS {
                SHORTEST * 5
            } else {
                LONGEST.max(idle_time * 2)
            });
            rounds.push(first..=self.calls);
            busy_time += started.elapsed();
        }
        hooks::leave_call(IDLE);
        self.subject.idle(idle_time);
        self.settle();
        self.sites.leave_out(&[]);
        let survey = with_room(|| self.sites.survey(&[], self.subject));
        let keeps_step = |at: usize| {
            let born = |round: &RangeInclusive<u32>| -> u64 {
                let births = survey.sites[at].births.iter();
                births
                    .filter(|(birth, _)| round.contains(birth))
                    .map(|(_, sum)| sum.blocks)
                    .sum()
            };
            let busy: Vec<u64> = rounds.iter().map(born).collect();
            let busy_rate = busy.iter().sum::<u64>() as f64 / busy_time.as_secs_f64();
            let idle_before = idle_before.get(&survey.sites[at].id).copied().unwrap_or(0);
            let idle_rate = survey.idle[at].saturating_sub(idle_before) as f64 / idle_time.as_secs_f64();
            // In one round it could be chance.
            busy.iter().filter(|blocks| **blocks > 0).count() >= ROUNDS - 1 && idle_rate * 3.0 < busy_rate
        };
        let others = (0..survey.sites.len()).filter(|at| self.sites.place(survey.sites[*at].id).foreign);
        let (in_step, alone): (Vec<usize>, Vec<usize>) = others.partition(|at| keeps_step(*at));
        let ids = |places: Vec<usize>| -> Vec<usize> { places.iter().map(|at| survey.sites[*at].id).collect() };
        let (in_step, alone) = (ids(in_step), ids(alone));
        self.in_step = in_step;
        self.sites.leave_out(&alone);
        if !alone.is_empty() {
            self.remark("another thread allocates without keeping step with the calls; its blocks are left out");
        }
        Ok(())
    }

    /// Lets threads that were there before do what the last calls have left to them, as behind a queue: until they leave no
    /// more behind, or so long. What they allocate meanwhile belongs to the last call.
    fn let_others_catch_up(&mut self, most: Duration) {
        const STEP: Duration = Duration::from_millis(1);
        const PATIENCE: u32 = 5;
        let started = Instant::now();
        let (mut before, mut in_vain) = (hooks::totals().foreign.blocks, 0);
        hooks::leave_call(self.calls);
        while in_vain < PATIENCE && started.elapsed() < most {
            self.subject.idle(STEP);
            let now = hooks::totals().foreign.blocks;
            in_vain = if now == before { in_vain + 1 } else { 0 };
            before = now;
        }
    }

    /// Sites of other threads with survivors that are not new.
    fn suspects(&mut self) -> Vec<usize> {
        let old = self.calls - self.calls / 8;
        self.sites.leave_out(&[]);
        let survey = with_room(|| self.sites.survey(&[], self.subject));
        let suspects = survey.sites.iter().filter(|site| self.sites.place(site.id).foreign);
        suspects
            .filter(|site| site.births.iter().any(|(birth, _)| birth < old))
            .map(|site| site.id)
            .collect()
    }
}
