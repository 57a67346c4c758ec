//! Images of languages from the distribution's packages, each with a program.

use std::time::Duration;

use crate::suite::host;

/// Hundreds of packages come and are unpacked.
const SLOW: Duration = Duration::from_secs(900);

fn builds_and_runs(test: &str, language: &str, program: &[&str], says: &str) {
    let host = host();
    let name = format!("{language}-made-here");
    let build = ["image", "language", "build", language, "--name", &name];
    let built = host.inn(build).limit(SLOW).output();
    // The script's own words for a package source that does not answer, or a
    // host that is no Debian: nothing of ours is wrong then.
    let absent = ["mmdebstrap failed", "this needs", "no apt-get", "have no"];
    if built.code != Some(0) && absent.iter().any(|words| built.stderr.contains(words)) {
        println!("SKIPPED {test}: the packages cannot be had: {}", built.stderr.trim());
        return;
    }
    assert!(built.expect_code(0).stdout.starts_with(&name));
    let run = ["run", "--rm", "--memory", "1GiB", &name, "--"];
    let said = host.inn(run).args(program).limit(SLOW).ok();
    assert!(said.contains(says), "{said}");
    host.inn(["image", "delete", &name]).ok();
}

pub(crate) fn node_is_built_and_runs() {
    let program = ["node", "-e", "console.log('sum', [1, 2, 3].reduce((a, b) => a + b))"];
    builds_and_runs("node_is_built_and_runs", "node", &program, "sum 6\n");
}

pub(crate) fn ruby_is_built_and_runs() {
    let program = ["ruby", "-rjson", "-e", "puts JSON.generate(sum: (1..3).sum)"];
    builds_and_runs("ruby_is_built_and_runs", "ruby", &program, "{\"sum\":6}\n");
}

pub(crate) fn go_is_built_and_runs() {
    let program = ["go", "version"];
    builds_and_runs("go_is_built_and_runs", "golang", &program, "go version go1.");
}
