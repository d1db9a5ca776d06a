//! The report as a JSON document, and back. `SCHEMA.md` is the description for others.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::Report;

/// The name and version of the document format, the value of its `schema` field.
///
/// Within version 1 fields are only ever added.
pub const SCHEMA: &str = "leaktight.report/1";

impl Report {
    /// The report as one JSON document: indented, without a final newline, the field `schema`
    /// first.
    ///
    /// Figures that are not finite become `null`.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            schema: &'static str,
            #[serde(flatten)]
            report: &'a Report,
        }

        let document = Document {
            schema: SCHEMA,
            report: self,
        };
        // Serialising fails for keys that are no strings and for types that refuse; there are
        // neither in a report.
        serde_json::to_string_pretty(&document).expect("strings, numbers and lists always serialise")
    }

    /// Reads a document that [`to_json`](Report::to_json) wrote, here or in another version of
    /// Leaktight that writes the same schema. Fields it does not know are skipped.
    ///
    /// # Errors
    ///
    /// Any text may be handed in: what is no report is an [`Error`], never a panic.
    pub fn from_json(text: &str) -> Result<Report, Error> {
        let document: Value = serde_json::from_str(text).map_err(Error::NotJson)?;
        match document.get("schema") {
            None => return Err(Error::NoSchema),
            Some(Value::String(schema)) if schema == SCHEMA => {}
            Some(other) => {
                return Err(Error::UnknownSchema { found: excerpt(other) });
            }
        }
        // Read from the text again, not from the document: only so does an error name its line.
        serde_json::from_str(text).map_err(Error::NotAReport)
    }
}

/// Why a text could not be read as a report.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The text is not JSON; perhaps the file was cut short.
    NotJson(serde_json::Error),
    /// The document has no `schema` field: it is something else.
    NoSchema,
    /// The document names a schema that this version cannot read.
    UnknownSchema {
        /// What the `schema` field holds, as JSON, shortened if it is long.
        found: String,
    },
    /// The schema is right, but a field is missing or holds what it may not hold.
    NotAReport(serde_json::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotJson(error) => write!(
                f,
                "the text is not JSON (line {}, column {}); was the file cut short?",
                error.line(),
                error.column()
            ),
            Error::NoSchema => {
                write!(f, "the document has no \"schema\" field, so it is no leaktight report")
            }
            Error::UnknownSchema { found } => write!(
                f,
                "the document's schema is {found}, and this version of leaktight reads only \
                 \"{SCHEMA}\"; a newer leaktight may read it"
            ),
            Error::NotAReport(error) => write!(
                f,
                "the document says that it is a \"{SCHEMA}\" but does not follow it \
                 (line {}, column {})",
                error.line(),
                error.column()
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NotJson(error) | Error::NotAReport(error) => Some(error),
            Error::NoSchema | Error::UnknownSchema { .. } => None,
        }
    }
}

/// A foreign value for an error message: on one line, short, and with control characters escaped.
fn excerpt(value: &Value) -> String {
    const LONGEST_CHARS: usize = 60;

    let json = crate::terminal::visible(&value.to_string());
    match json.char_indices().nth(LONGEST_CHARS) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}
