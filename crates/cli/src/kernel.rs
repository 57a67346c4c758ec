//! Kernels for VMs. What fetches or builds one runs here, as whoever typed it,
//! and not in the agent, which runs neither package managers nor compilers.

use std::ffi::OsString;
use std::path::Path;

use inn_client::api::{HostKernelList, KernelDefault, KernelOrigin};
use serde_json::json;

use crate::args::{BuildKernelArgs, KernelCommand};
use crate::context::Context;
use crate::failure::Failure;
use crate::script;
use crate::table::Table;

static BUILD: &str = include_str!("../../../packaging/guest-kernel/build");
static FETCH: &str = include_str!("../../../packaging/guest-kernel/fetch");
static CONFIG: &str = include_str!("../../../packaging/guest-kernel/config");

/// By which no kernel is named.
const NEWEST: &str = "newest";

pub(crate) async fn kernel(context: &Context, command: &KernelCommand) -> Result<u8, Failure> {
    match command {
        KernelCommand::List => {
            let list = context.client().await?.kernels().await?;
            show(context, &list)
        }
        KernelCommand::Use { name } => {
            let name = (name != NEWEST).then(|| name.clone());
            let default = KernelDefault { name };
            let list = context.client().await?.set_default_kernel(&default).await?;
            show(context, &list)
        }
        KernelCommand::Fetch { package } => {
            let package = package.iter().flat_map(|name| ["--package".into(), name.into()]);
            run(context, FETCH, package.collect()).await
        }
        KernelCommand::Build(args) => run(context, BUILD, build_args(args)?).await,
    }
}

fn build_args(args: &BuildKernelArgs) -> Result<Vec<OsString>, Failure> {
    let mut words: Vec<OsString> = Vec::new();
    for (flag, path) in [("--source", &args.source), ("--work", &args.work)] {
        let Some(path) = path else { continue };
        let path = std::path::absolute(path).map_err(|e| {
            Failure::because(format!("cannot tell where {} is", path.display()), &e)
        })?;
        words.extend([flag.into(), path.into()]);
    }
    if let Some(jobs) = args.jobs {
        words.extend(["--jobs".into(), jobs.to_string().into()]);
    }
    Ok(words)
}

/// Runs one of our scripts, which prints as its last line what it has made in
/// the directory that it is given.
async fn run(context: &Context, script: &str, args: Vec<OsString>) -> Result<u8, Failure> {
    let client = context.client().await?;
    let directory = client.kernels().await?.directory;
    let mut words: Vec<OsString> = vec!["--output".into(), directory.clone().into()];
    words.extend(args);
    let done = script::run(&[("script", script), ("config", CONFIG)], words).await?;
    let Some(made) = done else {
        let why = format!("no kernel was put into {directory}: the messages above say why");
        return Err(Failure::new(why));
    };
    let name = name_of(Path::new(&made));
    let path = Path::new(&directory).join(&name);
    let result = json!({ "name": name, "path": path });
    context.result(&result, || {
        format!("{}\nVMs boot it after: inn image kernel use {name}\n", path.display())
    })?;
    Ok(0)
}

/// `NAME`, or `…/NAME/vmlinux`.
fn name_of(made: &Path) -> String {
    let dir = if made.ends_with("vmlinux") { made.parent().unwrap_or(made) } else { made };
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn show(context: &Context, list: &HostKernelList) -> Result<u8, Failure> {
    context.result(&list.items, || {
        if list.items.is_empty() {
            return "no kernel is here; `inn image kernel fetch` gets one\n".to_owned();
        }
        let mut table = Table::new(["NAME", "VERSION", "SIZE", "FROM", "USED"]).right([2]);
        for kernel in &list.items {
            let from = match kernel.origin {
                KernelOrigin::Package => "package",
                KernelOrigin::Built => "built here",
                KernelOrigin::Host => "this host",
                KernelOrigin::Configuration => "kernel.path",
            };
            table.push([
                kernel.name.clone(),
                if kernel.version.is_empty() { "-".into() } else { kernel.version.clone() },
                kernel.bytes.to_string(),
                from.to_owned(),
                if kernel.default { "yes".into() } else { "-".into() },
            ]);
        }
        table.render()
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use inn_host::process::{Program, run_attached};

    use super::*;

    #[test]
    fn a_kernel_s_name_is_its_directory_s() {
        assert_eq!(name_of(Path::new("/k/6.12-innkeeper/vmlinux")), "6.12-innkeeper");
        assert_eq!(name_of(Path::new("6.1.0-9-cloud-amd64")), "6.1.0-9-cloud-amd64");
    }

    /// What docs/images.md promises of `--kernel`: it must have these built in.
    #[test]
    fn our_kernel_has_what_a_vm_needs() {
        for option in [
            "64BIT",
            "SMP",
            "PVH",
            "ACPI",
            "PCI",
            "BLK_DEV_INITRD",
            "DEVTMPFS",
            "VIRTIO_MMIO",
            "VIRTIO_PCI",
            "VIRTIO_BLK",
            "VIRTIO_CONSOLE",
            "VIRTIO_NET",
            "VIRTIO_VSOCKETS",
            "VIRTIO_BALLOON",
            "HW_RANDOM_VIRTIO",
            "SERIAL_8250_CONSOLE",
            "EXT4_FS",
            "OVERLAY_FS",
            "TMPFS",
            "FUSE_FS",
            "PROC_FS",
            "SYSFS",
            "UNIX98_PTYS",
            "CGROUPS",
            "NAMESPACES",
            "SECCOMP_FILTER",
            "IO_URING",
            "NF_TABLES",
            "KVM_GUEST",
            "VMGENID",
        ] {
            let line = format!("CONFIG_{option}=y");
            assert!(CONFIG.lines().any(|have| have == line), "{line} is missing");
        }
        assert!(CONFIG.contains("# CONFIG_MODULES is not set"));
    }

    #[test]
    fn a_dropped_line_of_the_configuration_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let script = write("build", BUILD);
        let wanted = write("wanted", "# why\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n");
        let check = |got: &str| {
            let got = write("got", got);
            let args = [script.clone(), "--check-config".into(), wanted.clone(), got];
            run_attached(Program::BASH, args).unwrap().status.success()
        };
        assert!(check("CONFIG_A=y\nCONFIG_C=\"x\"\nCONFIG_D=y\n"));
        assert!(check("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n"));
        for dropped in [
            "CONFIG_C=\"x\"\n",
            "CONFIG_A=m\nCONFIG_C=\"x\"\n",
            "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=\"x\"\n",
        ] {
            assert!(!check(dropped), "{dropped}");
        }
    }
}
