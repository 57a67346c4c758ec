//! What runs VMs, and under what.

use inn_api::{Family, Finding, HostFacts, KernelPartState};

use super::packages::install;
use super::place::whose;
use super::remedy::Remedy;
use super::{RuntimeSight, Sight, degraded, load, missing, ok};

pub(super) fn check(facts: &HostFacts, sight: &Sight, findings: &mut Vec<Finding>) {
    findings.push(any(facts, sight));
    findings.extend(sight.runtimes.iter().map(|runtime| one(facts, runtime)));
    findings.push(kvm(facts, sight));
    findings.extend(kernel(facts, sight));
    let family = facts.distribution.family;
    for (tool, consequence) in [
        ("qemu-img", "disk images in qcow2 are not taken"),
        ("mkfs.ext4", "no disk can be made for a VM of an image"),
        ("buildah", "`inn image build` does not work"),
    ] {
        let check = format!("program.{tool}");
        let path =
            facts.tools.iter().find(|one| one.name == tool).and_then(|one| one.path.as_ref());
        let finding = match path {
            Some(path) => ok(&check, format!("it is {path}")),
            None => install(family, tool).of(missing(&check, "it is not installed", consequence)),
        };
        findings.push(Finding { needed: tool == "mkfs.ext4", ..finding });
    }
}

/// The one thing without which there is no VM.
fn any(facts: &HostFacts, sight: &Sight) -> Finding {
    let mut chosen = sight.runtimes.iter().filter(|runtime| runtime.is_chosen);
    let here = chosen.find(|runtime| runtime.standing.is_ok());
    let finding = match here {
        Some(first) => ok("runtime", format!("{} runs VMs that ask for none", first.name)),
        None => {
            let lost = missing("runtime", "none is to be had", "no VM can start");
            install(facts.distribution.family, "qemu-system-x86_64").of(lost)
        }
    };
    Finding { needed: true, ..finding }
}

fn one(facts: &HostFacts, runtime: &RuntimeSight) -> Finding {
    let RuntimeSight { name, standing, .. } = runtime;
    let check = format!("runtime.{name}");
    let why = match standing {
        Ok(what) => return ok(&check, what),
        Err(why) => why,
    };
    let consequence = format!("VMs cannot have --runtime {name}");
    let family = facts.distribution.family;
    let has_kvm = facts.kvm.present && facts.kvm.probed != Some(false);
    let remedy = match name.as_str() {
        "qemu" => install(family, "qemu-system-x86_64"),
        "libvirt" => install(family, "libvirtd")
            .then("where it is installed: systemctl enable --now libvirtd"),
        // Of a checkout: no distribution has it.
        "krun" if has_kvm => Remedy::command("scripts/build-krun")
            .then("run it in a checkout of Innkeeper, and restart the agent"),
        "firecracker" if has_kvm => Remedy::person(
            "unpack a release of https://github.com/firecracker-microvm/firecracker/releases, \
                and put its firecracker and jailer on PATH, or name the one by INN_FIRECRACKER",
        ),
        "krun" | "firecracker" => {
            Remedy::person("mend kvm first (below): it runs nothing without it")
        }
        _ => Remedy::person(format!("mend what {name} says, and restart the agent")),
    };
    remedy.of(missing(&check, why, &consequence))
}

