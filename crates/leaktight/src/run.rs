//! One check: call, settle, look, until the judge is sure.

mod following;
mod others;

use std::sync::OnceLock;
use std::time::Duration;

use leaktight_elf::loaded_objects;
use leaktight_hooks as hooks;
use leaktight_memory::has_other_threads;
use leaktight_report::{Control, Look, Report};
use leaktight_verdict::{Amount, Certainty, Judge, Next, Outcome, Site, Verdict};

use crate::budget::{Budget, Spent};
use crate::check::{Check, Error};
use crate::checks::Checks;
use crate::control;
use crate::findings::{self, Seen};
use crate::makers;
use crate::reach::Reach;
use crate::references::References;
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
/// Fewer calls may only acquit: what they have left behind may be gone after the next.
const LEAST_TO_FOLLOW: u32 = 4;

struct Run<'a, S> {
    subject: &'a mut S,
    session: Session,
    judge: Judge,
    budget: Budget,
    sites: Sites,
    checks: Checks,
    resources: Resources,
    references: References,
    /// Counts moved, and there were too few calls, or too little time, to find out why.
    unfollowed: bool,
    control: Control,
    witnesses: Witnesses,
    calls: u32,
    max_calls: u32,
    /// The first look that may acquit, and the period that it is to speak of.
    clean_at: u32,
    period: u32,
    /// The last look of the screening.
    screens_until: u32,
    /// Blocks that were alive when the subject was last at rest.
    settled: u64,
    times_settled: u32,
    looks: Vec<Look>,
    /// Our frames on the stack lie below.
    own_stack: usize,
    /// Sites of other threads that have kept step with the calls at the last look that could tell.
    in_step: Vec<usize>,
    remarks: Vec<String>,
    blind_spots: Vec<String>,
}

pub(crate) fn run<S: Subject>(
    check: &Check,
    own_only: bool,
    session: Session,
    subject: &mut S,
) -> Result<Report, Error<S::Error>> {
    let here = 0u8;
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
        clean_at: rules.clean_at(),
        period: rules.period,
        screens_until: rules.screens_until(),
        settled: 0,
        times_settled: 0,
        looks: Vec::new(),
        own_stack: &raw const here as usize,
        in_step: Vec::new(),
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
        // What the warm-up makes is known by its blocks, which an object from a free list has not.
        if rules.screen.is_none() {
            run.settle();
        }
    }
    for _ in 0..check.warm_up {
        run.call()?;
    }
    run.warm_up(rules.screen.is_some())?;
    with_room(|| run.references.begin(run.calls, run.subject, &mut run.control));
    run.check_control();
    with_room(|| run.resources.begin(run.calls, run.subject));
    if check.checks.memory {
        run.looks.push(Survey::default().look(run.calls));
    }
    if run.judge.tells_sites() || check.holders {
        with_room(|| run.session.tell_stacks());
    }
    let judged = run.judge_all();
    with_room(|| run.references.let_go(check.warm_up + run.calls, run.subject));
    let (outcome, spent, survey, mut reach) = judged?;
    if check.holders && reach.is_none() {
        // Without it the runtime alone says who holds what.
        reach = with_room(|| Reach::find(run.subject, run.own_stack)).ok();
    }
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
        checks: run.checks,
        wants_holders: check.holders,
    };
    let (mut report, unsure) =
        with_room(|| findings::report(seen, &mut run.sites, &run.resources, &run.witnesses, run.subject));
    let calls = makers::Calls {
        subject: run.subject,
        session: &run.session,
        budget: &run.budget,
        made: &mut run.calls,
        most: run.max_calls,
    };
    // Not before: these calls may free what the findings are about.
    makers::find(&mut report, unsure, calls)?;
    report.calls = u64::from(run.calls);
    Ok(report)
}

type Judged = (Outcome, Option<Spent>, Survey, Option<Reach>);

