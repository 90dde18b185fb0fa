//! Past events in JSON.
//!
//! Knows: names of fields, which words of the log are numbers. Never: the log, the clock.
//! Source: docs/json.md. Names are part of the interface and do not change.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::units::rfc3339;
use crate::observe::PastEvent;

/// Fields of the log that are whole numbers.
const NUMBERS: [&str; 13] = [
    "group",
    "channel",
    "pid",
    "uid",
    "limit",
    "lines",
    "exit_code",
    "connections",
    "services",
    "skipped",
    "left_out",
    "sent_bytes",
    "rcvd_bytes",
];
/// Fields of the log that are seconds, such as `2.0s`.
const SPANS: [&str; 2] = ["after", "within"];

#[derive(Serialize)]
pub(super) struct EventObject<'a> {
    at: String,
    level: &'static str,
    event: String,
    fields: BTreeMap<String, FieldValue>,
    line: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FieldValue {
    Number(u64),
    Seconds(f64),
    Text(String),
}

impl<'a> EventObject<'a> {
    pub(super) fn of(event: &'a PastEvent) -> Self {
        let mut name = String::new();
        let mut fields = BTreeMap::new();
        for (key, value) in event.fields() {
            match key {
                "event" if name.is_empty() => name = value,
                _ => fields.extend([field(key, value)]),
            }
        }
        Self {
            at: rfc3339(Duration::from_millis(event.millis())),
            level: event.severity.name(),
            event: name,
            fields,
            line: &event.line,
        }
    }
}

/// A value that should be a number but cannot be read as one stays text.
fn field(key: &str, value: String) -> (String, FieldValue) {
    if NUMBERS.contains(&key)
        && let Ok(number) = value.parse()
    {
        return (key.to_owned(), FieldValue::Number(number));
    }
    let seconds = SPANS.contains(&key).then(|| value.strip_suffix('s')?.parse::<f64>().ok()).flatten();
    match seconds.filter(|seconds| seconds.is_finite()) {
        Some(seconds) => (format!("{key}_seconds"), FieldValue::Seconds(seconds)),
        None => (key.to_owned(), FieldValue::Text(value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observe::Owner;

    #[test]
    fn the_words_of_a_line_are_fields_and_its_numbers_numbers() {
        let object = |line: &str| {
            let event =
                PastEvent::of_parts(1_795_910_399_123, "notice", Owner::PROCESS, line).expect("an event");
            serde_json::to_value(EventObject::of(&event)).expect("JSON")
        };
        let line = r#"event=returned service=web group=0 channel=12 address=[::1]:80 after=2.5s left_out=3 cause="a \"b\" 7" text=7"#;
        let expected = json!({
            "at": "2026-11-28T23:59:59.123Z",
            "level": "notice",
            "event": "returned",
            "fields": {
                "service": "web", "group": 0, "channel": 12, "address": "[::1]:80", "after_seconds": 2.5, "left_out": 3,
                "cause": "a \"b\" 7", "text": "7",
            },
            "line": line,
        });
        assert_eq!(object(line), expected);
        // An event that another version may have logged.
        let odd = object("event=a group=x channel=-1 after=soon within=infs pid=99999999999999999999 =");
        let fields = json!({
            "group": "x", "channel": "-1", "after": "soon", "within": "infs", "pid": "99999999999999999999", "": ""
        });
        assert_eq!(odd["fields"], fields);
    }
}
