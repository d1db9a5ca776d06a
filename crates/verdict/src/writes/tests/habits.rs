//! Correct code and code with a bug, at random beside each other.

use super::*;

/// What correct code does with a reference, and code with a bug. Each has functions of its own.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Pushed,
    Packed,
    InOneFunction,
    ByHelper,
    StolenByTuple,
    ConstructedAndCleared,
    Generator,
    Replaced,
}

const HABITS: [Habit; 8] = [
    Habit::Pushed,
    Habit::Packed,
    Habit::InOneFunction,
    Habit::ByHelper,
    Habit::StolenByTuple,
    Habit::ConstructedAndCleared,
    Habit::Generator,
    Habit::Replaced,
];

impl Habit {
    /// The place where it takes, and the one where it gives back, in functions of this number, and a library of this
    /// number.
    fn places(self, number: usize, library: usize) -> [String; 2] {
        let text = |from: &str| {
            from.replace('@', &number.to_string())
                .replace('$', &library.to_string())
        };
        let [taken, given] = match self {
            Habit::Pushed => ["eval:1@ run", "eval:2@ run"],
            Habit::Packed => [
                "tuple_new make_tp_call:1 eval:3@ run",
                "tuple_dealloc make_tp_call:2 eval:3@ run",
            ],
            Habit::InOneFunction => ["x$/f@:1 call eval:4@ run", "x$/f@:2 call eval:4@ run"],
            Habit::ByHelper => ["x$/helper@:1 x$/f@:1 call eval:4@ run", "x$/f@:2 call eval:4@ run"],
            Habit::StolenByTuple => ["x$/f@:1 call eval:4@ run", "tuple_dealloc x$/f@:2 call eval:4@ run"],
            Habit::ConstructedAndCleared => [
                "x$/new@:1 type_call eval:5@ run",
                "x$/clear@:1 subtype_dealloc eval:6@ run",
            ],
            Habit::Generator => ["eval:7@ gen_send run", "eval:8@ gen_send run"],
            Habit::Replaced => ["x$/set@:1 call eval:9@ run", "x$/set@:2 call eval:9@ run"],
        };
        [text(taken), text(given)]
    }

    fn gives_back_later(self) -> bool {
        matches!(self, Habit::Generator | Habit::Replaced)
    }
}

proptest::proptest! {
    #[test]
    fn among_correct_code_the_bug_is_always_named(
        habits in proptest::collection::vec((0usize..HABITS.len(), 0u32..3), 1..7),
        bug in 0usize..3,
        at in 0usize..7,
        calls in 8u32..40,
        is_one_library: bool,
    ) {
        let at = at % (habits.len() + 1);
        let library = |number: usize| if is_one_library { 0 } else { number };
        let (leak, habit) = [(true, Habit::InOneFunction), (false, Habit::InOneFunction), (true, Habit::StolenByTuple)][bug];
        let [taken, given] = habit.places(90, library(90));
        let wrong = if leak { taken } else { given };
        let mut log = Vec::new();
        for call in 0..calls {
            let mut write = |by: i64, text: &str| log.push(Change { call, by, stack: stack(text) });
            let mut open: Vec<String> = Vec::new();
            for (number, (habit, depth)) in habits.iter().enumerate() {
                if number == at {
                    write(if leak { 1 } else { -1 }, &wrong);
                }
                let habit = HABITS[*habit];
                let [taken, given] = habit.places(number, library(number));
                if habit.gives_back_later() {
                    if call > 0 {
                        write(-1, &given);
                    }
                    write(1, &taken);
                    continue;
                }
                write(1, &taken);
                open.push(given);
                // Some are given back at once, others when those around them are.
                for _ in 0..*depth {
                    open.pop().iter().for_each(|given| write(-1, given));
                }
            }
            if at == habits.len() {
                write(if leak { 1 } else { -1 }, &wrong);
            }
            open.iter().rev().for_each(|given| write(-1, given));
        }
        let account = account(&log, calls, if leak { 1.0 } else { -1.0 });
        proptest::prop_assert_eq!(account.unknown, None);
        proptest::prop_assert_eq!(account.origins.len(), 1);
        let named: Vec<_> = account.origins[0].candidates.iter().map(|candidate| &log[candidate.change].stack).collect();
        proptest::prop_assert!(named.contains(&&stack(&wrong)), "{:?}", habits);
        // In one library, what one function takes and another gives back may be anybody's.
        let is_told_apart = !is_one_library || habits.iter().all(|(habit, _)| !matches!(HABITS[*habit], Habit::ConstructedAndCleared));
        proptest::prop_assert!(!is_told_apart || named.len() == 1, "{:?}", named);
    }
}
