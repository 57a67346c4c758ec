//! The query of an exec and of an attach. Kubernetes repeats `command`, which
//! serde's form reader cannot, and spells booleans in more than one way, so it
//! is read by hand.

use std::time::Duration;

use inn_units::{nearest, parse_duration};

use crate::guest::TtySize;

/// What a terminal has whose size nobody told.
const DEFAULT_SIZE: TtySize = TtySize { rows: 24, cols: 80 };

const KEYS: [&str; 15] = [
    "command",
    "shell",
    "stdin",
    "stdout",
    "stderr",
    "tty",
    "env",
    "workdir",
    "user",
    "timeout",
    "output-limit",
    "rows",
    "cols",
    "image-entrypoint",
    "confirm",
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ExecQuery {
    pub(super) command: Vec<String>,
    pub(super) shell: Option<String>,
    pub(super) env: Vec<String>,
    pub(super) workdir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) output_limit: Option<u64>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: Option<TtySize>,
    pub(super) image_entrypoint: bool,
    pub(super) confirm: bool,
}

impl ExecQuery {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut out = Self::default();
        let (mut tty, mut rows, mut cols) = (false, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            if value.contains('\0') {
                return Err(format!("{key} holds a zero byte"));
            }
            match key.as_ref() {
                "command" => out.command.push(value),
                "shell" => out.shell = Some(value),
                "env" => {
                    if value.find('=').is_none_or(|at| at == 0) {
                        return Err(format!("env `{value}` is not NAME=VALUE"));
                    }
                    out.env.push(value);
                }
                "workdir" => {
                    if !value.starts_with('/') {
                        return Err(format!("the workdir `{value}` is not absolute"));
                    }
                    out.workdir = Some(value);
                }
                "user" => out.user = Some(value),
                "timeout" => {
                    let limit = parse_duration(&value).map_err(|e| e.to_string())?;
                    out.timeout = Some(limit);
                }
                "output-limit" => out.output_limit = Some(count(&key, &value)?),
                "stdin" => out.stdin = flag(&key, &value)?,
                "stdout" => out.stdout = flag(&key, &value)?,
                "stderr" => out.stderr = flag(&key, &value)?,
                "tty" => tty = flag(&key, &value)?,
                "image-entrypoint" => out.image_entrypoint = flag(&key, &value)?,
                "confirm" => out.confirm = flag(&key, &value)?,
                "rows" => rows = Some(size(&key, &value)?),
                "cols" => cols = Some(size(&key, &value)?),
                // A VM is a pod of one container, whatever its name.
                "container" => {}
                other => return Err(unknown("exec", other, &KEYS)),
            }
        }
        match &out.shell {
            Some(_) if !out.command.is_empty() || out.image_entrypoint => {
                return Err("a line for the shell is in place of any other command".to_owned());
            }
            None if out.command.is_empty() && !out.image_entrypoint => {
                let detail = "no command is given; repeat `command` for each of its words";
                return Err(detail.to_owned());
            }
            _ => {}
        }
        out.tty = tty.then(|| TtySize {
            rows: rows.unwrap_or(DEFAULT_SIZE.rows),
            cols: cols.unwrap_or(DEFAULT_SIZE.cols),
        });
        Ok(out)
    }
}

/// What to read of a detached exec, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AttachQuery {
    pub(super) offset: u64,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) confirm: bool,
}

impl AttachQuery {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "offset" => out.offset = count(&key, &value)?,
                "stdin" => out.stdin = flag(&key, &value)?,
                "stdout" => out.stdout = flag(&key, &value)?,
                "stderr" => out.stderr = flag(&key, &value)?,
                "confirm" => out.confirm = flag(&key, &value)?,
                // As the exec has it.
                "tty" | "container" => {}
                other => {
                    let keys = ["offset", "stdin", "stdout", "stderr", "confirm"];
                    return Err(unknown("attach", other, &keys));
                }
            }
        }
        Ok(out)
    }
}

fn unknown(what: &str, key: &str, keys: &[&str]) -> String {
    let hint = match nearest(key, keys.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", keys.join(", ")),
    };
    format!("{what} has no parameter {key}; {hint}")
}

/// As strconv.ParseBool of Kubernetes' clients, and Python's `str(True)`.
fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "True" | "TRUE" | "t" | "T" => Ok(true),
        "false" | "0" | "" | "False" | "FALSE" | "f" | "F" => Ok(false),
        _ => Err(format!("{key} is true or false and not `{value}`")),
    }
}

fn count(key: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{key} is a number of bytes and not `{value}`"))
}

fn size(key: &str, value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("{key} is a number up to 65535 and not `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_repeat_and_keep_their_order() {
        let query = ExecQuery::parse(
            "command=sh&command=-c&command=echo%20a%26b&env=A=b=c&stdin=True&tty=1&rows=50\
             &container=main&output-limit=4096\
             &timeout=30s&user=1000:1000&workdir=/in&stdout=true",
        )
        .unwrap();
        assert_eq!(query.command, ["sh", "-c", "echo a&b"]);
        assert_eq!(query.env, ["A=b=c"]);
        assert_eq!(query.tty, Some(TtySize { rows: 50, cols: 80 }));
        assert_eq!(query.timeout, Some(Duration::from_secs(30)));
        assert_eq!(query.output_limit, Some(4096));
        assert!(query.stdin && query.stdout && !query.stderr);
        let shell = ExecQuery::parse("shell=echo+$HOME").unwrap();
        assert_eq!((shell.shell.as_deref(), shell.command.len()), (Some("echo $HOME"), 0));
        assert!(ExecQuery::parse("image-entrypoint=true").unwrap().command.is_empty());
    }

    #[test]
    fn nonsense_is_named() {
        for (query, word) in [
            ("", "command"),
            ("command=a&comand=b", "did you mean command?"),
            ("command=a&env==b", "NAME=VALUE"),
            ("command=a&workdir=x", "absolute"),
            ("command=a&timeout=soon", "soon"),
            ("command=a&tty=perhaps", "perhaps"),
            ("command=a&rows=-1", "-1"),
            ("command=a%00b", "zero byte"),
            ("command=a&shell=b", "in place of"),
            ("shell=b&image-entrypoint=1", "in place of"),
            ("command=a&output-limit=4k", "4k"),
        ] {
            let error = ExecQuery::parse(query).unwrap_err();
            assert!(error.contains(word), "{query}: {error}");
        }
    }

    #[test]
    fn an_attach_has_a_place_to_begin() {
        let query = AttachQuery::parse("offset=70&stdout=1&stderr=true&tty=true").unwrap();
        let wanted =
            AttachQuery { offset: 70, stdout: true, stderr: true, ..AttachQuery::default() };
        assert_eq!(query, wanted);
        assert!(AttachQuery::parse("ofset=70").unwrap_err().contains("did you mean offset?"));
        assert!(AttachQuery::parse("offset=-1").is_err());
    }
}
