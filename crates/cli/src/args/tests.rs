use std::time::Duration;

use clap::{CommandFactory, Parser};
use inn_units::{Bytes, MIB};

use super::*;
use crate::usage::{Instead, explain};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn vm(line: &str) -> VmCommand {
    match parse(line).unwrap().command {
        Command::Vm(Deferred(command)) => command,
        other => panic!("{other:?}"),
    }
}

fn run(line: &str) -> RunArgs {
    match parse(line).unwrap().command {
        Command::Run(Deferred(args)) => *args,
        other => panic!("{other:?}"),
    }
}

/// The sentence and exit code of a wrong command line.
fn refused(line: &str) -> (u8, String) {
    match explain(parse(line).unwrap_err()) {
        Instead::Fail(failure) => (failure.code, failure.sentence().to_owned()),
        Instead::Print(help) => panic!("printed {help}"),
    }
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_examples() {
    fn check(command: &clap::Command, path: &str) {
        if command.get_name() == "help" {
            return;
        }
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().for_each(|below| check(below, &path));
        } else {
            let help = command.get_after_help().unwrap_or_default().to_string();
            assert!(help.contains("Examples:"), "{path} has no examples");
            assert!(help.contains("inn "), "{path}");
        }
    }
    let mut command = Cli::command();
    command.build();
    check(&command, "");
}

#[test]
fn run_takes_its_command_after_two_hyphens() {
    let args =
        run("inn run --rm -i -t --cpu 2 --mem 256 --timeout 30 -e A=1=2 base -- ls -la --rm");
    assert_eq!(args.image.as_deref(), Some("base"));
    assert_eq!(args.command, ["ls", "-la", "--rm"]);
    assert!(args.rm && args.interactive && args.tty);
    assert_eq!(args.timeout, Some(Duration::from_secs(30)));
    let request = args.machine.request().unwrap();
    assert_eq!(request.vcpus.map(inn_units::Vcpus::get), Some(2));
    assert_eq!(request.memory_bytes, Some(Bytes(256 * MIB)));
    assert_eq!(request.env.get("A").map(String::as_str), Some("1=2"));
    assert_eq!(request.network, inn_api::Network::AllowAll);
}

#[test]
fn create_takes_all_of_run_s_machine_flags() {
    let VmCommand::Create(Deferred(args)) = vm(
        "inn vm create --image base --name web --cpus 2 --memory 1.5GiB --disk 2GiB --network none \
         --ip 10.0.0.7 --ip fd00::7 --persist --replace --label a=b --kernel ./vmlinux --kernel-args quiet --restart-policy always",
    ) else {
        panic!("another command")
    };
    let request = args.machine.request().unwrap();
    assert_eq!(request.memory_bytes, Some(Bytes(1536 * MIB)));
    assert_eq!(request.network, inn_api::Network::None);
    assert_eq!(request.ipv4, Some([10, 0, 0, 7].into()));
    assert_eq!(request.ipv6, Some("fd00::7".parse().unwrap()));
    assert!(request.persist && request.replace);
    let kernel = request.kernel.unwrap();
    let path = kernel.path.unwrap();
    assert!(path.starts_with('/') && path.ends_with("/vmlinux"), "{path}");
    assert_eq!(kernel.args.as_deref(), Some("quiet"));
}

#[test]
fn vms_come_by_position_by_flag_or_all() {
    let targets = |line: &str| match vm(line) {
        VmCommand::Stop(args) => args.vms.targets(),
        VmCommand::Exec(args) => args.vms.targets(),
        other => panic!("{other:?}"),
    };
    let named = |names: &[&str]| VmTargets::Named(names.iter().map(|n| (*n).to_owned()).collect());
    assert_eq!(targets("inn vm stop a --vm b --vm a c"), named(&["a", "c", "b"]));
    assert_eq!(targets("inn vm stop --all --force"), VmTargets::All);
    assert_eq!(targets("inn vm exec a b -- true --all"), named(&["a", "b"]));
}

