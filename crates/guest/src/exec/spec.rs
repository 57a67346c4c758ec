//! From a request to everything that a launch needs.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use inn_guest_proto::wire::Exec;

use super::user::{self, User};
use crate::refusal::{OrRefuse, Refusal};

/// Of an image that says nothing: the usual one of container engines.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) user: User,
}

pub(crate) fn prepare(spec: &Exec) -> Result<Prepared, Refusal> {
    let Some(program) = spec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(Refusal::invalid("start a program without a name"));
    };
    let user = user::resolve(&spec.user, Path::new("/etc"))?;
    let env = environment(spec, &user);
    let path = lookup(&env, "PATH").unwrap_or(DEFAULT_PATH);
    let candidates = candidates(program, path);
    let cwd = if spec.cwd.is_empty() { "/" } else { spec.cwd.as_str() };
    if !cwd.starts_with('/') {
        return Err(Refusal::invalid(format!("start in {cwd}, which is no absolute path")));
    }
    if spec.make_cwd && !Path::new(cwd).exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(cwd)
            .or_refuse(|| format!("make the working directory {cwd}"))?;
    }
    Ok(Prepared {
        candidates: strings(candidates)?,
        argv: strings(spec.argv.iter().cloned())?,
        cwd: string(cwd.to_owned())?,
        env: strings(env)?,
        user,
    })
}

/// What was given, and what a program cannot do without.
fn environment(spec: &Exec, user: &User) -> Vec<String> {
    let mut env = spec.env.clone();
    let mut default = |name: &str, value: &str| {
        if lookup(&env, name).is_none() {
            env.push(format!("{name}={value}"));
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", &user.home);
    default("HOSTNAME", &rustix::system::uname().nodename().to_string_lossy());
    if spec.tty.is_some() {
        default("TERM", "xterm");
    }
    env
}

fn lookup<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Where the program may be, in the order of PATH (execvp(3)).
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|dir| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") })
        .collect()
}

fn strings(texts: impl IntoIterator<Item = String>) -> Result<Vec<CString>, Refusal> {
    texts.into_iter().map(string).collect()
}

fn string(text: String) -> Result<CString, Refusal> {
    CString::new(text).map_err(|_| Refusal::invalid("pass on a text with a NUL in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_and_a_path_is_not() {
        assert_eq!(candidates("ls", "/a:/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a:/b"), ["./ls"]);
        assert_eq!(candidates("ls", ":/b"), ["ls", "/b/ls"]);
    }

    #[test]
    fn the_given_environment_wins() {
        let spec = Exec {
            argv: vec!["x".into()],
            env: vec!["PATH=/opt".into(), "HOMER=odyssey".into()],
            ..Exec::default()
        };
        let user = User { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
        let env = environment(&spec, &user);
        assert_eq!(lookup(&env, "PATH"), Some("/opt"));
        assert_eq!(lookup(&env, "HOME"), Some("/root"));
        assert_eq!(lookup(&env, "TERM"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(prepare(&Exec::default()).is_err());
        let relative = Exec { argv: vec!["x".into()], cwd: "x".into(), ..Exec::default() };
        assert!(prepare(&relative).is_err());
        let nul = Exec { argv: vec!["x\0y".into()], ..Exec::default() };
        assert!(prepare(&nul).is_err());
    }
}
