//! What calls leave behind beside memory: descriptors, threads, child processes, temporary files, shared memory and
//! the like.
//!
//! Which of them exist is asked of the system between calls; the hooks only add which call made each,
//! and where. What was there before the first judged call counts as nobody's.

mod folders;
mod list;
mod name;
mod names;
mod signals;
mod system_v;
mod unseen;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use leaktight_hooks::{self as hooks, Made, Mark};
use leaktight_report::{Finding, Kind, Severity, sentence};
use leaktight_verdict::{Amount, Births, Certainty, Site, SiteFinding};

use crate::checks::Checks;
use crate::origin::Origins;
use crate::sites::{LAST_CALL, Sites};
use crate::subject::Subject;
pub(crate) use list::descriptors;
use names::Names;
use signals::Handlers;
use system_v::Object;
use unseen::{Group, Stance};

/// One thing, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// Its number.
    Descriptor(i32),
    /// The kernel's number for it.
    Thread(i32),
    /// Its process number.
    Child(i32),
    /// A name in a folder for temporary files: its place among all names.
    File(u32),
    /// A name of shared memory, of a semaphore or of a message queue: its place among all names.
    Shared(u32),
    /// The same without a name.
    SystemV(Object),
    /// The place in the runtime's list of objects that cannot be collected.
    Garbage(u64),
}

impl Thing {
    fn kind(self) -> Kind {
        match self {
            Thing::Descriptor(_) => Kind::Fd,
            Thing::Thread(_) => Kind::Thread,
            Thing::Child(_) => Kind::Child,
            Thing::File(_) => Kind::File,
            Thing::Shared(_) | Thing::SystemV(_) => Kind::Ipc,
            Thing::Garbage(_) => Kind::Garbage,
        }
    }
}

/// Follows what exists from call to call.
pub(crate) struct Resources {
    checks: Checks,
    /// Other threads of the process may do something else meanwhile: what nobody saw the calls make is theirs.
    own_only: bool,
    /// Those that calls left behind so far.
    known: BTreeMap<Thing, Mark>,
    /// Those from before the first judged call.
    from_before: BTreeMap<Thing, Mark>,
    /// Those of the known that the calls were not seen to make, and that another program or thread may have made.
    unseen: BTreeSet<Thing>,
    /// Whose they are.
    stances: Vec<(Group, Stance)>,
    names: Names,
    /// Who made them, as far as it was seen.
    child_marks: HashMap<i32, Mark>,
    object_marks: HashMap<Object, Mark>,
    /// Those there are, and whether the system says that this process made them.
    objects: BTreeMap<Object, bool>,
    /// The last call that is not judged.
    first: u32,
    /// The call after which was looked last.
    looked_at: u32,
    /// The call after which was compared last.
    compared_at: u32,
    /// When the first judged call began, and how long nothing was called since.
    started: Instant,
    idle: Duration,
    /// How many descriptors were open then.
    descriptors: usize,
    handlers: Option<Handlers>,
}

impl Resources {
    /// To be called before the first call.
    pub(crate) fn new(checks: Checks, own_only: bool) -> Resources {
        Resources {
            checks,
            own_only,
            known: BTreeMap::new(),
            from_before: BTreeMap::new(),
            unseen: BTreeSet::new(),
            stances: Vec::new(),
            names: Names::default(),
            child_marks: HashMap::new(),
            object_marks: HashMap::new(),
            objects: BTreeMap::new(),
            first: 0,
            looked_at: 0,
            compared_at: 0,
            started: Instant::now(),
            idle: Duration::ZERO,
            descriptors: 0,
            handlers: checks.signals.then(Handlers::now),
        }
    }

    /// What exists now, after the warm-up, is nobody's.
    pub(crate) fn begin(&mut self, call: u32, subject: &mut impl Subject) {
        // Beside calls of others nothing is told of names that nobody saw being made.
        if self.checks.files && !self.own_only {
            self.take_marks();
            self.names.follow_folders();
        }
        self.compare();
        self.look_at(call, subject);
        self.from_before = std::mem::take(&mut self.known);
        self.unseen.clear();
        (self.first, self.compared_at) = (call, call);
        self.started = Instant::now();
    }