#[test]
fn places_are_here_in_a_vm_or_a_stream() {
    let guest =
        |vm: &str, path: &str| Ok(Place::Guest(GuestPath { vm: vm.into(), path: path.into() }));
    assert_eq!(parse_place("web:/a:b"), guest("web", "/a:b"));
    assert_eq!(parse_place("./a:b"), Ok(Place::Host("./a:b".into())));
    assert_eq!(parse_place("/x"), Ok(Place::Host("/x".into())));
    assert_eq!(parse_place("-"), Ok(Place::Stream));
    for wrong in ["web:etc", "web:", "web:/a/../b", "A_b:/x", ""] {
        assert!(parse_place(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_wrong_command_line_is_one_sentence_with_the_way_out() {
    for (line, named) in [
        ("inn run", "IMAGE"),
        ("inn run base --memory lots", "lots"),
        ("inn run base --cpus 0", "0"),
        ("inn run base true", "true"),
        ("inn run base --timeout 0", "0"),
        ("inn run --frobnicate base", "--frobnicate"),
        ("inn vm create --name Web --image base", "Web"),
        ("inn vm create --name web", "--image"),
        ("inn vm create --image base --replace", "--name"),
        ("inn vm create --language cobol", "cobol"),
        ("inn vm stop", "--all"),
        ("inn vm stop a --all", "--all"),
        ("inn vm exec a --cmd x -- y", "--cmd"),
        ("inn vm exec a --hello --cmd x", "--hello"),
        ("inn vm list --status asleep", "asleep"),
        ("inn vm cp a", "DST"),
        ("inn image import x", "--name"),
        ("inn image import x --name ../x", "../x"),
        ("inn image import x --name x --digest sha256:12", "sha256:12"),
        ("inn frobnicate", "frobnicate"),
        ("inn vm", "inn vm"),
        ("inn run base --runtime xen", "xen"),
        ("inn run base --mem 1 --memory 1MiB", "--memory"),
        ("inn run base --channel pipe", "pipe"),
        ("inn vm create --image a --disk-image b", "--disk-image"),
        ("inn vm create --image a --sha256 00", "00"),
        ("inn vm create --disk-image a --sha256 00", "00"),
        ("inn vm top --interval 0", "0"),
        ("inn vm top --sort size", "size"),
        ("inn vm stats", "VM"),
        ("inn vm stats web --last soon", "soon"),
        ("inn vm attach web zz", "zz"),
        ("inn vm kill web", "EXEC"),
        ("inn vm kill web 0123456789abcdef -s a/b", "a/b"),
        ("inn vm exec a -d --out ./x -- y", "--out"),
        ("inn vm files ls web", "web"),
        ("inn vm files ls web:etc", "absolute"),
        ("inn vm files chmod 9 web:/x", "9"),
        ("inn vm files mv web:/a b", "VM:PATH"),
        ("inn vm guest hostname web", "HOSTNAME"),
        ("inn vm guest network web", "--interface"),
        ("inn vm guest network web --interface eth0 --address 10.0.0.5", "10.0.0.5"),
        ("inn vm guest network web --interface eth0 --address 10.0.0.5/33", "32 bits"),
        ("inn vm guest network web --interface eth0 --file x", "--file"),
        ("inn vm guest network web --file x --dhcp4", "--dhcp4"),
        ("inn vm guest freeze web --timeout 100ms", "whole seconds"),
        ("inn vm guest ssh-keys web", "--list"),
        ("inn vm guest ssh-keys web --list --add x", "--add"),
        ("inn vm guest mount web data srv", "absolute"),
    ] {
        let (code, sentence) = refused(line);
        assert_eq!(code, 2, "{line}: {sentence}");
        assert!(sentence.contains(named), "{line}: {sentence}");
        assert!(sentence.contains("--help"), "{line}: {sentence}");
        assert!(!sentence.contains('\n'), "{line}: {sentence}");
    }
}

#[test]
fn one_vm_comes_by_position_or_flag() {
    for line in ["inn vm stats web", "inn vm stats --vm web", "inn vm stats --last 10m web"] {
        let VmCommand::Stats(args) = vm(line) else { panic!("{line}") };
        assert_eq!(args.vm.name(), "web", "{line}");
    }
    let VmCommand::Top(args) = vm("inn vm top a --vm b") else { panic!("another command") };
    assert_eq!(args.names(), ["a", "b"]);
    let VmCommand::Top(args) = vm("inn vm top") else { panic!("another command") };
    assert!(args.names().is_empty());
}

#[test]
fn a_disk_image_is_a_source_with_a_digest() {
    let sha256 = "AB".repeat(32);
    let line = format!("inn vm create --disk-image file:///x --sha256 sha256:{sha256}");
    let VmCommand::Create(Deferred(args)) = vm(&line) else { panic!("another command") };
    let mut request = args.machine.request().unwrap();
    args.source.put_in(&mut request).unwrap();
    let disk = request.disk_image.unwrap();
    assert_eq!((disk.url.as_str(), disk.sha256), ("file:///x", Some("ab".repeat(32))));
    assert_eq!((request.image, request.memory_bytes), (None, None));
}

#[test]
fn a_typing_error_gets_a_suggestion() {
    let (_, sentence) = refused("inn vm creat --image base");
    assert!(sentence.contains("create"), "{sentence}");
    let (_, sentence) = refused("inn run base --memroy 1MiB");
    assert!(sentence.contains("--memory") && sentence.contains("inn run --help"), "{sentence}");
}
