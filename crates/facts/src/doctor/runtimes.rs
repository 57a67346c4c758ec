//! What runs VMs, and under what.

use inn_api::{Finding, HostFacts, KernelPartState};

use super::packages::install;
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
            None => missing(&check, "it is not installed", consequence),
        };
        let is_missing = path.is_none();
        let command = if is_missing { install(family, tool) } else { None };
        findings.push(Finding { needed: tool == "mkfs.ext4", command, ..finding });
    }
}

/// The one thing without which there is no VM.
fn any(facts: &HostFacts, sight: &Sight) -> Finding {
    let mut chosen = sight.runtimes.iter().filter(|runtime| runtime.is_chosen);
    let here = chosen.find(|runtime| runtime.standing.is_ok());
    let finding = match here {
        Some(first) => ok("runtime", format!("{} runs VMs that ask for none", first.name)),
        None => {
            let command = install(facts.distribution.family, "qemu-system-x86_64");
            let lost = missing("runtime", "none is to be had", "no VM can start");
            Finding { command, ..lost }
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
    let command = match name.as_str() {
        "qemu" => install(family, "qemu-system-x86_64"),
        "libvirt" => install(family, "libvirtd"),
        // Of a checkout: no distribution has it.
        "krun" => Some("scripts/build-krun".to_owned()),
        _ => None,
    };
    Finding { command, ..missing(&check, why, &consequence) }
}

fn kvm(facts: &HostFacts, sight: &Sight) -> Finding {
    const EMULATED: &str = "VMs are emulated: they start and run several times slower, \
        and Firecracker and krun are not to be had";
    let kvm = &facts.kvm;
    if kvm.probed == Some(true) {
        return ok("kvm", &*kvm.reason);
    }
    if kvm.probed == Some(false) && kvm.present {
        return degraded("kvm", &*kvm.reason, EMULATED);
    }
    let can_open = !kvm.reason.contains("cannot be opened");
    if kvm.present && can_open {
        return ok("kvm", &*kvm.reason);
    }
    if kvm.present {
        let user = if sight.user.is_empty() { "$USER" } else { &sight.user };
        let command = Some(format!("usermod -aG kvm {user}"));
        return Finding { command, ..degraded("kvm", &*kvm.reason, EMULATED) };
    }
    let module = match facts.virtualisation.extension.as_deref() {
        Some("vmx") => "kvm_intel",
        Some("svm") => "kvm_amd",
        // The module would refuse; a firmware's switch has no command.
        _ => return missing("kvm", &*kvm.reason, EMULATED),
    };
    let finding = missing("kvm", &*kvm.reason, EMULATED);
    if !facts.kernel.loads_modules {
        return finding;
    }
    let (command, fix) = load(module);
    Finding { command, fix, ..finding }
}

fn kernel(facts: &HostFacts, sight: &Sight) -> Option<Finding> {
    Some(match sight.kernel.as_ref()? {
        Ok(version) => ok("kernel", format!("VMs of images boot {version}")),
        Err(why) => {
            let consequence = "VMs of images cannot start, unless --kernel names one";
            let command = install(facts.distribution.family, "kernel");
            Finding { command, ..missing("kernel", why, consequence) }
        }
    })
}

/// Of a part of the kernel: whether it is here, may come, or never does.
pub(super) fn part(facts: &HostFacts, check: &str, name: &str, consequence: &str) -> Finding {
    let state = facts.kernel_parts.iter().find(|part| part.name == name).map(|part| part.state);
    match state {
        Some(KernelPartState::Here) => ok(check, "the kernel has it"),
        Some(KernelPartState::Loadable) if facts.kernel.loads_modules => {
            let (command, fix) = load(name);
            let found = "the kernel has a module for it, which is not loaded";
            Finding { command, fix, ..degraded(check, found, consequence) }
        }
        _ => missing(check, format!("the kernel has no {name}"), consequence),
    }
}
