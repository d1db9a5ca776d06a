//! One check: call, settle, look, until the judge is sure.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use leaktight_elf::loaded_objects;
use leaktight_hooks as hooks;
use leaktight_memory::has_other_threads;
use leaktight_report::{Control, Look, Report};
use leaktight_verdict::{Amount, Certainty, Judge, Next, Outcome, Site};

use crate::budget::{Budget, Spent};
use crate::check::{Check, Error};
use crate::checks::Checks;
use crate::control;
use crate::findings::{self, Seen};
use crate::reach::Reach;
use crate::references::{CloseLook, References};
use crate::resources::Resources;
use crate::room::with_room;
use crate::session::Session;
use crate::sites::{IDLE, LAST_CALL, Sites, Survey};
use crate::subject::Subject;
use crate::witnesses::Witnesses;

/// As debug information names it.
pub(crate) const FILE: &str = file!();

/// Calls before what they leave behind is counted: imports, lazily bound libraries.
const WARM_UP: u32 = 2;

struct Run<'a, S> {
    subject: &'a mut S,
    session: Session,
    judge: Judge,
    budget: Budget,
    sites: Sites,
    checks: Checks,
    resources: Resources,
    references: References,
    /// Counts moved, and there were too few calls to find out why.
    unfollowed: bool,
    control: Control,
    witnesses: Witnesses,
    calls: u32,
    max_calls: u32,
    /// Blocks that were alive when the subject was last at rest.
    settled: u64,
    looks: Vec<Look>,
    remarks: Vec<String>,
    blind_spots: Vec<String>,
}

pub(crate) fn run<S: Subject>(
    check: &Check,
    own_only: bool,
    session: Session,
    subject: &mut S,
) -> Result<Report, Error<S::Error>> {
    let budget = Budget::start(check.time, check.bytes);
    let unwitnessed = unwitnessed(own_only, subject);
    let mut rules = check.rules;
    rules.max_calls = rules.max_calls.min(LAST_CALL);
    let mut run = Run {
        subject,
        session,
        judge: Judge::new(rules),
        budget,
        sites: Sites::default(),
        checks: check.checks,
        resources: Resources::new(check.checks, own_only),
        references: References::default(),
        unfollowed: false,
        control: Control::default(),
        witnesses: Witnesses::new(unwitnessed.is_none()),
        calls: 0,
        max_calls: rules.max_calls,
        settled: 0,
        looks: Vec::new(),
        remarks: Vec::new(),
        blind_spots: Vec::new(),
    };
    if run.checks.memory {
        let spot = unwitnessed.map(|why| format!("memory taken from the kernel by no function of libc ({why})"));
        run.blind_spots.extend(spot);
        run.blind_spots.extend(hooks::not_at_entry());
    }
    hooks::leave_call(IDLE - 2);
    if check.checks.references {
        run.references = with_room(|| References::hold(run.subject));
    }
    for _ in 0..check.warm_up {
        run.call()?;
    }
    let warm_up = if rules.screen.is_some() { 1 } else { WARM_UP };
    while run.calls < warm_up.min(check.rules.max_calls) && (run.calls == 0 || run.budget.spent(0).is_none()) {
        run.calls += 1;
        run.call()?;
    }
    run.settle();
    with_room(|| run.references.begin(run.calls, run.subject, &mut run.control));
    run.check_control();
    with_room(|| run.resources.begin(run.calls, run.subject));
    if check.checks.memory {
        run.looks.push(Survey::default().look(run.calls));
    }
    let judged = run.judge_all();
    with_room(|| run.references.let_go(check.warm_up + run.calls, run.subject));
    let (outcome, spent, survey, reach) = judged?;
    run.check_control();
    if hooks::overflowed() {
        run.control
            .missed
            .push("blocks for which the tracker had no memory".to_owned());
    }
    let seen = Seen {
        judge: run.judge,
        outcome,
        spent,
        survey,
        reach,
        control: run.control,
        calls: u64::from(run.calls),
        elapsed: run.budget.elapsed(),
        looks: run.looks,
        remarks: run.remarks,
        blind_spots: run.blind_spots,
        references: run.references,
        unfollowed: run.unfollowed,
    };
    Ok(with_room(|| {
        findings::report(seen, &mut run.sites, &run.resources, &run.witnesses, run.subject)
    }))
}

type Judged = (Outcome, Option<Spent>, Survey, Option<Reach>);

