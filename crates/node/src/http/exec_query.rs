//! The query of an exec. Kubernetes repeats `command`, which serde's form
//! reader cannot, so it is read by hand.

use std::time::Duration;

use inn_units::{nearest, parse_duration};

use crate::guest::TtySize;

/// What a terminal has whose size nobody told.
const DEFAULT_SIZE: TtySize = TtySize { rows: 24, cols: 80 };

const KEYS: [&str; 12] = [
    "command",
    "stdin",
    "stdout",
    "stderr",
    "tty",
    "env",
    "workdir",
    "user",
    "timeout",
    "rows",
    "cols",
    "image-entrypoint",
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ExecQuery {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) workdir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: Option<TtySize>,
    pub(super) image_entrypoint: bool,
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
                "stdin" => out.stdin = flag(&key, &value)?,
                "stdout" => out.stdout = flag(&key, &value)?,
                "stderr" => out.stderr = flag(&key, &value)?,
                "tty" => tty = flag(&key, &value)?,
                "image-entrypoint" => out.image_entrypoint = flag(&key, &value)?,
                "rows" => rows = Some(size(&key, &value)?),
                "cols" => cols = Some(size(&key, &value)?),
                other => {
                    let hint = match nearest(other, KEYS) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("there are {}", KEYS.join(", ")),
                    };
                    return Err(format!("exec has no parameter {other}; {hint}"));
                }
            }
        }
        if out.command.is_empty() && !out.image_entrypoint {
            return Err("no command is given; repeat `command` for each of its words".to_owned());
        }
        out.tty = tty.then(|| TtySize {
            rows: rows.unwrap_or(DEFAULT_SIZE.rows),
            cols: cols.unwrap_or(DEFAULT_SIZE.cols),
        });
        Ok(out)
    }
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err(format!("{key} is true or false and not `{value}`")),
    }
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
            "command=sh&command=-c&command=echo%20a%26b&env=A=b=c&stdin=true&tty=1&rows=50\
             &timeout=30s&user=1000:1000&workdir=/in&stdout=true",
        )
        .unwrap();
        assert_eq!(query.command, ["sh", "-c", "echo a&b"]);
        assert_eq!(query.env, ["A=b=c"]);
        assert_eq!(query.tty, Some(TtySize { rows: 50, cols: 80 }));
        assert_eq!(query.timeout, Some(Duration::from_secs(30)));
        assert!(query.stdin && query.stdout && !query.stderr);
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
        ] {
            let error = ExecQuery::parse(query).unwrap_err();
            assert!(error.contains(word), "{query}: {error}");
        }
    }
}
