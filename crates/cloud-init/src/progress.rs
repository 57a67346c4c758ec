//! How far cloud-init in a guest has come, by the files that it writes for
//! others to read: `status.json` all along, `result.json` once it is done (its
//! documentation's "Reported status"). Both are a guest's word.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Errors that are told of one boot.
pub const MAX_ERRORS: usize = 8;

/// Characters of each.
const MAX_ERROR: usize = 300;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it is at: `init-local`, `init`, `modules-config`, `modules-final`.
    pub stage: Option<String>,
    /// Each with the stage that it happened in.
    pub errors: Vec<String>,
}

#[derive(Deserialize)]
struct Status {
    v1: StatusV1,
}

#[derive(Deserialize)]
struct StatusV1 {
    #[serde(default)]
    stage: Option<String>,
    /// The stages, by their names, and whatever else a version has.
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Stage {
    #[serde(default)]
    errors: Vec<String>,
}

impl Progress {
    /// The errors of a `result.json`, which does not say in which stages.
    pub fn result_errors(result: &[u8]) -> Vec<String> {
        #[derive(Deserialize)]
        struct Outcome {
            v1: Stage,
        }
        match serde_json::from_slice::<Outcome>(result) {
            Ok(outcome) => {
                let errors = outcome.v1.errors.iter().take(MAX_ERRORS);
                errors.map(|error| clean(error, MAX_ERROR)).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    /// What is no such file, half of one for instance, tells nothing.
    pub fn read(status: &[u8]) -> Option<Self> {
        let Status { v1 } = serde_json::from_slice(status).ok()?;
        let mut errors = Vec::new();
        for (name, value) in v1.more {
            let Ok(stage) = serde_json::from_value::<Stage>(value) else { continue };
            for error in stage.errors {
                if errors.len() < MAX_ERRORS {
                    errors.push(clean(&format!("{name}: {error}"), MAX_ERROR));
                }
            }
        }
        Some(Self { stage: v1.stage.map(|stage| clean(&stage, 40)), errors })
    }
}

/// On one line, and no longer than `most` characters.
pub fn clean(text: &str, most: usize) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut chars = text.trim().chars().map(printable);
    let mut clean: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_its_stage_and_what_went_wrong() {
        let text = br#"{"v1": {"datasource": "DataSourceNoCloud [seed=/dev/vdb]",
            "init": {"errors": [], "finished": 9.1, "start": 8.2},
            "init-local": {"errors": [], "finished": 7.0, "start": 6.5},
            "modules-config": {"errors": ["('bootcmd', ProcessExecutionError(\"x\\ny\"))"],
                "recoverable_errors": {"WARNING": ["w"]}, "finished": null, "start": 11.0},
            "modules-final": {"errors": [], "finished": null, "start": null},
            "stage": "modules-config"}}"#;
        let progress = Progress::read(text).unwrap();
        assert_eq!(progress.stage.as_deref(), Some("modules-config"));
        assert_eq!(
            progress.errors,
            [r#"modules-config: ('bootcmd', ProcessExecutionError("x\ny"))"#]
        );
        let result = br#"{"v1": {"datasource": null, "errors": ["a\nb"]}}"#;
        assert_eq!(Progress::result_errors(result), ["a b"]);
        assert_eq!(Progress::result_errors(b"{}"), Vec::<String>::new());
        let over = br#"{"v1": {"stage": null, "init": {"errors": []}}}"#;
        assert_eq!(Progress::read(over), Some(Progress::default()));
    }

    #[test]
    fn whatever_a_guest_writes_is_bounded() {
        for bad in [&b""[..], b"{", b"[]", b"{\"v1\": 3}", b"{\"v2\": {}}", b"\xff\xfe"] {
            assert_eq!(Progress::read(bad), None);
        }
        let error = format!("\"\\u001b[2J{}\"", "x".repeat(10_000));
        let errors = vec![error; 100].join(",");
        let text = format!(r#"{{"v1": {{"stage": "a\nb", "init": {{"errors": [{errors}]}}}}}}"#);
        let progress = Progress::read(text.as_bytes()).unwrap();
        assert_eq!(progress.errors.len(), MAX_ERRORS);
        assert!(progress.errors.iter().all(|e| e.chars().count() <= MAX_ERROR + 1));
        assert!(!progress.errors[0].contains('\u{1b}'));
        assert_eq!(progress.stage.as_deref(), Some("a b"));
    }
}