impl<S: Subject> Run<'_, S> {
    fn judge_all(&mut self) -> Result<Judged, Error<S::Error>> {
        loop {
            let target = self.judge.next_look(self.calls);
            let spent = self.call_until(target)?;
            self.let_threads_end();
            self.settle();
            self.leave_out_other_threads(spent)?;
            with_room(|| {
                self.resources.look_closely(self.calls, self.subject);
                self.references.look(self.calls);
            });
            self.follow_references(spent)?;
            let (mut survey, reach) = self.survey();
            if self.checks.memory {
                self.looks.push(survey.look(self.calls));
            }
            let mut next = with_room(|| self.ask(spent, &survey));
            if let (Next::Done(outcome), Some(first)) = (&next, &reach)
                && outcome.findings.iter().any(|found| found.certainty == Certainty::Lost)
                && has_other_threads()
            {
                survey = self.look_again(first)?;
                next = with_room(|| self.ask(spent, &survey));
            }
            match next {
                Next::Done(outcome) => return Ok((outcome, spent, survey, reach)),
                Next::Continue { tell_sites } => {
                    if tell_sites {
                        with_room(|| self.session.tell_stacks());
                    }
                    // Looking may have put objects of our own on the runtime's free lists, and what is
                    // taken from there is not seen.
                    self.settle();
                }
            }
        }
    }

    fn call_until(&mut self, target: u32) -> Result<Option<Spent>, Error<S::Error>> {
        while self.calls < target.min(self.max_calls) {
            self.calls += 1;
            hooks::enter_call(self.calls);
            self.call()?;
            let mut bytes = 0;
            if Judge::wants_checkpoint(self.calls) {
                self.settle_if_more();
                let own = hooks::totals().own;
                bytes = own.bytes;
                if self.checks.memory {
                    let amount = Amount {
                        blocks: own.blocks,
                        bytes,
                    };
                    self.judge.checkpoint(self.calls, amount);
                    let elapsed = self.budget.elapsed();
                    with_room(|| self.witnesses.checkpoint(self.calls, elapsed, &mut self.judge));
                }
                with_room(|| self.resources.look(self.calls, self.subject));
                if self.resources.run_out() {
                    return Ok(Some(Spent::Descriptors));
                }
                self.subject.progress(self.calls, self.budget.elapsed());
            }
            if let Some(spent) = self.budget.spent(bytes) {
                return Ok(Some(spent));
            }
        }
        Ok(None)
    }

    /// A close look at objects whose counts have moved with the calls, over two more rows of calls. It may take half
    /// of the time that is left.
    fn follow_references(&mut self, spent: Option<Spent>) -> Result<(), Error<S::Error>> {
        const LEAST: u32 = 4;
        self.unfollowed = false;
        while let Some(mut look) = self.references.suspect() {
            // The close look begins with counts of this moment.
            with_room(|| self.references.look(self.calls));
            let left = self.calls_left();
            let asked: u32 = look.windows.iter().sum();
            let share = f64::from(left.min(asked)) / f64::from(asked);
            let windows = look.windows.map(|calls| (f64::from(calls) * share) as u32);
            if spent.is_some() || windows[0] < LEAST {
                self.unfollowed = true;
                return Ok(());
            }
            if !self.look_closely(&mut look) {
                self.unfollowed = true;
                return Ok(());
            }
            for calls in windows {
                let spent = self.call_until(self.calls + calls)?;
                self.let_threads_end();
                self.settle();
                if spent.is_some() || !self.look_closely(&mut look) {
                    self.references.abandon(&look, self.subject);
                    self.unfollowed = true;
                    return Ok(());
                }
            }
            with_room(|| self.references.conclude(look, self.subject, &mut self.control));
            self.settle();
        }
        Ok(())
    }

    /// Says whether there was the time for it.
    fn look_closely(&mut self, look: &mut CloseLook) -> bool {
        self.references
            .look_closely(look, self.calls, &self.budget, self.subject)
            .is_ok()
    }

    /// How many calls may be made in half of the time that is left.
    fn calls_left(&self) -> u32 {
        let half = self.budget.left() / 2;
        let per_call = self.budget.elapsed() / self.calls.max(1);
        let in_time = half.as_secs_f64() / per_call.as_secs_f64().max(1e-9);
        (self.max_calls - self.calls).min(in_time as u32)
    }

    fn check_control(&mut self) {
        let counted = self.references.objects > 0;
        let kernel = self.witnesses.asks_kernel() && self.checks.memory;
        with_room(|| control::run(self.subject, self.checks, counted, kernel, &mut self.control));
    }

    fn call(&mut self) -> Result<(), Error<S::Error>> {
        let result = match self.subject.watches_itself() {
            true => self.subject.call(),
            false => hooks::watched(|| self.subject.call()),
        };
        if hooks::forked() {
            return Err(Error::ForkedChild);
        }
        self.session.look_for_new_objects();
        result.map_err(Error::Call)
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

    fn settle(&mut self) {
        hooks::watched(|| self.subject.settle());
        self.settled = hooks::totals().own.blocks;
    }

    /// Where calls have left no more behind than there was, there is nothing to collect.
    fn settle_if_more(&mut self) {
        if hooks::totals().own.blocks > self.settled || self.subject.trims() {
            self.settle();
        }
    }

    /// What the judge says now.
    fn ask(&mut self, spent: Option<Spent>, survey: &Survey) -> Next {
        if self.checks.memory {
            self.witnesses.look(self.calls, &mut self.judge);
        }
        let mut all: Vec<Site> = if self.checks.memory {
            survey.sites.clone()
        } else {
            Vec::new()
        };
        all.extend(self.resources.sites(&mut self.sites));
        let took = self.budget.elapsed();
        match spent {
            Some(_) => Next::Done(self.judge.exhausted(self.calls, took, &all)),
            None => self.judge.look(self.calls, took, &all),
        }
    }

    /// The survivors, and which of them are lost where that matters.
    fn survey(&mut self) -> (Survey, Option<Reach>) {
        let survey = with_room(|| self.sites.survey(&[]));
        if !self.judge.wants_reachability(self.calls, &survey.sites) {
            return (survey, None);
        }
        match with_room(|| Reach::find(self.subject)) {
            Ok(reach) => (self.sites.survey(&[&reach]), Some(reach)),
            Err(why) => {
                let spot = format!("whether anything still points to the blocks ({why})");
                if !self.blind_spots.contains(&spot) {
                    self.blind_spots.push(spot);
                }
                (survey, None)
            }
        }
    }

    /// A pointer may lie in a register of another thread, where no scan finds it. It does not stay there: what
    /// a second scan finds lost, some calls and some time later, is lost.
    fn look_again(&mut self, first: &Reach) -> Result<Survey, Error<S::Error>> {
        const CALLS: u32 = 16;
        const TIME: Duration = Duration::from_millis(2);
        self.call_until(self.calls.saturating_add(CALLS))?;
        hooks::leave_call(IDLE);
        self.subject.idle(TIME);
        self.settle();
        let second = with_room(|| Reach::find(self.subject));
        let scans = second.iter().chain([first]).collect::<Vec<_>>();
        // Without a second scan nothing is proved.
        Ok(self.sites.survey(if second.is_ok() { &scans } else { &[] }))
    }

    /// Threads that were there before may do work for the calls, or go their own way. Only places where
    /// they leave more behind while calls are made than while nothing is called are judged.
    fn leave_out_other_threads(&mut self, spent: Option<Spent>) -> Result<(), Error<S::Error>> {
        const ROUNDS: usize = 4;
        const LEAST_CALLS: u32 = 16;
        let suspects = self.suspects();
        self.sites.leave_out(&suspects);
        if suspects.is_empty() {
            return Ok(());
        }
        if spent.is_some() {
            self.remark("another thread allocates, and no time was left to see whether it works for the calls; its blocks are left out");
            return Ok(());
        }
        let calls = (self.calls / 8).max(LEAST_CALLS);
        let (mut busy_time, mut idle_time) = (Duration::ZERO, Duration::ZERO);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let first = self.calls + 1;
            self.call_until(self.calls + calls)?;
            rounds.push(first..=self.calls);
            busy_time += started.elapsed();
            let idle = started
                .elapsed()
                .clamp(Duration::from_millis(2), Duration::from_millis(100));
            hooks::leave_call(IDLE);
            self.subject.idle(idle);
            idle_time += idle;
        }
        self.settle();
        self.sites.leave_out(&[]);
        let survey = with_room(|| self.sites.survey(&[]));
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
            let idle_rate = survey.idle[at] as f64 / idle_time.as_secs_f64();
            // In one round it could be chance.
            busy.iter().filter(|blocks| **blocks > 0).count() >= ROUNDS - 1 && idle_rate * 3.0 < busy_rate
        };
        let others = (0..survey.sites.len()).filter(|at| self.sites.place(survey.sites[*at].id).foreign);
        let alone: Vec<usize> = others
            .filter(|at| !keeps_step(*at))
            .map(|at| survey.sites[at].id)
            .collect();
        self.sites.leave_out(&alone);
        if !alone.is_empty() {
            self.remark("another thread allocates without keeping step with the calls; its blocks are left out");
        }
        Ok(())
    }

    fn remark(&mut self, remark: &str) {
        if !self.remarks.iter().any(|known| known == remark) {
            self.remarks.push(remark.to_owned());
        }
    }

    /// Sites of other threads with survivors that are not new.
    fn suspects(&mut self) -> Vec<usize> {
        let old = self.calls - self.calls / 8;
        self.sites.leave_out(&[]);
        let survey = with_room(|| self.sites.survey(&[]));
        let suspects = survey.sites.iter().filter(|site| self.sites.place(site.id).foreign);
        suspects
            .filter(|site| site.births.iter().any(|(birth, _)| birth < old))
            .map(|site| site.id)
            .collect()
    }
}

/// Why what the process as a whole takes says nothing about the calls, if it does not.
fn unwitnessed<S: Subject>(own_only: bool, subject: &S) -> Option<&'static str> {
    if has_address_sanitizer() {
        Some("the address sanitizer takes much")
    } else if own_only && has_other_threads() {
        Some("other threads may take some meanwhile")
    } else if subject.watches_itself() {
        Some("what runs between the calls may take some")
    } else {
        None
    }
}

fn has_address_sanitizer() -> bool {
    let mut found = false;
    loaded_objects(|object| found |= object.defines(c"__asan_init").is_some());
    found
}
