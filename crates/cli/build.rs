//! Builds `inn-guest`, the binary that lives inside each VM, and hands its
//! path to `src/guest_binary.rs`, which embeds it: `inn` then needs no other
//! file of ours at run time.
//!
//! The guest is built by a nested cargo and not as an artifact dependency,
//! because it differs from `inn` in everything that cargo fixes per build: it
//! is linked statically (there is no libc in an initramfs), optimised for size
//! and aborts on panic, also while `inn` itself is a debug build. It has a
//! target directory of its own beside the outer build's, since the outer cargo
//! holds the lock of that one while this runs.
//!
//! `INN_GUEST_PREBUILT=/path/inn-guest` skips the build and embeds that file,
//! for packagers who build the guest as a step of its own.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script is outside the product's one wrapper for processes"
)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

/// What the guest binary is made from, relative to the workspace root.
const SOURCES: [&str; 6] = [
    "crates/guest",
    "crates/guest-proto",
    "crates/netlink",
    "crates/units",
    "Cargo.toml",
    "Cargo.lock",
];

/// Cargo's own variables that say where things come from, and the jobserver:
/// these go on to the nested cargo, all others of cargo's do not.
const KEPT: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
];

/// Not named `CARGO_…`, and still about the outer build alone. With
/// RUSTC_WORKSPACE_WRAPPER `cargo clippy` would lint the guest instead of
/// building it.
const DROPPED: [&str; 12] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
    "NUM_JOBS",
    "OUT_DIR",
    "LLVM_PROFILE_FILE",
];

fn main() {
    if let Err(problem) = embed_guest() {
        eprintln!("inn-guest, the binary inside each VM, could not be built: {problem}");
        exit(1);
    }
}

fn embed_guest() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=INN_GUEST_PREBUILT");
    println!("cargo:rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let built = match env::var_os("INN_GUEST_PREBUILT") {
        Some(path) => {
            println!("cargo:rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build_guest(&out_dir)?,
    };
    // A copy of our own: `include_bytes!` keeps working when the nested target
    // directory is emptied, and an unchanged guest leaves the time stamp alone
    // and so rebuilds nothing.
    let embedded = out_dir.join("inn-guest");
    let bytes = fs::read(&built).map_err(|e| format!("reading {}: {e}", built.display()))?;
    if fs::read(&embedded).ok().as_deref() != Some(&bytes) {
        fs::write(&embedded, &bytes).map_err(|e| format!("writing {}: {e}", embedded.display()))?;
    }
    println!("cargo:rustc-env=INN_GUEST_BINARY={}", embedded.display());
    Ok(())
}

fn build_guest(out_dir: &Path) -> Result<PathBuf, String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir
        .ancestors()
        .nth(2)
        .ok_or_else(|| format!("{} is not two levels deep", manifest_dir.display()))?;
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let target = variable("TARGET")?;
    let os = variable("CARGO_CFG_TARGET_OS")?;
    if os != "linux" {
        return Err(format!(
            "it runs on Linux alone and the target is {}; set INN_GUEST_PREBUILT to a built one",
            target.display()
        ));
    }
    let target_dir = outer_target_dir(out_dir).join("guest-build");

    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        if !passes_on(&name) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(workspace)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Not the outer build's, should a cargo configuration name one: the
        // outer cargo holds its lock until we are done.
        .env("CARGO_BUILD_BUILD_DIR", &target_dir)
        // The outer cargo has brought Cargo.lock up to date before it ran us.
        .args([
            "build",
            "--locked",
            "--package",
            "inn-guest",
            "--bin",
            "inn-guest",
            "--profile",
            "guest",
        ])
        .arg("--target")
        .arg(&target)
        .arg("--target-dir")
        .arg(&target_dir);
    let status = cargo.status().map_err(|e| format!("starting {:?}: {e}", cargo.get_program()))?;
    if !status.success() {
        return Err(format!("cargo ended with {status}; its messages are above"));
    }
    Ok(target_dir.join(&target).join("guest").join("inn-guest"))
}

/// The root of the outer build's target directory. How deep OUT_DIR lies below
/// it differs with `--target`, and cargo marks with a CACHEDIR.TAG only a
/// directory of its own making; what it knows of rustc it always keeps there.
fn outer_target_dir(out_dir: &Path) -> &Path {
    out_dir.ancestors().find(|dir| dir.join(".rustc_info.json").exists()).unwrap_or(out_dir)
}

fn passes_on(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return true };
    if name.starts_with("CARGO") {
        return KEPT.iter().any(|kept| name.starts_with(kept));
    }
    !DROPPED.contains(&name)
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
