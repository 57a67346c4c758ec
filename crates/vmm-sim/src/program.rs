use std::time::Duration;

use bytes::Bytes;

/// What an exec does, known in full from its arguments.
///
/// `true`, `false`, `exit N`, `echo WORD…`, `cat`, `sleep SECONDS|infinity`;
/// by name or by any path that ends in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) stdout: Bytes,
    pub(crate) ends: Ends,
    pub(crate) code: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    After(Duration),
    /// Copies stdin to stdout until its end.
    WithStdin,
    Never,
}

impl Program {
    /// Of a line for the shell: its words, of which a quoted one may hold
    /// blanks, and an `exec` in front that changes nothing.
    pub(crate) fn find_line(line: &str) -> Option<Self> {
        let mut words = Vec::new();
        for (at, part) in line.split(['\'', '"']).enumerate() {
            match at % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        if words.first().is_some_and(|word| word == "exec") {
            words.remove(0);
        }
        Self::find(&words)
    }

    /// `None` where the guest has no such program.
    pub(crate) fn find(argv: &[String]) -> Option<Self> {
        let name = argv.first()?.rsplit('/').next()?;
        let words = &argv[1..];
        let ends_with =
            |code| Self { stdout: Bytes::new(), ends: Ends::After(Duration::ZERO), code };
        Some(match name {
            "true" => ends_with(0),
            "false" => ends_with(1),
            "exit" => ends_with(words.first().and_then(|code| code.parse().ok()).unwrap_or(0)),
            "echo" => {
                let mut line = words.join(" ");
                line.push('\n');
                Self { stdout: line.into(), ..ends_with(0) }
            }
            "cat" => Self { ends: Ends::WithStdin, ..ends_with(0) },
            "sleep" => match words.first().map(String::as_str) {
                Some("infinity") => Self { ends: Ends::Never, ..ends_with(0) },
                Some(seconds) => match seconds.parse().ok().map(Duration::try_from_secs_f64) {
                    Some(Ok(time)) => Self { ends: Ends::After(time), ..ends_with(0) },
                    _ => ends_with(1),
                },
                None => ends_with(1),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(line: &str) -> Option<Program> {
        Program::find(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert_eq!(find("/bin/true").unwrap().code, 0);
        assert_eq!(find("false").unwrap().code, 1);
        assert_eq!(find("exit 7").unwrap().code, 7);
        assert_eq!(find("echo a b").unwrap().stdout, Bytes::from("a b\n"));
        assert_eq!(find("sleep 0.5").unwrap().ends, Ends::After(Duration::from_millis(500)));
        assert_eq!(find("sleep infinity").unwrap().ends, Ends::Never);
        assert_eq!(find("sleep -1").unwrap().code, 1);
        assert_eq!(find("cat").unwrap().ends, Ends::WithStdin);
        assert_eq!(find("python3"), None);
        assert_eq!(Program::find(&[]), None);
    }

    #[test]
    fn lines_are_split_into_words() {
        let echo = Program::find_line("echo  'a  b' c").unwrap();
        assert_eq!(echo.stdout, Bytes::from("a  b c\n"));
        assert_eq!(Program::find_line("exec sleep infinity").unwrap().ends, Ends::Never);
        assert_eq!(Program::find_line(" "), None);
    }
}
