//! What `inn doctor --fix` does, below a root: each fix looks first whether it
//! is done already, so that it is done once.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use inn_api::Fix;

use crate::root::Root;

/// Read at each boot (modules-load.d(5)); ours alone.
const MODULES: &str = "/etc/modules-load.d/innkeeper.conf";

/// Programs that a fix runs, by argv; what they say where they fail.
pub trait Run {
    fn run(&self, argv: &[&str]) -> Result<(), String>;
}

/// What was done, in words; none where it was so already. Blocks.
///
/// # Errors
/// Why it is as it was, in a sentence.
pub fn mend(root: &Root, programs: &dyn Run, fix: &Fix) -> Result<Option<String>, String> {
    match fix {
        Fix::LoadModule { module } => load(root, programs, module),
        Fix::MakeDirectory { path } => make(root, path),
        Fix::CloseDirectory { path } => close(root, path),
        Fix::WriteSetting { path, value } => write(root, path, value),
        Fix::MakeGroup { name } => make_group(root, programs, name),
    }
}

/// Now, and at each boot where the system has a place to say so.
fn load(root: &Root, programs: &dyn Run, module: &str) -> Result<Option<String>, String> {
    let mut done = Vec::new();
    // The kernel writes its names so (Documentation/ABI/stable/sysfs-module).
    if !root.exists(format!("/sys/module/{}", module.replace('-', "_"))) {
        programs.run(&["modprobe", module])?;
        done.push("now");
    }
    let known = root.text(MODULES).unwrap_or_default();
    let directory = Path::new(MODULES).parent().unwrap_or(Path::new("/"));
    if root.exists(directory) && !known.lines().any(|line| line.trim() == module) {
        let failed = |error: io::Error| format!("cannot write {MODULES}: {error}");
        let mut file = fs::OpenOptions::new();
        let file = file.create(true).append(true).mode(0o644).open(root.path(MODULES));
        file.and_then(|mut file| {
            let begun = if known.is_empty() { "# By inn doctor --fix.\n" } else { "" };
            file.write_all(format!("{begun}{module}\n").as_bytes())
        })
        .map_err(failed)?;
        done.push("at each boot");
    }
    Ok((!done.is_empty()).then(|| format!("loads the module {module}, {}", done.join(" and "))))
}

fn make(root: &Root, path: &str) -> Result<Option<String>, String> {
    if root.path(path).is_dir() {
        return Ok(None);
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(root.path(path));
    made.map_err(|error| format!("cannot make {path}: {error}"))?;
    Ok(Some(format!("made {path}")))
}

fn close(root: &Root, path: &str) -> Result<Option<String>, String> {
    let failed = |error: io::Error| format!("cannot close {path}: {error}");
    let there = root.path(path);
    let mode = fs::metadata(&there).map_err(failed)?.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(None);
    }
    fs::set_permissions(&there, Permissions::from_mode(mode & 0o770)).map_err(failed)?;
    Ok(Some(format!("closed {path} to others")))
}

/// A file of the kernel's: it is there, or is none of this kernel's.
fn write(root: &Root, path: &str, value: &str) -> Result<Option<String>, String> {
    let failed = |error: io::Error| format!("cannot write {path}: {error}");
    let now = root.text(path).unwrap_or_default();
    // `always [madvise] never`, as files of a choice have it.
    if now == value || now.contains(&format!("[{value}]")) {
        return Ok(None);
    }
    let file = fs::OpenOptions::new().write(true).truncate(true).open(root.path(path));
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(failed)?;
    Ok(Some(format!("wrote {value} to {path}, until the next boot")))
}

