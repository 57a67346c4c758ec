//! Texts that are made from [`KEYS`]: `cargo xtask config` writes them to
//! packaging/agent.example.toml and docs/configuration.md.

use std::fmt::Write;

use super::keys::Preset;
use super::{KEYS, Key, Kind};

/// Where a comment is broken.
const WIDTH: usize = 79;

/// What the packaged file sets, since it suits a node better than the default,
/// which must not surprise whoever runs an agent without a file.
const SET: &[(&str, &str)] = &[("exec.max_timeout", "300s")];

const HEAD: &str = "\
/etc/innkeeper/agent.toml: what the agent can be told. A line that is commented \
out shows the default for root, or an example where there is none. A flag of \
`inn agent` comes before the environment, that before this file; an unknown key \
is an error. SIGHUP or `inn agent reload` has the agent read the file again; keys marked \
\"restart\" wait for a restart, which leaves VMs running.

Made from the agent's own list of keys by `cargo xtask config`.";

/// The file that packages install as an example.
pub fn example() -> String {
    let mut out = String::new();
    for paragraph in HEAD.split("\n\n") {
        comment(&mut out, paragraph);
        out.push_str("#\n");
    }
    out.truncate(out.len() - 2);
    for key in KEYS {
        out.push('\n');
        comment(&mut out, &format!("{} [{}]", key.about, traits(key)));
        let name = key.name;
        match SET.iter().find(|(set, _)| *set == name) {
            Some((_, value)) => {
                comment(&mut out, &format!("The default is {}.", key.default.shown()));
                put(&mut out, format_args!("{name} = {}\n", key.toml(value)));
            }
            None => put(&mut out, format_args!("#{name} = {}\n", key.toml(key.default.shown()))),
        }
    }
    out
}

/// docs/configuration.md.
pub fn documentation() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Made from the agent's own list of keys by `cargo xtask config`. -->\n\n\
         Each key can be set by a flag of `inn agent` (`--start-deadline 90s`), by its \
         variable, or in `/etc/innkeeper/agent.toml`, and counts in that order. An unknown key \
         is an error that names the nearest one. `inn agent --check-config` reads everything \
         and shows each value with where it comes from.\n\n\
         SIGHUP or `inn agent reload` has the agent read the file again. What can change without a restart \
         is marked: it holds from then on, also for VMs that run. A file that is not right \
         changes nothing, and the log and `systemctl status innkeeper` say what is wrong with it. Keys \
         that wait for a restart are named in the log; a restart leaves VMs running.\n\n\
         | Key | Value | Default | Variable | Reload | Meaning |\n\
         |---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let default = key.default_text().map_or("–".to_owned(), |text| format!("`{text}`"));
        let row = format_args!(
            "| `{}` | {} | {default} | `{}` | {} | {} |\n",
            key.name,
            key.kind.name(),
            key.variable(),
            if key.is_live() { "yes" } else { "restart" },
            key.about.replace('|', "\\|"),
        );
        put(&mut out, row);
    }
    out
}

fn traits(key: &Key) -> String {
    let kind = key.kind.name();
    if key.is_live() { kind.to_owned() } else { format!("{kind}; restart") }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes all that is written to it.
    let _ = out.write_fmt(text);
}

/// Broken between words.
fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + 1 + word.len() > WIDTH {
            out.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + word.chars().count();
    }
    out.push('\n');
}

impl Preset {
    /// What the example shows.
    fn shown(&self) -> &'static str {
        match self {
            Self::Is(text) | Self::Found(text, _) | Self::Unset(text) => text,
        }
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Number => "number",
            Self::Switch => "true or false",
        }
    }
}
