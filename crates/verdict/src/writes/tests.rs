mod habits;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::*;

fn number(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The innermost frame first: `library/function:place`, or `function:place` of the interpreter; behind a place, `#` and a
/// line.
fn stack(text: &str) -> Vec<Frame> {
    let frames = text.split_whitespace().map(|frame| {
        let function = frame.split(':').next().unwrap();
        Frame {
            function: number(function),
            address: number(frame),
            frees: function.contains("dealloc"),
            line: frame.split_once('#').map_or(0, |(_, line)| line.parse().unwrap()),
            owner: match function.split_once('/') {
                Some((library, _)) => Owner::Library(number(library) as u32),
                None => Owner::Interpreter,
            },
        }
    });
    frames.collect()
}

/// `calls` calls with these writes, `+` or `-` and a stack each, for those calls in which they come.
struct Log(Vec<Change>, u32);

impl Log {
    fn of(calls: u32, writes: impl Fn(u32) -> Vec<&'static str>) -> Log {
        let in_call = |call| {
            writes(call).into_iter().map(move |text| {
                let by = if text.starts_with('+') { 1 } else { -1 };
                let stack = stack(&text[1..]);
                Change { call, by, stack }
            })
        };
        Log((0..calls).flat_map(in_call).collect(), calls)
    }

    fn every(calls: u32, writes: &[&'static str]) -> Log {
        Log::of(calls, |_| writes.to_vec())
    }

    fn account(&self, per_call: f64) -> Account {
        account(&self.0, self.1, per_call)
    }

    /// The innermost own frame of each candidate, by the numbers of the places in `names`.
    fn found(&self, per_call: f64, names: &[&'static str]) -> Vec<(f64, Vec<&'static str>)> {
        let account = self.account(per_call);
        assert_eq!(account.origins.is_empty(), account.unknown.is_some(), "{account:?}");
        let name = |candidate: &Candidate| {
            let found = &self.0[candidate.change].stack;
            *names
                .iter()
                .find(|name| stack(name) == *found)
                .unwrap_or(&"another place")
        };
        let origins = account.origins.iter();
        origins
            .map(|origin| (origin.per_call, origin.candidates.iter().map(name).collect()))
            .collect()
    }
}

const PUSH: &str = "+eval:1 run";
const POP: &str = "-eval:2 run";
const PACK: &str = "+tuple_new make_tp_call:1 eval:3 run";
const UNPACK: &str = "-tuple_dealloc make_tp_call:2 eval:3 run";
/// How they begin and end around a call of a function that takes a tuple.
const AROUND: [&str; 4] = [PUSH, PACK, UNPACK, POP];

/// These writes of the function, within what the interpreter does around it.
fn called(writes: &[&'static str]) -> Vec<&'static str> {
    [&AROUND[..2], writes, &AROUND[2..]].concat()
}

#[test]
fn in_multidict_6_3_1_it_is_the_write_that_the_interpreter_did_not_make() {
    let leak = "md/init:9 make_tp_call:3 eval:3 run";
    let mut log = Log::every(8, &called(&["+md/init:9 make_tp_call:3 eval:3 run"]));
    log.0.insert(0, Log::every(1, &[POP]).0.remove(0));
    assert_eq!(log.0.len(), 41);
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
    let account = log.account(1.0);
    let places: Vec<_> = account
        .places
        .iter()
        .map(|place| (place.up, place.down, place.left_over))
        .collect();
    assert_eq!(places, [(0, 9, 0), (8, 0, 0), (8, 0, 0), (8, 0, 7), (0, 8, 0)]);
    assert_eq!(account.origins[0].candidates[0].per_call, 1.0);
}

#[test]
fn a_borrowed_reference_that_is_released_is_the_release_that_nobody_took() {
    let release = "x/f:1 make_tp_call:3 eval:3 run";
    let log = Log::every(8, &called(&["-x/f:1 make_tp_call:3 eval:3 run"]));
    assert_eq!(log.found(-1.0, &[release]), [(1.0, vec![release])]);
    // By vectorcall there is no tuple, and with borrowed loads the interpreter writes nothing at all.
    for around in [&[PUSH, "-x/f:1 call eval:3 run", POP][..], &["-x/f:1 call eval:3 run"]] {
        let release = "x/f:1 call eval:3 run";
        assert_eq!(Log::every(8, around).found(-1.0, &[release]), [(1.0, vec![release])]);
    }
}

#[test]
fn a_stolen_reference_is_given_back_by_who_stole_it() {
    // PyTuple_SET_ITEM writes nothing; the tuple gives the reference back when `f` drops it.
    let (taken, freed) = ("+x/f:1 call eval:3 run", "-tuple_dealloc x/f:2 call eval:3 run");
    let leak = "y/g:1 call eval:4 run";
    let log = Log::every(8, &[PUSH, taken, freed, POP, "+y/g:1 call eval:4 run"]);
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
    // And where the caller of `f` drops it.
    let log = Log::every(
        8,
        &[PUSH, taken, POP, "-list_dealloc eval:9 run", "+y/g:1 call eval:4 run"],
    );
    let [(1.0, candidates)] = &log.found(1.0, &[leak, &taken[1..]])[..] else {
        panic!("{:?}", log.account(1.0));
    };
    assert_eq!(candidates.len(), 2, "which of the two is in the list nobody knows");
}

#[test]
fn two_that_one_function_takes_and_one_that_it_gives_back_are_both_named() {
    let (first, second) = ("x/f:1 call eval:3 run", "x/f:2 call eval:3 run");
    for freed in ["-x/f:3 call eval:3 run", "-tuple_dealloc x/f:3 call eval:3 run"] {
        let log = Log::every(
            8,
            &[PUSH, "+x/f:1 call eval:3 run", "+x/f:2 call eval:3 run", freed, POP],
        );
        let [(1.0, candidates)] = &log.found(1.0, &[first, second])[..] else {
            panic!("{:?}", log.account(1.0));
        };
        let mut candidates = candidates.clone();
        candidates.sort_unstable();
        assert_eq!(candidates, [first, second]);
    }
}

#[test]
fn a_helper_that_takes_and_its_caller_are_both_named() {
    // `helper` returns a new reference, `f` takes another one, and gives back one.
    let writes = [
        "+x/helper:1 x/f:1 call eval:3 run",
        "+x/f:2 call eval:3 run",
        "-x/f:3 call eval:3 run",
    ];
    let names = [&writes[0][1..], &writes[1][1..]];
    let log = Log::every(8, &[&[PUSH], &writes[..], &[POP]].concat());
    let [(1.0, candidates)] = &log.found(1.0, &names)[..] else {
        panic!("{:?}", log.account(1.0));
    };
    assert!(names.iter().all(|name| candidates.contains(name)) && candidates.len() == 2);
}

#[test]
fn a_function_that_only_takes_and_gives_is_told_by_who_calls_it() {
    // As in C++, where `inc_ref` and `dec_ref` are functions of the library.
    let balanced = ["+x/inc_ref x/f:1 call eval:3 run", "-x/dec_ref x/f:2 call eval:3 run"];
    let leak = "x/inc_ref x/g:1 call eval:4 run";
    let log = Log::every(8, &[balanced[0], balanced[1], "+x/inc_ref x/g:1 call eval:4 run"]);
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
}

#[test]
fn a_constructor_and_py_clear_in_the_destructor_are_a_pair() {
    let (made, cleared) = ("+x/new:1 type_call eval:3 run", "-x/clear:1 subtype_dealloc eval:5 run");
    let (foreign, own) = ("y/g:1 call eval:4 run", "x/init:1 call eval:4 run");
    let log = Log::every(8, &[PUSH, made, POP, "+y/g:1 call eval:4 run", cleared]);
    assert_eq!(log.found(1.0, &[foreign]), [(1.0, vec![foreign])]);
    // Where the same library takes two and gives back one at the end, it may be either.
    let log = Log::every(8, &[PUSH, made, "+x/init:1 call eval:4 run", POP, cleared]);
    let [(1.0, candidates)] = &log.found(1.0, &[own, &made[1..]])[..] else {
        panic!("{:?}", log.account(1.0));
    };
    assert!(candidates.contains(&own) && candidates.contains(&&made[1..]) && candidates.len() == 2);
}

#[test]
fn a_tuple_that_is_lost_is_not_the_one_that_the_interpreter_made() {
    let leak = "tuple_new build_value x/f:1 make_tp_call:3 eval:3 run";
    let log = Log::every(8, &called(&["+tuple_new build_value x/f:1 make_tp_call:3 eval:3 run"]));
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
}

#[test]
fn a_buffer_that_is_not_released_is_the_call_that_got_it() {
    let leak = "bytes_getbuffer get_buffer x/f:1 call eval:3 run";
    let log = Log::every(8, &[PUSH, "+bytes_getbuffer get_buffer x/f:1 call eval:3 run", POP]);
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
}

#[test]
fn a_generator_gives_back_in_a_later_call_what_it_took_in_an_earlier_one() {
    let leak = "x/f:1 call eval:3 run";
    let log = Log::of(16, |call| {
        let generator = if call % 2 == 0 {
            "+eval:7 gen_send run"
        } else {
            "-eval:8 gen_send run"
        };
        vec![generator, PUSH, "+x/f:1 call eval:3 run", POP]
    });
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
    // What an attribute held before is given back when it is set again.
    let log = Log::of(16, |call| {
        let mut writes = vec![PUSH, "+x/f:1 call eval:3 run", "+x/set:1 call eval:3 run"];
        writes.extend((call > 0).then_some("-x/set:2 call eval:3 run"));
        writes.push(POP);
        writes
    });
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
}

#[test]
fn a_leak_in_every_fifth_call_is_found_at_its_rate() {
    let leak = "x/f:9 call eval:3 run";
    let log = Log::of(64, |call| {
        let mut writes = vec![PUSH, "+x/f:1 call eval:3 run", "-x/f:2 call eval:3 run", POP];
        if call % 5 == 0 {
            writes.insert(3, "+x/f:9 call eval:3 run");
        }
        writes
    });
    let found = log.found(0.2, &[leak, "x/f:1 call eval:3 run"]);
    assert_eq!(found.len(), 1);
    assert!((found[0].0 - 0.2).abs() < 0.03);
    assert_eq!(
        found[0].1,
        [leak, "x/f:1 call eval:3 run"],
        "the one that moves as the count does comes first"
    );
}

#[test]
fn a_place_stays_the_same_when_the_interpreter_specialises_its_opcodes() {
    // The result of a Python function that `f` has called; the interpreter calls `f`, and gives the result, otherwise
    // after some calls.
    let (first, later) = (
        "eval:1 vector call_object x/f:1 call eval:3 run",
        "eval:8 vector call_object x/f:1 eval:9 run",
    );
    let log = Log::of(16, |call| {
        vec![if call < 6 {
            "+eval:1 vector call_object x/f:1 call eval:3 run"
        } else {
            "+eval:8 vector call_object x/f:1 eval:9 run"
        }]
    });
    assert_eq!(log.found(1.0, &[first, later]), [(1.0, vec![first])]);
}

#[test]
fn two_leaks_at_two_places_are_two() {
    let (first, second) = ("x/f:1 call eval:3 run", "y/g:1 call eval:4 run");
    let log = Log::every(
        8,
        &[
            PUSH,
            "+x/f:1 call eval:3 run",
            "+y/g:1 call eval:4 run",
            "+y/g:1 call eval:4 run",
            POP,
        ],
    );
    assert_eq!(
        log.found(3.0, &[first, second]),
        [(2.0, vec![second]), (1.0, vec![first])]
    );
}

#[test]
fn a_leak_in_a_loop_comes_so_many_times_in_each_call() {
    let leak = "x/f:1 make_tp_call:3 eval:3 run";
    let write = "+x/f:1 make_tp_call:3 eval:3 run";
    let log = Log::every(8, &called(&[write, write, write]));
    assert_eq!(log.found(3.0, &[leak]), [(3.0, vec![leak])]);
    // Of three that it takes it gives back two: the same place, and a third of its writes.
    let freed = "-x/f:2 make_tp_call:3 eval:3 run";
    let log = Log::every(8, &called(&[write, freed, write, freed, write]));
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
    assert_eq!(log.account(1.0).origins[0].candidates[0].per_call, 3.0);
}

#[test]
fn what_comes_at_the_start_and_at_the_end_is_not_to_blame() {
    let leak = "x/f:1 call eval:3 run";
    let log = Log::of(16, |call| {
        let mut writes = vec![PUSH, "+x/f:1 call eval:3 run", POP];
        match call {
            0 => writes.extend([
                "+dict_set eval:20 run",
                "+x/cache:1 call eval:21 run",
                "-frame_clear run",
            ]),
            1 => writes.extend(["+list_append eval:22 run"; 5]),
            15 => writes.extend(["-x/flush:1 call eval:23 run"; 4]),
            _ => {}
        }
        writes
    });
    assert_eq!(log.found(1.0, &[leak]), [(1.0, vec![leak])]);
}

#[test]
fn the_interpreter_is_named_only_where_nobody_else_can_be() {
    let stored = "list_append eval:5 run";
    let log = Log::every(8, &[PUSH, "+list_append eval:5 run", POP]);
    assert_eq!(log.found(1.0, &[stored]), [(1.0, vec![stored])]);
}

#[test]
fn a_borrowed_reference_that_is_returned_leaves_no_write_and_nobody_is_named() {
    let log = Log::every(8, &[PUSH, POP, "-eval:5 run"]);
    assert_eq!(log.account(-1.0).unknown, Some(Unknown::Returned));
    // Not even where others take and give back properly.
    let balanced = ["+x/f:1 call eval:3 run", "-x/f:2 call eval:3 run"];
    let log = Log::every(8, &[balanced[0], balanced[1], "-eval:5 run"]);
    assert_eq!(log.account(-1.0).unknown, Some(Unknown::Returned));
}

#[test]
fn one_call_shows_whether_just_what_is_known_is_left_over() {
    const NAMES: [&str; 2] = ["l/leak:1 call:1 eval:1", "l/other:1 call:1 eval:2"];
    let usual = ["+load:1 eval:1", "-load:2 eval:1"];
    let of = |more: &[&'static str], per_call: f64| {
        let log = Log::every(1, &[&usual[..], more].concat());
        let account = account_exactly(&log.0, 1, per_call);
        let candidates = account.origins.iter().flat_map(|origin| &origin.candidates);
        let places = candidates.map(|found| {
            NAMES
                .iter()
                .position(|name| stack(name) == log.0[found.change].stack)
                .unwrap()
        });
        (places.collect::<Vec<_>>(), account.unknown)
    };
    let (leak, other) = ("+l/leak:1 call:1 eval:1", "+l/other:1 call:1 eval:2");
    assert_eq!(of(&[leak], 1.0), (vec![0], None));
    assert_eq!(of(&[leak, leak], 2.0), (vec![0], None));
    // A second place is not hidden by the first, and neither is another rate.
    assert_eq!(of(&[leak, leak, leak, other], 4.0), (vec![0, 1], None));
    assert_eq!(of(&[leak], 2.0), (vec![], Some(Unknown::OtherRate)));
    assert_eq!(of(&[leak, leak], 1.0), (vec![], Some(Unknown::OtherRate)));
    let log = Log::every(1, &[leak]);
    assert_eq!(log.account(1.0).unknown, Some(Unknown::TooShort));
}

#[test]
fn what_does_not_fit_the_finding_is_not_known() {
    let leak = called(&["+x/f:1 make_tp_call:3 eval:3 run"]);
    let unknown = |log: &Log, per_call| log.account(per_call).unknown;
    let log = Log::every(8, &leak);
    assert_eq!(unknown(&log, 1.0), None);
    assert_eq!(unknown(&log, -1.0), Some(Unknown::OtherRate));
    assert_eq!(unknown(&log, 3.0), Some(Unknown::OtherRate));
    assert_eq!(unknown(&log, 0.1), Some(Unknown::TooShort));
    assert_eq!(unknown(&log, f64::NAN), Some(Unknown::TooShort));
    assert_eq!(unknown(&Log::every(8, &AROUND), 1.0), Some(Unknown::OtherRate));
    assert_eq!(unknown(&Log::every(0, &AROUND), 1.0), Some(Unknown::TooShort));
    // As many places as calls, with one write each.
    const PLACES: [&str; 16] = [
        "+x/a run", "+x/b run", "+x/c run", "+x/d run", "+x/e run", "+x/f run", "+x/g run", "+x/h run", "+x/i run",
        "+x/j run", "+x/k run", "+x/l run", "+x/m run", "+x/n run", "+x/o run", "+x/p run",
    ];
    let log = Log::of(16, |call| vec![PLACES[call as usize]]);
    assert_eq!(unknown(&log, 1.0), Some(Unknown::Scattered));
}

#[test]
fn what_one_line_takes_and_gives_back_is_no_candidate() {
    let writes = called(&[
        "+x/f:1#10 call eval:3 run",
        "+x/f:2#11 call eval:3 run",
        "-x/f:3#10 call eval:3 run",
    ]);
    let log = Log::every(8, &writes);
    assert_eq!(
        log.found(1.0, &["x/f:1#10 call eval:3 run", "x/f:2#11 call eval:3 run"]),
        [(1.0, vec!["x/f:2#11 call eval:3 run"])]
    );
}

#[test]
fn kinship_is_told_by_where_the_ways_part() {
    let kinship = |first: &str, second: &str| {
        let (first, second) = (stack(first), stack(second));
        assert_eq!(Kinship::of(&first, &second), Kinship::of(&second, &first));
        Kinship::of(&first, &second)
    };
    assert_eq!(kinship("x/f:1 eval:3", "x/f:2 eval:3"), (Kinship::Same, 0));
    assert_eq!(kinship("x/f:1 eval:3", "x/f:1 eval:3"), (Kinship::Same, 0));
    assert_eq!(
        kinship("x/f:1 eval:3", "tuple_dealloc x/f:2 eval:3"),
        (Kinship::Nested, 1)
    );
    assert_eq!(
        kinship("x/inc x/f:1 eval:3", "x/dec x/f:2 eval:3"),
        (Kinship::Nested, 2)
    );
    assert_eq!(kinship("x/f:1#7 eval:3", "x/f:2#7 eval:3"), (Kinship::Line, 0));
    assert_eq!(kinship("x/f:1#7 eval:3", "x/f:2#8 eval:3"), (Kinship::Same, 0));
    assert_eq!(
        kinship("get_attribute x/f:1#7 eval:3", "x/f:2#7 eval:3"),
        (Kinship::Line, 1)
    );
    assert_eq!(kinship("eval:1#7", "eval:2#7"), (Kinship::Same, 0));
    assert_eq!(kinship("eval:1", "frame_clear eval:2"), (Kinship::Within, 1));
    assert_eq!(kinship("eval:1", "x/f:2 call eval:2"), (Kinship::Called, 2));
    assert_eq!(
        kinship("tuple_new call:1 eval:3", "tuple_dealloc call:2 eval:3"),
        (Kinship::Siblings, 2)
    );
    assert_eq!(kinship("x/f:1 eval:3", "x/g:1 eval:4"), (Kinship::None, 2));
    assert_eq!(
        kinship("x/f:1 eval:3", "x/g:1 subtype_dealloc eval:4"),
        (Kinship::Siblings, 3)
    );
    assert_eq!(
        kinship("x/f:1 eval:3", "tuple_dealloc x/g:1 eval:4"),
        (Kinship::None, 3)
    );
    assert_eq!(kinship("x/f:1 eval:3", "y/g:1 eval:3"), (Kinship::None, 2));
    assert_eq!(kinship("x/f:1 eval:3", "tuple_dealloc eval:3"), (Kinship::None, 2));
    assert_eq!(kinship("a", "b"), (Kinship::None, 2));
    assert_eq!(kinship("", ""), (Kinship::None, 0));
}

proptest::proptest! {
    #[test]
    fn any_log_is_judged_and_what_is_left_over_is_the_drift(
        writes in proptest::collection::vec((0u32..8, -2i64..3, proptest::collection::vec((0u64..3, 0u64..2, 0u32..3), 0..4)), 0..60),
        per_call in -4.0..4.0f64,
    ) {
        let mut log: Vec<Change> = writes.into_iter().map(|(call, by, frames)| {
            let stack = frames.into_iter().map(|(function, address, owner)| Frame {
                function,
                address: function * 10 + address,
                owner: if owner == 0 { Owner::Interpreter } else { Owner::Library(owner) },
                line: address as u32,
                frees: address == 1,
            });
            Change { call, by, stack: stack.collect() }
        }).collect();
        log.sort_by_key(|change| change.call);
        let account = account(&log, 8, per_call);
        let drift: i64 = log.iter().map(|change| change.by).sum();
        let left_over: u64 = account.places.iter().map(|place| place.left_over).sum();
        proptest::prop_assert_eq!(left_over, drift.unsigned_abs());
        proptest::prop_assert_eq!(account.origins.is_empty(), account.unknown.is_some());
        for origin in &account.origins {
            proptest::prop_assert!(!origin.candidates.is_empty() && origin.per_call > 0.0);
            for candidate in &origin.candidates {
                proptest::prop_assert_eq!(log[candidate.change].by > 0, per_call > 0.0);
            }
        }
    }
}