fn kvm(facts: &HostFacts, sight: &Sight) -> Finding {
    const EMULATED: &str = "VMs are emulated: they start and run several times slower, \
        and Firecracker and krun are not to be had";
    let kvm = &facts.kvm;
    if kvm.probed == Some(true) {
        return ok("kvm", &*kvm.reason);
    }
    if kvm.probed == Some(false) && kvm.present {
        return broken_kvm(facts).of(degraded("kvm", &*kvm.reason, EMULATED));
    }
    let can_open = !kvm.reason.contains("cannot be opened");
    if kvm.present && can_open {
        return ok("kvm", &*kvm.reason);
    }
    if kvm.present {
        let remedy = Remedy::command(format!("usermod -aG kvm {}", whose(sight)))
            .then("log in again, and restart the agent");
        return remedy.of(degraded("kvm", &*kvm.reason, EMULATED));
    }
    let finding = missing("kvm", &*kvm.reason, EMULATED);
    let module = match facts.virtualisation.extension.as_deref() {
        _ if facts.virtualisation.container.is_some() => return no_kvm(facts).of(finding),
        Some("vmx") => "kvm_intel",
        Some("svm") => "kvm_amd",
        // The module would refuse.
        _ => return no_kvm(facts).of(finding),
    };
    if !facts.kernel.loads_modules {
        let remedy = format!("boot a kernel that has {module}: the distribution's own does");
        return Remedy::person(remedy).of(finding);
    }
    load(finding, module)
}

/// There is a device, and no guest boots under it.
fn broken_kvm(facts: &HostFacts) -> Remedy {
    match facts.virtualisation.in_vm {
        true => Remedy::person(NESTED),
        false => Remedy::command("dmesg | grep -i kvm").then(
            "mend what the kernel says there, update firmware and kernel, and restart the agent",
        ),
    }
}

/// The CPU does not offer it to this kernel.
fn no_kvm(facts: &HostFacts) -> Remedy {
    let virtualisation = &facts.virtualisation;
    if virtualisation.container.is_some() {
        return Remedy::person(
            "start this container with --device /dev/kvm, on a host that has it",
        );
    }
    if virtualisation.in_vm {
        return Remedy::person(NESTED);
    }
    if !facts.cpu.architecture.starts_with("x86") {
        return Remedy::person("boot a kernel that has CONFIG_KVM, in the exception level EL2");
    }
    Remedy::person(
        "switch VT-x (Intel) or SVM (AMD) on in the firmware's setup, and switch off and on",
    )
}

/// What a VM takes to have VMs of its own.
const NESTED: &str = "on this VM's host: modprobe -r kvm_intel && modprobe kvm_intel nested=1 \
    (AMD: kvm_amd), and start this VM with the host's CPU (QEMU: -cpu host; libvirt: \
    host-passthrough)";

fn kernel(facts: &HostFacts, sight: &Sight) -> Option<Finding> {
    Some(match sight.kernel.as_ref()? {
        Ok(version) => ok("kernel", format!("VMs of images boot {version}")),
        Err(why) => {
            let consequence = "VMs of images cannot start, unless --kernel names one";
            // Its kernel for VMs is fetched into the agent's directory, and not installed
            // for the host to boot.
            let remedy = match facts.distribution.family {
                Family::Debian => Remedy::command("inn image kernel fetch"),
                other => install(other, "kernel"),
            };
            let finding = missing("kernel", why, consequence);
            remedy.then("or name a kernel's file by kernel.path in agent.toml").of(finding)
        }
    })
}

/// Of a part of the kernel: whether it is here, may come, or never does.
pub(super) fn part(facts: &HostFacts, check: &str, name: &str, consequence: &str) -> Finding {
    let state = facts.kernel_parts.iter().find(|part| part.name == name).map(|part| part.state);
    match state {
        Some(KernelPartState::Here) => ok(check, "the kernel has it"),
        Some(KernelPartState::Loadable) if facts.kernel.loads_modules => {
            let found = "the kernel has a module for it, which is not loaded";
            load(degraded(check, found, consequence), name)
        }
        _ => {
            let whose = match facts.virtualisation.container {
                Some(_) => "have this container's host boot",
                None => "boot",
            };
            let option = name.to_uppercase();
            let does =
                format!("{whose} a kernel that has CONFIG_{option}: the distribution's own does");
            Remedy::person(does).of(missing(
                check,
                format!("the kernel has no {name}"),
                consequence,
            ))
        }
    }
}