    /// Asks for what takes longer to ask for: what is in the folders, and the tables of System V.
    fn compare(&mut self) {
        if self.checks.files {
            self.names.compare_folders();
            self.objects = system_v::objects();
            self.object_marks.retain(|object, _| self.objects.contains_key(object));
        }
    }

    /// What there is now, or was at the last comparison, and whose it is, as far as it was seen.
    fn now(&mut self, subject: &mut impl Subject) -> BTreeMap<Thing, Option<Mark>> {
        self.take_marks();
        let mut now: BTreeMap<Thing, Option<Mark>> = BTreeMap::new();
        if self.checks.fds {
            let open = list::descriptors();
            self.descriptors = open.len();
            now.extend(
                open.into_iter()
                    .map(|number| (Thing::Descriptor(number), hooks::opened(number))),
            );
        }
        if self.checks.threads {
            now.extend(list::threads());
        }
        if self.checks.children {
            let children = list::children();
            self.child_marks.retain(|number, _| children.contains(number));
            let mark = |number| (Thing::Child(number), self.child_marks.get(&number).copied());
            now.extend(children.into_iter().map(mark));
        }
        if self.checks.files {
            now.extend(self.names.now());
            let mark = |object| (Thing::SystemV(object), self.object_marks.get(&object).copied());
            now.extend(self.objects.keys().copied().map(mark));
        }
        if self.checks.garbage {
            now.extend((0..subject.uncollectable() as u64).map(|at| (Thing::Garbage(at), None)));
        }
        now
    }

    fn take_marks(&mut self) {
        hooks::take_made(|made, path, mark| match made {
            Made::Name => self.names.made(path, mark),
            Made::Child(number) => {
                self.child_marks.insert(number, mark);
            }
            made => {
                // Who asks for an object by its key finds what another call has made.
                if let Some(object) = Object::of(made) {
                    self.object_marks.entry(object).or_insert(mark);
                }
            }
        });
    }

    /// Looks what exists after this call, and tells the things that the calls were not seen to make from those of
    /// others; for that it may let some time pass.
    pub(crate) fn look_closely(&mut self, call: u32, subject: &mut impl Subject) {
        self.compare();
        self.look_at(call, subject);
        self.compared_at = call;
        self.tell_unseen(call, subject);
    }

    /// Looks what exists after this call. The folders are compared often enough to tell a row of names at once from
    /// names in step with the calls.
    pub(crate) fn look(&mut self, call: u32, subject: &mut impl Subject) {
        const LEAST: u32 = 4;
        let compares = call - self.compared_at >= (call / 8).max(LEAST);
        if compares {
            self.compare();
        }
        self.look_at(call, subject);
        if compares {
            self.compared_at = call;
        }
    }