fn make_group(root: &Root, programs: &dyn Run, name: &str) -> Result<Option<String>, String> {
    let groups = root.text("/etc/group").unwrap_or_default();
    if groups.lines().any(|line| line.split(':').next() == Some(name)) {
        return Ok(None);
    }
    programs.run(&["groupadd", "--system", name])?;
    Ok(Some(format!("made the group {name}, which nobody is in; restart the agent")))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tempfile::TempDir;

    use super::*;

    /// A host's files, and programs that are noted and do what they are for.
    struct Host {
        dir: TempDir,
        ran: RefCell<Vec<String>>,
        fails: bool,
    }

    impl Host {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let host = Self { dir, ran: RefCell::default(), fails: false };
            for (path, text) in files {
                fs::create_dir_all(host.at(path).parent().unwrap()).unwrap();
                fs::write(host.at(path), text).unwrap();
            }
            host
        }

        fn at(&self, path: &str) -> std::path::PathBuf {
            self.dir.path().join(path.trim_start_matches('/'))
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.at(path)).unwrap()
        }

        fn mend(&self, fix: &Fix) -> Result<Option<String>, String> {
            mend(&Root::recorded(self.dir.path()), self, fix)
        }

        /// It is done once, and says so.
        fn mends(&self, fix: &Fix, words: &str) {
            let said = self.mend(fix).unwrap();
            assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{fix:?}: {said:?}");
            assert_eq!(self.mend(fix), Ok(None), "{fix:?} a second time");
        }
    }

    impl Run for Host {
        fn run(&self, argv: &[&str]) -> Result<(), String> {
            if self.fails {
                return Err(format!("{} is not here", argv[0]));
            }
            self.ran.borrow_mut().push(argv.join(" "));
            match argv {
                ["modprobe", module] => {
                    fs::create_dir_all(self.at("/sys/module").join(module.replace('-', "_")))
                        .unwrap();
                }
                ["groupadd", "--system", name] => {
                    let line = format!("{}{name}:x:998:\n", self.text("/etc/group"));
                    fs::write(self.at("/etc/group"), line).unwrap();
                }
                _ => panic!("{argv:?}"),
            }
            Ok(())
        }
    }

    fn module(name: &str) -> Fix {
        Fix::LoadModule { module: name.to_owned() }
    }

    #[test]
    fn a_module_is_loaded_now_and_at_each_boot() {
        let host = Host::new(&[("/etc/modules-load.d/others.conf", "loop\n")]);
        host.mends(&module("tun"), "now and at each boot");
        host.mends(&module("vhost-vsock"), "now and at each boot");
        assert_eq!(host.text(MODULES), "# By inn doctor --fix.\ntun\nvhost-vsock\n");
        assert_eq!(*host.ran.borrow(), ["modprobe tun", "modprobe vhost-vsock"]);
        fs::remove_dir(host.at("/sys/module/tun")).unwrap();
        host.mends(&module("tun"), "loads the module tun, now");
        assert_eq!(host.text("/etc/modules-load.d/others.conf"), "loop\n");
        // Where nobody reads such a directory, none is made.
        let host = Host::new(&[]);
        host.mends(&module("tun"), "tun, now");
        assert!(!host.at("/etc").exists());
    }

    #[test]
    fn a_module_that_does_not_load_is_no_promise_for_the_next_boot() {
        let host = Host { fails: true, ..Host::new(&[("/etc/modules-load.d/a.conf", "")]) };
        assert_eq!(host.mend(&module("tun")), Err("modprobe is not here".to_owned()));
        assert!(!host.at(MODULES).exists());
    }

    #[test]
    fn directories_are_made_for_their_owner_and_closed_to_others_alone() {
        let host = Host::new(&[]);
        let path = "/var/lib/innkeeper".to_owned();
        let mode = |host: &Host| fs::metadata(host.at(&path)).unwrap().permissions().mode() & 0o777;
        host.mends(&Fix::MakeDirectory { path: path.clone() }, "made /var/lib/innkeeper");
        assert_eq!(mode(&host), 0o700);
        fs::set_permissions(host.at(&path), Permissions::from_mode(0o755)).unwrap();
        host.mends(&Fix::CloseDirectory { path: path.clone() }, "closed /var/lib/innkeeper");
        assert_eq!(mode(&host), 0o750);
        let gone = host.mend(&Fix::CloseDirectory { path: "/nowhere".to_owned() }).unwrap_err();
        assert!(gone.contains("/nowhere"), "{gone}");
    }

    #[test]
    fn a_setting_is_written_where_the_kernel_has_it() {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled".to_owned();
        let fix = Fix::WriteSetting { path: path.clone(), value: "madvise".to_owned() };
        let host = Host::new(&[(&path, "always madvise [never]\n")]);
        host.mends(&fix, "wrote madvise");
        assert_eq!(host.text(&path), "madvise");
        let chosen = Host::new(&[(&path, "always [madvise] never\n")]);
        assert_eq!(chosen.mend(&fix), Ok(None));
        let without = Host::new(&[]);
        assert!(without.mend(&fix).unwrap_err().contains("cannot write"));
        assert!(!without.at(&path).exists(), "nothing is made in /sys");
    }

    #[test]
    fn a_group_is_made_and_nobody_joins_it() {
        let host = Host::new(&[("/etc/group", "root:x:0:\ninnkeepers:x:7:\n")]);
        host.mends(&Fix::MakeGroup { name: "innkeeper".to_owned() }, "made the group innkeeper");
        assert_eq!(host.text("/etc/group"), "root:x:0:\ninnkeepers:x:7:\ninnkeeper:x:998:\n");
    }
}
