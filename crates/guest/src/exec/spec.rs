//! From a request to a program that can be started.

use std::path::Path;

use inn_guest_proto::wire::{Exec, FailureKind};

use crate::os::process::{self, DEFAULT_PATH, LaunchError, Program, SHELL, Step};
use crate::os::users::{self, User};
use crate::refusal::{OrRefuse, Refusal};

pub(super) fn prepare(spec: &Exec) -> Result<Program, Refusal> {
    let argv = arguments(spec)?;
    let user = users::resolve(&spec.user, Path::new("/etc"))?;
    let env = environment(spec, &user);
    let path = lookup(&env, "PATH").unwrap_or(DEFAULT_PATH).to_owned();
    let cwd = if spec.cwd.is_empty() { "/" } else { spec.cwd.as_str() };
    if !cwd.starts_with('/') {
        return Err(Refusal::invalid(format!("start in {cwd}, which is no absolute path")));
    }
    if spec.make_cwd && !Path::new(cwd).exists() {
        std::fs::create_dir_all(cwd)
            .or_refuse(|| format!("make the working directory {cwd}"))
            .map_err(|refusal| refusal.of_kind(FailureKind::Invalid))?;
    }
    Program::new(argv, env, &path, cwd, user)
        .map_err(|_| Refusal::invalid("pass on a text with a NUL in it"))
}

fn arguments(spec: &Exec) -> Result<Vec<String>, Refusal> {
    match (spec.argv.first(), spec.command_line.as_str()) {
        (Some(_), line) if !line.is_empty() => {
            Err(Refusal::invalid("run both a program and a shell line"))
        }
        (Some(program), _) if !program.is_empty() => Ok(spec.argv.clone()),
        (None, line) if !line.is_empty() => {
            Ok(SHELL.iter().copied().chain([line]).map(str::to_owned).collect())
        }
        _ => Err(Refusal::invalid("start a program without a name")),
    }
}

/// What was given, and what a program cannot do without or login(1) would set.
fn environment(spec: &Exec, user: &User) -> Vec<String> {
    let mut env = spec.env.clone();
    let mut default = |name: &str, value: &str| {
        if !value.is_empty() && lookup(&env, name).is_none() {
            env.push(format!("{name}={value}"));
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", &user.home);
    default("USER", &user.name);
    default("LOGNAME", &user.name);
    default("SHELL", &user.shell);
    default("HOSTNAME", &process::hostname());
    if spec.tty.is_some() {
        default("TERM", "xterm");
    }
    env
}

fn lookup<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Which of the things that were asked for stood in the way.
pub(super) fn explain(error: &LaunchError, spec: &Exec, program: &Program) -> Refusal {
    let name = spec.argv.first().map_or(SHELL[0], String::as_str);
    match error.step {
        Step::Program if spec.argv.is_empty() => {
            Refusal::io(format!("run a shell line with {name}"), &error.source)
        }
        Step::Program => Refusal::io(format!("run {name}"), &error.source),
        Step::WorkingDirectory => {
            let what = format!("enter the working directory {}", program.cwd());
            Refusal::io(what, &error.source).of_kind(FailureKind::Invalid)
        }
        Step::Identity => {
            let User { uid, gid, .. } = program.user();
            Refusal::io(format!("become user {uid} and group {gid}"), &error.source)
        }
        Step::Terminal => Refusal::io("give the process its terminal", &error.source),
        Step::Fork | Step::Session | Step::Descriptors => {
            Refusal::io(format!("start a process for {name}"), &error.source)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            uid: 5,
            gid: 5,
            groups: vec![],
            name: "games".into(),
            home: "/usr/games".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn the_given_environment_wins() {
        let spec = Exec {
            argv: vec!["x".into()],
            env: vec!["PATH=/opt".into(), "HOMER=odyssey".into(), "USER=me".into()],
            ..Exec::default()
        };
        let env = environment(&spec, &user());
        assert_eq!(lookup(&env, "PATH"), Some("/opt"));
        assert_eq!(lookup(&env, "HOME"), Some("/usr/games"));
        assert_eq!(lookup(&env, "USER"), Some("me"));
        assert_eq!(lookup(&env, "LOGNAME"), Some("games"));
        assert_eq!(lookup(&env, "SHELL"), Some("/bin/sh"));
        assert_eq!(lookup(&env, "TERM"), None);
    }

    #[test]
    fn who_has_no_name_gets_none() {
        let env = environment(&Exec::default(), &User { name: String::new(), ..user() });
        assert_eq!(lookup(&env, "USER"), None);
    }

    #[test]
    fn a_line_goes_to_the_shell() {
        let line = Exec { command_line: "echo 'a b' | wc".into(), ..Exec::default() };
        assert_eq!(arguments(&line).unwrap(), ["/bin/sh", "-c", "echo 'a b' | wc"]);
        let both = Exec { argv: vec!["ls".into()], ..line };
        assert!(arguments(&both).is_err());
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
