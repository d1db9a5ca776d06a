//! What holds for every report, however odd.

use leaktight_report::{
    Certainty, Control, Environment, Finding, Frame, Kept, Kind, Look, References, Report, Severity, Step, Style,
    Verdict, sentence,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_holds_no_control_character_but_newline(
        report in report(any_text, any::<f64>().boxed()),
        width in prop_oneof![0..200_usize, Just(usize::MAX)],
    ) {
        let text = report.text(Style { color: false, width });
        let acts = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        prop_assert_eq!(text.chars().find(|&c| acts(c)), None);
    }

    #[test]
    fn every_escape_byte_in_colour_is_a_style(
        report in report(any_text, any::<f64>().boxed()),
        width in 0..200_usize,
    ) {
        let text = report.text(Style { color: true, width });
        for part in text.split('\x1b').skip(1) {
            let code = part.strip_prefix('[').and_then(|part| part.split_once('m'));
            prop_assert!(
                code.is_some_and(|(code, _)| code.chars().all(|c| c.is_ascii_digit() || c == ';')),
                "not a style: {part:?}"
            );
        }
    }

    #[test]
    fn lines_keep_to_the_width(report in report(printable, figure()), width in 20..160_usize) {
        for line in report.text(Style { color: false, width }).lines() {
            let columns = unicode_width::UnicodeWidthStr::width(line);
            prop_assert!(columns <= width, "{columns} columns: {line:?}");
        }
    }

    #[test]
    fn json_round_trips(report in report(any_text, figure())) {
        prop_assert_eq!(Report::from_json(&report.to_json()).unwrap(), report);
    }

    #[test]
    fn reading_is_total(text in any_text()) {
        let _ = Report::from_json(&text);
    }

    #[test]
    fn reading_a_damaged_report_is_total(
        report in report(any_text, figure()),
        at in any::<prop::sample::Index>(),
        damage in "[\\[\\]{}\",:0-9a-z\\-]{0,3}",
    ) {
        let mut json: Vec<char> = report.to_json().chars().collect();
        let at = at.index(json.len());
        json.splice(at..=at, damage.chars());
        let _ = Report::from_json(&json.into_iter().collect::<String>());
    }

    #[test]
    fn sentences_do_not_end_in_a_period(finding in finding(printable, any::<f64>().boxed())) {
        let sentence = sentence(&Finding {
            holder: None,
            examples: Vec::new(),
            ..finding
        });
        prop_assert!(!sentence.is_empty() && !sentence.ends_with('.'));
    }
}

type Texts = fn() -> BoxedStrategy<String>;

/// Any characters at all, control characters more often than chance has it.
fn any_text() -> BoxedStrategy<String> {
    let characters = vec(prop_oneof![any::<char>(), proptest::char::range('\0', '\u{a0}')], 0..40);
    prop_oneof![
        characters.prop_map(String::from_iter),
        "[a-z_]{1,80}",
        "(/[a-z]{1,12}){1,9}",
    ]
    .boxed()
}

/// What names and source lines are made of.
fn printable() -> BoxedStrategy<String> {
    prop_oneof![
        "[ -~]{0,60}",
        "[a-z_:<>, ]{0,160}",
        "(/[a-z.]{1,12}){0,12}",
        "[一-十あ-ん a-z]{0,40}"
    ]
    .boxed()
}

fn figure() -> BoxedStrategy<f64> {
    prop_oneof![
        Just(0.0),
        (0..100_000_u32).prop_map(f64::from),
        0.0..1e6,
        proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
    ]
    .boxed()
}

