//! Threads that were there before: whether they work for the calls.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leaktight_hooks as hooks;
use leaktight_memory::{has_other_threads, others_sleep};

use super::Run;
use crate::budget::Spent;
use crate::check::Error;
use crate::room::with_room;
use crate::sites::Survey;
use crate::subject::Subject;

const NO_TIME: &str = "another thread allocates, and no calls or no time were left to see whether it works for the calls; its \
    blocks are left out";

/// So many moments at rest are rest.
const NAPS: u32 = 5;
/// So many milliseconds others are waited for, in whatever check: threads live longer than these.
static PATIENCE: AtomicU64 = AtomicU64::new(LONGEST.as_millis() as u64);
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);
/// So many blocks a thread of its own accord should leave behind in the time that it is watched.
const ENOUGH: f64 = 5.0;

impl<S: Subject> Run<'_, S> {
    /// Threads that were there before may do work for the calls, or go their own way. Only places where
    /// they leave more behind while calls are made than while nothing is called are judged.
    pub(super) fn leave_out_other_threads(&mut self, spent: Option<Spent>) -> Result<(), Error<S::Error>> {
        const ROUNDS: usize = 4;
        const LEAST_CALLS: u32 = 16;
        if !self.in_step.is_empty() {
            // What many calls have left to a queue may take as long as they did.
            self.let_others_catch_up(LONGEST.max(self.budget.elapsed() / 2), NAPS);
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
        let patience = self.patience();
        self.come_to_rest_within(patience, NAPS);
        self.sites.begin_idle();
        // After many looks, some are from earlier ones.
        let mut idle_before = self.survey_all().idle_by_site();
        let (mut busy_time, mut idle_time) = (Duration::ZERO, Duration::ZERO);
        let mut rounds = Vec::new();
        let settled_before = self.times_settled;
        for round in 1..=ROUNDS {
            let started = Instant::now();
            let first = self.calls + 1;
            self.call_until(self.calls + calls)?;
            let called = started.elapsed();
            idle_time += called.clamp(SHORTEST, LONGEST);
            let patience = match round {
                ROUNDS => self.patience().max(idle_time * 2),
                _ => self.patience().max(called * 2),
            };
            self.come_to_rest_within(patience, NAPS);
            rounds.push(first..=self.calls);
            busy_time += started.elapsed();
        }
        let times_settled = self.times_settled - settled_before;
        let in_time = |time: Duration| (f64::from(times_settled) * time.as_secs_f64() / busy_time.as_secs_f64()) as u32;
        self.let_pass(idle_time, in_time(idle_time));
        let mut survey = self.survey_all();
        let idle = |survey: &Survey, before: &HashMap<usize, u64>, at: usize| {
            let known = before.get(&survey.sites[at].id).copied().unwrap_or(0);
            survey.idle[at].saturating_sub(known) as f64
        };
        let busy_rate = |survey: &Survey, at: usize| {
            let born = |round: &RangeInclusive<u32>| -> u64 {
                let births = survey.sites[at].births.iter();
                births
                    .filter(|(birth, _)| round.contains(birth))
                    .map(|(_, sum)| sum.blocks)
                    .sum()
            };
            let busy: Vec<u64> = rounds.iter().map(born).collect();
            // In one round it could be chance.
            let is_steady = busy.iter().filter(|blocks| **blocks > 0).count() >= ROUNDS - 1;
            is_steady.then(|| busy.iter().sum::<u64>() as f64 / busy_time.as_secs_f64())
        };
        let keeps_step = |survey: &Survey, before: &HashMap<usize, u64>, at: usize, time: Duration| {
            busy_rate(survey, at).is_some_and(|busy| idle(survey, before, at) / time.as_secs_f64() * 3.0 < busy)
        };
        let foreign = |run: &Self, survey: &Survey| -> Vec<usize> {
            let all = 0..survey.sites.len();
            all.filter(|at| run.sites.place(survey.sites[*at].id).foreign).collect()
        };
        // Work that was left over from the calls comes to an end; what a thread does of its own accord does not.
        let doubtful = foreign(self, &survey).into_iter().filter_map(|at| {
            let rate = busy_rate(&survey, at)?;
            (!keeps_step(&survey, &idle_before, at, idle_time)).then_some(rate)
        });
        if let Some(slowest) = doubtful.reduce(f64::min) {
            self.sites.begin_idle();
            idle_before = self.survey_all().idle_by_site();
            idle_time = idle_time.max(Duration::from_secs_f64(ENOUGH / slowest)).min(LONGEST);
            self.let_pass(idle_time, in_time(idle_time));
            survey = self.survey_all();
        }
        let (in_step, alone): (Vec<usize>, Vec<usize>) = foreign(self, &survey)
            .into_iter()
            .partition(|at| keeps_step(&survey, &idle_before, *at, idle_time));
        let ids = |places: Vec<usize>| -> Vec<usize> { places.iter().map(|at| survey.sites[*at].id).collect() };
        let (in_step, alone) = (ids(in_step), ids(alone));
        self.in_step = in_step;
        self.sites.leave_out(&alone);
        if !alone.is_empty() {
            self.remark("another thread allocates without keeping step with the calls; its blocks are left out");
        }
        Ok(())
    }

    /// Brings the program to rest, so that counts can be read: threads that are about to end, and what the calls have left
    /// to others.
    pub(super) fn come_to_rest(&mut self) {
        self.let_threads_end();
        let screens = self.calls < self.screens_until;
        if self.references.objects > 0 && !screens && has_other_threads() {
            let patience = self.patience();
            self.come_to_rest_within(patience, 1);
        }
        self.settle();
    }

    /// Threads that never come to rest are not waited for again and again.
    fn patience(&self) -> Duration {
        Duration::from_millis(PATIENCE.load(Ordering::Relaxed))
    }

    /// Each time in vain halves the patience, each other doubles it.
    fn come_to_rest_within(&mut self, most: Duration, moments: u32) {
        /// Fewer would not be enough for the moments.
        const LEAST: u64 = 7;
        const MOST: u64 = LONGEST.as_millis() as u64;
        let rests = self.let_others_catch_up(most, moments);
        let patience = PATIENCE.load(Ordering::Relaxed);
        let patience = if rests { patience * 2 } else { patience / 2 };
        PATIENCE.store(patience.clamp(LEAST, MOST), Ordering::Relaxed);
    }

    /// Lets threads that were there before do what the last calls have left to them, as behind a queue: until they wait
    /// and leave no more behind, for so many moments, or so long. What they allocate meanwhile belongs to the last call.
    /// Whether they have caught up.
    fn let_others_catch_up(&mut self, most: Duration, moments: u32) -> bool {
        const MOMENT: Duration = Duration::from_millis(1);
        let started = Instant::now();
        let (mut before, mut at_rest) = (hooks::totals().foreign.blocks, 0);
        hooks::leave_call(self.calls);
        while at_rest < moments && started.elapsed() < most {
            // On a busy machine one may have had no processor meanwhile.
            let asleep = self.subject.away(|| {
                std::thread::sleep(MOMENT);
                others_sleep()
            });
            let now = hooks::totals().foreign.blocks;
            at_rest = if asleep && now == before { at_rest + 1 } else { 0 };
            before = now;
        }
        at_rest == moments
    }

    /// Gives threads that the calls have started, and that are about to end, the time to do so: what they will
    /// allocate belongs to those calls. Workers that stay are not waited for.
    fn let_threads_end(&mut self) {
        const STEP: Duration = Duration::from_millis(1);
        const PATIENCE: u32 = 5;
        let (mut left, mut in_vain) = (hooks::threads_under_way(), 0);
        while left > 0 && in_vain < PATIENCE {
            self.subject.idle(STEP);
            let now = hooks::threads_under_way();
            in_vain = if now < left { 0 } else { in_vain + 1 };
            left = now;
        }
    }

    /// Lets the time pass while nothing is called, and settles meanwhile as often as among calls, the last time at its end.
    /// Each time a runtime empties its free lists, and what a thread makes next has new blocks in place of those that it had:
    /// that would look like keeping step.
    fn let_pass(&mut self, time: Duration, times: u32) {
        /// Of fewer, all might meet a free list that is empty.
        const LEAST: u32 = 4;
        let times = times.max(LEAST);
        for _ in 0..times {
            hooks::leave_call(self.sites.idle);
            self.subject.idle(time / times);
            self.settle();
        }
    }

    /// All sites, those of other threads too.
    fn survey_all(&mut self) -> Survey {
        self.sites.leave_out(&[]);
        with_room(|| self.sites.survey(&[], self.subject))
    }

    /// Sites of other threads with survivors that are not new.
    fn suspects(&mut self) -> Vec<usize> {
        let old = self.calls - self.calls / 8;
        let survey = self.survey_all();
        let suspects = survey.sites.iter().filter(|site| self.sites.place(site.id).foreign);
        suspects
            .filter(|site| site.births.iter().any(|(birth, _)| birth < old))
            .map(|site| site.id)
            .collect()
    }
}
