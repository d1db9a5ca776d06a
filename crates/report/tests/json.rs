//! The JSON document: what is written, and what is refused.

mod samples;

use std::error::Error as _;

use insta::assert_snapshot;
use leaktight_report::{Error, Report};
use samples::{clean, growing_registry, leak, lost_dict};

fn refused(text: &str) -> Error {
    Report::from_json(text).expect_err("should be refused")
}

#[test]
fn document() {
    let report = leak("zoo.register(name)", vec![lost_dict(), growing_registry()]);
    assert_snapshot!(report.to_json());
    assert_eq!(Report::from_json(&report.to_json()).unwrap(), report);
}

#[test]
fn example_in_the_schema_document_is_what_is_written() {
    let document = include_str!("../SCHEMA.md");
    let (_, example) = document.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("\n```").unwrap();
    assert_eq!(Report::from_json(example).unwrap().to_json(), example);
}

#[test]
fn unknown_fields_are_skipped() {
    let newer = clean().to_json().replacen('{', r#"{"added_later": [{}],"#, 1);
    assert_eq!(Report::from_json(&newer).unwrap(), clean());
}

#[test]
fn unknown_schemas_are_named() {
    let newer = clean().to_json().replace("leaktight.report/1", "leaktight.report/2");
    assert_eq!(
        refused(&newer).to_string(),
        "the document's schema is \"leaktight.report/2\", and this version of leaktight reads only \
         \"leaktight.report/1\"; a newer leaktight may read it"
    );
    assert!(refused(r#"{"schema": 1}"#).to_string().contains("schema is 1,"));
    let long = format!(r#"{{"schema": "\u009b0m{}"}}"#, "x".repeat(1_000));
    let message = refused(&long).to_string();
    assert!(message.contains(r"\u{9b}0mxxx") && message.len() < 250, "{message}");
}

#[test]
fn other_texts_are_refused() {
    assert!(matches!(refused("[]"), Error::NoSchema));
    assert!(matches!(refused("7"), Error::NoSchema));
    assert!(matches!(refused(r#"["leaktight.report/1"]"#), Error::NoSchema));
    assert!(matches!(refused(""), Error::NotJson(_)));
    assert!(matches!(refused(&"[".repeat(100_000)), Error::NotJson(_)));

    let whole = clean().to_json();
    let cut = refused(&whole[..whole.len() / 2]);
    assert!(cut.to_string().starts_with("the text is not JSON (line "), "{cut}");
    assert!(cut.source().is_some());
}

#[test]
fn fields_are_neither_guessed_nor_optional() {
    let no_findings = clean().to_json().replace("\"findings\": [],", "");
    let error = refused(&no_findings);
    assert!(matches!(error, Error::NotAReport(_)));
    assert!(error.source().unwrap().to_string().contains("missing field `findings`"));

    let odd_verdict = clean().to_json().replace("\"clean\"", "\"spotless\"");
    let error = refused(&odd_verdict);
    assert!(
        error.to_string().ends_with("does not follow it (line 4, column 23)"),
        "{error}"
    );
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("unknown variant `spotless`")
    );
}

#[test]
fn figures_that_are_none_are_null() {
    let report = Report {
        seconds: f64::INFINITY,
        ..clean()
    };
    let json = report.to_json();
    assert!(json.contains("\"seconds\": null"));
    assert!(Report::from_json(&json).unwrap().seconds.is_nan());
}