    fn look_at(&mut self, call: u32, subject: &mut impl Subject) {
        let now = self.now(subject);
        let since = self.looked_at;
        // A number that was given out again since is another thing.
        let is_same = |thing: &Thing, then: &mut Mark| match now.get(thing) {
            // A new thread tells its number when it gets to run, and may have been seen before.
            Some(Some(mark)) if matches!(thing, Thing::Thread(_)) && mark.birth <= since => {
                *then = *mark;
                true
            }
            Some(Some(mark)) => mark.birth <= then.birth || mark.birth > call,
            Some(None) => true,
            None => false,
        };
        self.from_before.retain(is_same);
        self.known.retain(is_same);
        let new: Vec<(Thing, Option<Mark>)> = now
            .into_iter()
            .filter(|(thing, _)| !self.known.contains_key(thing) && !self.from_before.contains_key(thing))
            .collect();
        self.unseen.retain(|thing| self.known.contains_key(thing));
        let is_recent = |mark: &Mark| (since + 1..=call).contains(&mark.birth);
        for kind in [
            Kind::Fd,
            Kind::Thread,
            Kind::Child,
            Kind::File,
            Kind::Ipc,
            Kind::Garbage,
        ] {
            // Marks of the others are not left over from an earlier thing.
            let may_be_old = matches!(kind, Kind::Fd | Kind::Thread);
            let (seen, unseen): (Vec<_>, Vec<_>) = new
                .iter()
                .copied()
                .filter(|(thing, _)| thing.kind() == kind)
                .partition(|(_, mark)| mark.as_ref().is_some_and(|mark| !may_be_old || is_recent(mark)));
            for (thing, mark) in seen.into_iter().filter_map(|(thing, mark)| Some((thing, mark?))) {
                self.known.insert(thing, mark);
                if mark.foreign && unseen::KINDS.contains(&kind) {
                    self.unseen.insert(thing);
                }
            }
            if self.own_only && !matches!(kind, Kind::Child | Kind::Garbage) {
                continue;
            }
            // Nobody saw who made these: they are spread over the calls since the last look.
            let since = if unseen::KINDS.contains(&kind) {
                self.compared_at
            } else {
                since
            };
            // Each group by itself: others' must not move those of the calls.
            let mut groups: BTreeMap<unseen::Group, Vec<Thing>> = BTreeMap::new();
            for (thing, _) in unseen {
                groups.entry(self.group_of(thing)).or_default().push(thing);
            }
            let calls = u64::from(call - since);
            for group in groups.into_values() {
                let count = group.len() as u64;
                for (at, thing) in (1u64..).zip(group) {
                    let mark = Mark {
                        birth: since + (at * calls).div_ceil(count) as u32,
                        ..Mark::default()
                    };
                    self.known.insert(thing, mark);
                    if unseen::KINDS.contains(&kind) && !self.is_own_object(thing) {
                        self.unseen.insert(thing);
                    }
                }
            }
        }
        self.looked_at = call;
    }

    /// Whether the system says that this very process made it.
    fn is_own_object(&self, thing: Thing) -> bool {
        matches!(thing, Thing::SystemV(object) if self.objects.get(&object) == Some(&true))
    }

    /// What is others' counts as if it had been there before.
    fn disown(&mut self) {
        for thing in std::mem::take(&mut self.unseen) {
            if self.stance_of(thing) != Some(Stance::Others) {
                self.unseen.insert(thing);
            } else if let Some(mark) = self.known.remove(&thing) {
                self.from_before.insert(thing, mark);
            }
        }
    }

    fn stance_of(&self, thing: Thing) -> Option<Stance> {
        let group = self.group_of(thing);
        let found = self.stances.iter().find(|(of, _)| *of == group);
        found.map(|(_, stance)| *stance)
    }

    /// Whether it counts: the calls were seen to make it, or it is as good as certain that they did.
    fn counts(&self, thing: Thing) -> bool {
        !self.unseen.contains(&thing) || self.stance_of(thing) == Some(Stance::Ours)
    }

    /// Something appeared in step with the calls that they may have made, though nobody saw that.
    fn doubt(&self) -> Option<String> {
        let is_unclear = |thing: &&Thing| self.stance_of(**thing) == Some(Stance::Unclear);
        let thing = self.unseen.iter().rev().find(is_unclear)?;
        let name = name::of_name(*thing, &self.names)?;
        Some(format!(
            "names such as {name} appeared, which the calls were not seen to make; other processes may have made them"
        ))
    }