fn report(text: Texts, figure: BoxedStrategy<f64>) -> impl Strategy<Value = Report> {
    let verdict = prop_oneof![
        Just(Verdict::Clean),
        Just(Verdict::Leak),
        Just(Verdict::Bounded),
        Just(Verdict::Indeterminate),
    ];
    let head = (text(), verdict, text(), vec(finding(text, figure.clone()), 0..4));
    let look = any::<[u64; 4]>().prop_map(|[calls, blocks, bytes, mapped]| Look {
        calls,
        blocks,
        bytes,
        mapped,
    });
    let counts = (any::<[u64; 3]>(), figure, vec(look, 0..3));
    let control = (0..5_u32, 0..5_u32, vec(text(), 0..3));
    let notes = (
        vec(text(), 0..3),
        vec(text(), 0..2),
        vec(text(), 0..3),
        vec(kept(text), 0..3),
    );
    let environment = (text(), text(), text(), text());
    (head, counts, control, notes, environment).prop_map(
        |(
            (subject, verdict, reason, findings),
            ([calls, period, objects], seconds, looks),
            (planted, caught, missed),
            (blind_spots, not_done, remarks, kept),
            (runtime, libc, platform, leaktight),
        )| Report {
            subject,
            verdict,
            reason,
            findings,
            calls,
            period,
            objects,
            seconds,
            looks,
            control: Control {
                planted,
                caught,
                missed,
            },
            blind_spots,
            not_done,
            kept,
            remarks,
            environment: Environment {
                runtime,
                libc,
                platform,
                leaktight,
            },
        },
    )
}

fn finding(text: Texts, figure: BoxedStrategy<f64>) -> impl Strategy<Value = Finding> {
    let kind = prop_oneof![
        Just(Kind::Memory),
        Just(Kind::Reference),
        Just(Kind::OverRelease),
        Just(Kind::Fd),
        Just(Kind::Thread),
        Just(Kind::Child),
        Just(Kind::File),
        Just(Kind::Ipc),
        Just(Kind::Garbage),
    ];
    let certainty = prop_oneof![Just(Certainty::Lost), Just(Certainty::Growing)];
    let severity = prop_oneof![Just(Severity::Error), Just(Severity::Warning)];
    let figures = (
        figure.clone(),
        figure,
        option::of(any::<u64>()),
        option::of(any::<u64>()),
    );
    let texts = (
        text(),
        option::of(text()),
        option::of(text()),
        option::of(text()),
        vec(text(), 0..4),
        text(),
    );
    let references = option::of((any::<u64>(), any::<[i64; 4]>()).prop_map(
        |(calls, [before, after, visible, words])| References {
            calls,
            before,
            after,
            visible,
            words,
            balanced: (words > 0).then_some(calls),
        },
    ));
    let stack = (
        vec(frame(text), 0..15),
        vec(vec(frame(text), 0..3), 0..5),
        option::of(text()),
        (vec(step(text), 0..9), vec(vec(frame(text), 0..3), 0..3)),
    );
    let flags = any::<(bool, bool, bool, bool)>();
    ((kind, certainty, severity), figures, texts, (references, flags), stack).prop_map(
        |(
            (kind, certainty, severity),
            (blocks_per_call, bytes_per_call, block_size, every),
            (allocator, via, type_name, holder, examples, message),
            (references, (in_cycle, earlier_owner, one_of, buffer_export)),
            (stack, also, stack_note, (path, kept_by)),
        )| Finding {
            kind,
            certainty,
            severity,
            blocks_per_call,
            bytes_per_call,
            block_size,
            every,
            allocator,
            via,
            objects_per_call: type_name.as_ref().map(|_| blocks_per_call),
            type_name,
            examples,
            holder,
            in_cycle,
            earlier_owner,
            buffer_export,
            references,
            stack,
            also,
            one_of,
            kept_by,
            stack_note,
            path,
            message,
        },
    )
}

fn step(text: Texts) -> impl Strategy<Value = Step> {
    (text(), text()).prop_map(|(name, what)| Step { name, what })
}

fn kept(text: Texts) -> impl Strategy<Value = Kept> {
    let figures = (0..1u64 << 53, 0..1u64 << 53);
    let texts = (text(), option::of(text()));
    let lists = (vec(step(text), 0..9), vec(frame(text), 0..15));
    (figures, texts, lists).prop_map(|((blocks, bytes), (allocator, type_name), (path, stack))| Kept {
        blocks,
        bytes,
        allocator,
        type_name,
        path,
        stack,
    })
}

fn frame(text: Texts) -> impl Strategy<Value = Frame> {
    let texts = (
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of(text()),
    );
    let numbers = (option::of(any::<u32>()), option::of(any::<u64>()));
    (texts, numbers, any::<bool>(), any::<bool>()).prop_map(
        |((function, file, module, source), (line, offset), python, inlined)| Frame {
            function,
            file,
            line,
            module,
            offset,
            source,
            python,
            inlined,
        },
    )
}
