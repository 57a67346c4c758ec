use std::path::Path;

use clap::ValueEnum;

/// A language that a VM speaks: how its programs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Python,
    #[value(alias = "js")]
    Javascript,
    Node,
    Ruby,
    #[value(alias = "go")]
    Golang,
}

impl Language {
    /// As the API spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Node => "node",
            Self::Ruby => "ruby",
            Self::Golang => "golang",
        }
    }

    /// Where `--language` looks for its image unless the configuration says
    /// otherwise (`languages.*`).
    pub(crate) const fn image_name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript | Self::Node => "node",
            Self::Ruby => "ruby",
            Self::Golang => "golang",
        }
    }

    /// The image that most people know it by.
    pub(crate) const fn public_image(self) -> &'static str {
        match self {
            Self::Python => "docker.io/library/python:3-slim",
            Self::Javascript | Self::Node => "docker.io/library/node:lts-slim",
            Self::Ruby => "docker.io/library/ruby:slim",
            Self::Golang => "docker.io/library/golang:bookworm",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::from_str(name, true).ok()
    }

    /// By the file's extension, where a VM has no language of its own.
    pub(crate) fn of_file(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "py" => Some(Self::Python),
            "js" | "mjs" | "cjs" => Some(Self::Javascript),
            "rb" => Some(Self::Ruby),
            "go" => Some(Self::Golang),
            _ => None,
        }
    }

    /// The command that runs a source file in the VM.
    pub(crate) fn command_for(self, file: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Python => &["python3", file],
            Self::Javascript | Self::Node => &["node", file],
            Self::Ruby => &["ruby", file],
            Self::Golang => &["go", "run", file],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// The command that says hello.
    pub(crate) fn hello(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Python => &["python3", "-c", "print('Hello from python!')"],
            Self::Javascript => &["node", "-e", "console.log('Hello from javascript!')"],
            Self::Node => &["node", "-e", "console.log('Hello from node!')"],
            Self::Ruby => &["ruby", "-e", "puts 'Hello from ruby!'"],
            // `go run` takes files alone, so the program is put into one.
            Self::Golang => &["/bin/sh", "-c", GO_HELLO],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

const GO_HELLO: &str = r#"dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
printf 'package main\n\nfunc main() { println("Hello from golang!") }\n' > "$dir/hello.go"
go run "$dir/hello.go" 2>&1"#;

/// The command that says hello in a VM of no language.
pub(crate) fn shell_hello() -> Vec<String> {
    ["/bin/sh", "-c", "echo 'Hello from the shell!'"].map(str::to_owned).to_vec()
}

/// The command that runs `/in/NAME`: the VM's language first, then what the
/// file's name says.
pub(crate) fn command_for_file(language: Option<Language>, file: &str) -> Option<Vec<String>> {
    let path = Path::new(file);
    if let Some(language) = language.or_else(|| Language::of_file(path)) {
        return Some(language.command_for(file));
    }
    (path.extension()?.to_str()? == "sh").then(|| vec!["/bin/sh".to_owned(), file.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vm_s_language_comes_before_the_file_s() {
        let run = |language, file| command_for_file(language, file).map(|words| words.join(" "));
        assert_eq!(run(None, "/in/main.py").as_deref(), Some("python3 /in/main.py"));
        assert_eq!(run(Some(Language::Ruby), "/in/main.py").as_deref(), Some("ruby /in/main.py"));
        assert_eq!(run(Some(Language::Golang), "/in/x").as_deref(), Some("go run /in/x"));
        assert_eq!(run(None, "/in/job.sh").as_deref(), Some("/bin/sh /in/job.sh"));
        assert_eq!(run(None, "/in/job"), None);
    }

    #[test]
    fn every_language_says_its_own_name() {
        for language in Language::value_variants() {
            assert!(language.hello().join(" ").contains(language.name()));
            assert_eq!(Language::of_name(language.name()), Some(*language));
            assert!(language.public_image().starts_with("docker.io/library/"));
        }
        assert_eq!(Language::of_name("cobol"), None);
    }
}
