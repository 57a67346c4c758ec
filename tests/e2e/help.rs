use crate::suite::host;

/// Names under `Commands:` of a help text.
fn commands_of(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    section
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

pub(crate) fn every_command_shows_examples() {
    let host = host();
    let mut pending = vec![Vec::<String>::new()];
    let mut leaves = 0;
    while let Some(path) = pending.pop() {
        let help = host.inn(&path).args(["--help"]).ok();
        let commands = commands_of(&help);
        if commands.is_empty() {
            leaves += 1;
            assert!(help.contains("Examples:"), "{path:?} shows no example: {help}");
        }
        for command in commands {
            pending.push([path.clone(), vec![command]].concat());
        }
    }
    assert!(leaves >= 18, "only {leaves} commands were found");
}

pub(crate) fn completions_for_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = host().inn(["completion", shell]).ok();
        assert!(script.contains("inn") && script.contains("exec"), "{shell}: {script}");
    }
}