impl<S: Subject> Run<'_, S> {
    /// The calls before reference counts and resources are noted. Where few calls are to say something, the first one counts
    /// for memory.
    fn warm_up(&mut self, screens: bool) -> Result<(), Error<S::Error>> {
        let most = if screens { 1 } else { WARM_UP };
        self.screen();
        while self.calls < most.min(self.max_calls) && (self.calls == 0 || self.budget.spent(0).is_none()) {
            self.calls += 1;
            if screens {
                hooks::enter_call(self.calls);
            }
            self.call()?;
        }
        self.settle();
        self.screen();
        Ok(())
    }

    fn screen(&mut self) {
        if self.checks.memory {
            self.judge.screen(self.calls, own_total());
        }
    }

    fn judge_all(&mut self) -> Result<Judged, Error<S::Error>> {
        loop {
            let target = self.judge.next_look(self.calls);
            let mut spent = None;
            // Counts of two moments do not tell what moves with the calls.
            if target >= self.clean_at && self.calls < target / 2 && self.references.wants_middle(target, self.period) {
                spent = self.call_until(target / 2)?;
                self.come_to_rest();
                with_room(|| self.references.look(self.calls));
            }
            if spent.is_none() {
                spent = self.call_until(target)?;
            }
            self.come_to_rest();
            let screens = self.calls < self.screens_until && spent.is_none();
            if !screens || self.calls >= LEAST_TO_FOLLOW {
                self.leave_out_other_threads(spent)?;
            }
            with_room(|| {
                self.resources.look_closely(self.calls, self.subject);
                self.references.look(self.calls);
            });
            let are_known = spent.is_none() && self.are_lost_again()?;
            // What moves with a few calls is not followed before more have shown the same.
            let waits = screens && !are_known && self.references.may_be_chance();
            if !waits && !are_known {
                self.follow_references(spent)?;
            }
            let (mut survey, mut reach) = self.survey();
            let mut next = with_room(|| self.ask(spent, &survey));
            match &next {
                Next::Done(outcome) if waits && outcome.verdict == Verdict::Clean => {
                    self.settle();
                    continue;
                }
                Next::Done(outcome) if spent.is_none() && self.is_open(outcome) => {
                    self.settle();
                    continue;
                }
                Next::Done(_) if waits => {
                    self.follow_references(None)?;
                    (survey, reach) = self.survey();
                    next = with_room(|| self.ask(None, &survey));
                }
                _ => {}
            }
            if self.checks.memory {
                self.looks.push(survey.look(self.calls));
            }
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

    /// Whether an acquittal speaks of a longer period than the counts of references do: these are fewer than blocks, and
    /// take more calls to be sure of. Where that is many more, the report says what was not seen.
    fn is_open(&self, outcome: &Outcome) -> bool {
        const FEW: u32 = 256;
        matches!(outcome.verdict, Verdict::Clean | Verdict::Bounded)
            && self.references.period(outcome.period) < outcome.period
            && self.calls < self.max_calls.min(FEW)
    }

    fn call_until(&mut self, target: u32) -> Result<Option<Spent>, Error<S::Error>> {
        while self.calls < target.min(self.max_calls) {
            self.next_call()?;
            let spent = match Judge::wants_checkpoint(self.calls) {
                true => self.checkpoint(),
                false => self.budget.spent(0),
            };
            if spent.is_some() {
                return Ok(spent);
            }
        }
        Ok(None)
    }

    fn next_call(&mut self) -> Result<(), Error<S::Error>> {
        self.calls += 1;
        hooks::enter_call(self.calls);
        self.call()
    }

    fn checkpoint(&mut self) -> Option<Spent> {
        self.settle_if_more();
        let own = own_total();
        if self.checks.memory {
            self.judge.checkpoint(self.calls, own);
            let elapsed = self.budget.elapsed();
            with_room(|| self.witnesses.checkpoint(self.calls, elapsed, &mut self.judge));
        }
        with_room(|| self.resources.look(self.calls, self.subject));
        if self.resources.run_out() {
            return Some(Spent::Descriptors);
        }
        self.subject.progress(self.calls, self.budget.elapsed());
        self.budget.spent(own.bytes)
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
        call(self.subject, &self.session)
    }

    fn settle(&mut self) {
        hooks::watched(|| self.subject.settle());
        self.settled = hooks::totals().own.blocks;
        self.times_settled += 1;
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
        let survey = with_room(|| self.sites.survey(&[], self.subject));
        if !self.judge.wants_reachability(self.calls, &survey.sites) {
            return (survey, None);
        }
        match with_room(|| Reach::find(self.subject, self.own_stack)) {
            Ok(reach) => (self.sites.survey(&[&reach], self.subject), Some(reach)),
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
        // The first look may have put objects of our own on the runtime's free lists, as in `judge_all`.
        self.settle();
        self.call_until(self.calls.saturating_add(CALLS))?;
        hooks::leave_call(IDLE);
        self.subject.idle(TIME);
        self.settle();
        let second = with_room(|| Reach::find(self.subject, self.own_stack));
        let scans = second.iter().chain([first]).collect::<Vec<_>>();
        // Without a second scan nothing is proved.
        Ok(self
            .sites
            .survey(if second.is_ok() { &scans } else { &[] }, self.subject))
    }

    fn remark(&mut self, remark: &str) {
        if !self.remarks.iter().any(|known| known == remark) {
            self.remarks.push(remark.to_owned());
        }
    }
}

/// What is alive of the watched threads.
fn own_total() -> Amount {
    let own = hooks::totals().own;
    Amount {
        blocks: own.blocks,
        bytes: own.bytes,
    }
}

pub(crate) fn call<S: Subject>(subject: &mut S, session: &Session) -> Result<(), Error<S::Error>> {
    let result = match subject.watches_itself() {
        true => subject.call(),
        false => hooks::watched(|| subject.call()),
    };
    if hooks::forked() {
        return Err(Error::ForkedChild);
    }
    session.look_for_new_objects();
    result.map_err(Error::Call)
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
    // It comes with the program or not at all.
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let mut found = false;
        loaded_objects(|object| found |= object.defines(c"__asan_init").is_some());
        found
    })
}