    /// Whether calls have used up half of the descriptors that this process may have. More would make
    /// them fail, and the process with them.
    pub(crate) fn run_out(&self) -> bool {
        self.descriptors > list::most_descriptors() / 2 && self.of_kind(Kind::Fd).count() > self.descriptors / 2
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (Thing, Mark)> {
        let of_kind = self.known.iter().filter(move |(thing, _)| thing.kind() == kind);
        of_kind.map(|(thing, mark)| (*thing, *mark))
    }

    /// What calls left behind, by kind and place.
    pub(crate) fn sites(&self, sites: &mut Sites) -> Vec<Site> {
        let mut found: Vec<Site> = Vec::new();
        for (thing, mark) in &self.known {
            if !(1..=LAST_CALL).contains(&mark.birth) || !self.counts(*thing) {
                continue;
            }
            let number = sites.number(Some(thing.kind()), mark.stack, mark.foreign);
            let at = found.iter().position(|site| site.id == number).unwrap_or_else(|| {
                found.push(Site {
                    id: number,
                    told: !sites.place(number).unknown,
                    births: Births::default(),
                    lost: Births::default(),
                    peers: Amount::default(),
                    scarce: true,
                });
                found.len() - 1
            });
            found[at].births.add(mark.birth, 0);
        }
        found
    }

    /// The findings at sites of this room, one for each kind and visible stack.
    pub(crate) fn findings<S: Subject>(
        &self,
        found: &[SiteFinding],
        sites: &mut Sites,
        subject: &mut S,
    ) -> Vec<Finding> {
        let mut origins = Origins::new();
        let mut findings: Vec<(Finding, Vec<SiteFinding>, Births)> = Vec::new();
        for of in found {
            let Some(kind) = sites.place(of.site).kind else {
                continue;
            };
            let here: Vec<(Thing, Mark)> = self
                .of_kind(kind)
                .filter(|(thing, mark)| {
                    self.counts(*thing) && sites.number(Some(kind), mark.stack, mark.foreign) == of.site
                })
                .collect();
            let stack = here.first().and_then(|(_, mark)| leaktight_stacks::stack(mark.stack));
            let origin = origins.of(&stack.unwrap_or_default(), subject);
            let mut births = Births::default();
            here.iter().for_each(|(_, mark)| births.add(mark.birth, 0));
            let examples = name::examples(here.iter().map(|(thing, _)| *thing), &self.names, subject);
            let known = findings
                .iter_mut()
                .find(|(finding, ..)| finding.kind == kind && finding.stack == origin.frames);
            if let Some((finding, sites, all)) = known {
                sites.push(*of);
                all.join(&births);
                name::add(&mut finding.examples, examples.names);
                continue;
            }
            let mut finding = Finding {
                kind,
                certainty: leaktight_report::Certainty::Growing,
                severity: Severity::Error,
                blocks_per_call: 0.0,
                bytes_per_call: 0.0,
                block_size: None,
                every: None,
                allocator: String::new(),
                via: origin.via,
                objects_per_call: None,
                type_name: examples.type_name,
                examples: Vec::new(),
                holder: None,
                in_cycle: false,
                earlier_owner: false,
                references: None,
                also: Vec::new(),
                one_of: false,
                kept_by: Vec::new(),
                stack_note: None,
                buffer_export: false,
                path: Vec::new(),
                stack: origin.frames,
                message: String::new(),
            };
            name::add(&mut finding.examples, examples.names);
            findings.push((finding, vec![*of], births));
        }
        let finish = |(mut finding, sites, births): (Finding, Vec<SiteFinding>, Births)| {
            let from = sites.iter().map(|site| site.births.0).max().unwrap_or(0);
            let to = sites.iter().map(|site| site.births.1).min().unwrap_or(0);
            let rate = births.rate(from, to);
            (finding.blocks_per_call, finding.every) = (rate.blocks, rate.every.map(u64::from));
            debug_assert!(sites.iter().all(|site| site.certainty == Certainty::Growing));
            finding.message = sentence(&finding);
            finding
        };
        findings.into_iter().map(finish).collect()
    }

    /// What is no leak, and still worth knowing.
    pub(crate) fn remarks(&self, subject: &mut impl Subject) -> Vec<String> {
        let mut remarks: Vec<String> = self.changed_handlers().into_iter().collect();
        remarks.extend(self.unseen_makers());
        remarks.extend(self.doubt());
        if self.checks.garbage {
            remarks.extend(subject.remarks());
        }
        remarks
    }

    fn unseen_makers(&self) -> Option<String> {
        let thing = self.unseen.iter().rev().find(|thing| self.counts(**thing))?;
        let name = name::of_name(*thing, &self.names)?;
        Some(format!(
            "the calls were not seen to make {name} and its like: a child process did, or a system call that is not \
             followed; none came while nothing was called"
        ))
    }

    fn changed_handlers(&self) -> Option<String> {
        let changed = self.handlers.as_ref()?.changed();
        let (handlers, them) = match changed.len() {
            0 => return None,
            1 => ("handler", "it"),
            _ => ("handlers", "them"),
        };
        let names = changed.join(", ");
        Some(format!(
            "the calls changed the {handlers} of {names}, and did not put {them} back"
        ))
    }
}
