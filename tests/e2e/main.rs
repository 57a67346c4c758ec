//! The end-to-end suite: every test boots real virtual machines, on hosts of
//! its own data directories, through the built `inn`.
//!
//! `cargo test --workspace --test e2e [FILTER]`, as root. The last check is the
//! suite's own: nothing of it may be left.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod adopt;
mod agent;
mod bad_images;
mod bad_input;
mod bridges;
mod cloud;
mod commit;
mod containerfile;
mod copy;
mod docker;
mod doctor;
mod exec;
mod firewalld;
mod forwards;
mod full;
mod full_forks;
mod guest_exec;
mod guest_files;
mod guest_machine;
mod guest_restart;
mod guests;
mod help;
mod idle;
mod image;
mod interrupt;
mod kubernetes;
mod kvm;
mod kvm_hangs;
mod languages;
mod lease;
mod libvirt;
mod lifecycle;
mod limits;
mod logs;
mod metrics;
mod mishaps;
mod network;
mod program;
mod registry;
mod run;
mod snapshots;
mod suite;
mod systemd;
mod templates;
mod traces;
mod tree;
mod usage;
mod user;
mod why;

use std::os::unix::process::CommandExt;
use std::process::Command;

use libtest_mimic::{Arguments, Trial};

macro_rules! trials {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($(Trial::test(
            concat!(stringify!($module), "::", stringify!($name)),
            || { $module::$name(); Ok(()) },
        )),+),+]
    };
}

/// Each operation once for every kind of guest.
macro_rules! guest_trials {
    ($turn:ident, $($module:ident: $($name:ident),+ $(,)?;)+) => {
        guests::Kind::ALL.iter().flat_map(|&kind| [$($({
            let name = format!("{}::{}::{}", stringify!($module), stringify!($name), kind.name());
            Trial::test(name.clone(), move || { guests::$turn(kind, &name, $module::$name); Ok(()) })
        }),+),+]).collect::<Vec<_>>()
    };
}

fn trials() -> Vec<Trial> {
    let mut all = guest_trials! { together,
        guest_exec: what_is_run_and_how, user_has_its_groups_and_home, timeout_ends_the_whole_group,
            output_limit_says_how_much_was_cut, stdin_streams_and_half_closes,
            terminal_has_its_size_and_is_restored, detached_execs_are_listed_attached_to_and_killed,
            any_signal_reaches_the_command, a_hundred_at_once;
        guest_files: large_file_both_ways, holes_stay_holes, single_files_are_looked_at_and_changed,
            a_file_is_replaced_whole_or_not_at_all, trees_both_ways, changes_are_told,
            a_full_disk_is_said_and_no_half_is_left;
        limits: every_process_of_a_machine_is_nobody;
    };
    all.extend(machine_trials());
    all.extend(host_trials());
    all
}

/// What they change is the whole guest's.
fn machine_trials() -> Vec<Trial> {
    guest_trials! { alone,
        guest_machine: telemetry_is_what_the_guest_has, telemetry_is_kept_and_shown, password,
            hostname, clock, ssh_keys, disk_growth, mounts, freeze_and_thaw, freeze_runs_out,
            network;
    }
}

fn host_trials() -> Vec<Trial> {
    trials! {
        run: streams_stay_apart, exit_code_is_the_command_s, a_signal_is_128_and_its_number,
            stdin_reaches_the_command, without_i_stdin_is_empty, image_s_configuration_is_honoured,
            timeout_ends_the_command, without_rm_the_vm_stays, large_output_is_whole,
            what_one_vm_writes_no_other_sees, machine_is_as_large_as_asked;
        exec: exit_codes_and_streams, environment_directory_and_user, stdin_to_eof, timeout,
            terminal, many_at_once, fan_out_labels_lines_and_sums_failures_up,
            identity_is_the_vm_s, hello_without_a_language, json_captures_both_outputs;
        program: file_in_results_out, language_picks_the_image, hello_speaks_the_language,
            run_with_file_and_rm;
        copy: files_both_ways, directories_both_ways, streams, missing_source_is_named;
        image: every_form_boots, list_and_delete, second_import_is_the_same_image,
            digest_names_an_image, a_directory_is_built_into_an_image_that_runs,
            an_exported_image_is_a_layout_to_others;
        commit: an_image_of_a_vm_has_what_the_vm_had;
        containerfile: containerfiles_are_built_and_run, without_buildah_its_package_is_named;
        languages: node_is_built_and_runs, ruby_is_built_and_runs, go_is_built_and_runs;
        registry: an_image_that_skopeo_pushed_is_pulled_and_runs;
        traces: the_environment_s_trace_goes_along;
        help: every_command_shows_examples, completions_for_three_shells;
        tree: guest_sees_what_umoci_unpacks, both_listers_agree;
        lifecycle: create_stop_start_restart_delete, list_filters, stop_all_and_clean,
            persist_outlives_its_vm, replace_takes_the_name, logs_and_console,
            workload_s_end_is_not_the_vm_s, guest_that_powers_off_is_stopped;
        bridges: a_vm_reaches_what_it_may_and_no_more, ports_lead_to_vms_whatever_happens;
        docker: neither_breaks_the_other;
        doctor: its_exit_code_says_whether_vms_run_here;
        firewalld: its_zone_has_our_bridges_whatever_happens_to_either;
        forwards: without_bridges_ports_lead_to_vms;
        idle: a_connection_or_an_exec_wakes_a_paused_vm, without_bridges_too,
            one_whose_memory_is_saved_goes_on_where_it_was;
        snapshots: sixteen_clones_are_sixteen_vms, a_snapshot_outlives_its_vm_and_its_agent,
            a_fork_amid_a_flood_of_output, a_snapshot_is_begun_from_where_vms_are_made_and_run,
            a_clone_takes_along_what_a_router_told,
            a_snapshot_goes_to_another_agent, addresses_are_stable_where_that_was_asked_for;
        templates: a_vm_is_a_clone_that_has_waited;
        network: allow_all_reaches_the_host_s_loopback, none_has_no_device;
        adopt: agent_killed_during_an_exec, agent_upgraded_during_an_exec,
            stopped_agent_leaves_vms_running,
            vm_that_ended_meanwhile_is_seen;
        limits: limits_hold_and_change_while_the_vm_runs, killed_agents_groups_are_reaped,
            vmm_is_nobody_and_reaches_only_its_own;
        logs: console_stays_bounded_and_whole_while_no_agent_runs,
            what_vmms_print_stays_bounded_while_no_agent_runs,
            the_agent_says_what_it_has_done_with_a_vm, logs_since_a_time_leave_out_what_was_before;
        lease: killed_cli_takes_its_vm_along, killed_agent_takes_leased_machines_along;
        interrupt: ctrl_c_at_any_moment_leaves_nothing, ctrl_c_during_an_import_leaves_nothing;
        bad_input: unknown_image_suggests_the_nearest, name_in_use, too_little_memory,
            disk_too_small_for_the_image, guest_that_never_answers, machine_that_stands_still, full_host_disk,
            unknown_vm, wrong_command_lines;
        metrics: promtool_finds_nothing_to_say, prometheus_watches_a_node_at_work;
        usage: machines_are_counted_over_an_agent_s_death;
        mishaps: vmm_that_is_killed, vmm_that_stands_still, runtime_directory_however_deep, clock_jumps;
        bad_images: layer_with_dot_dot, hard_link_out_of_the_root, entry_through_a_symlink_stays_inside,
            truncated_archive, damaged_blob, wrong_digest, not_an_image;
        user: ordinary_user_needs_no_root;
        why: boots_that_fail_are_explained;
        kvm: a_vm_under_firecracker_is_a_clone_that_has_waited;
        kvm: a_vm_under_firecracker_runs_is_reached_and_found_again;
        kvm: a_vm_under_libkrun_runs_is_reached_and_found_again;
        kvm_hangs: a_machine_that_hangs_under_kvm_is_a_named_failure;
        libvirt: a_vm_under_libvirt_outlives_its_libvirtd_and_its_agent,
            a_vm_is_on_networks_of_others, an_ordinary_users_session_serves_its_agent,
            a_cloud_image_is_set_up_on_a_network_of_libvirt_s,
            a_disk_of_another_architecture_is_a_vm_without_an_agent,
            an_agent_in_a_container_leaves_its_vm_to_the_next;
        kubernetes: python_client_execs;
        systemd: units_hold;
        full: qcow2_reboots_and_stops, stops_say_whether_the_guest_took_part,
            without_an_agent_there_is_a_console, what_is_no_disk_image_is_refused,
            workloads_are_supervised_and_their_logs_rotated,
            a_guest_agent_that_ends_is_started_again;
        cloud: a_cloud_image_is_set_up_and_gets_an_agent;
        guest_restart: a_copy_into_the_guest_resumes, a_copy_out_of_the_guest_resumes,
            a_detached_exec_is_found_again, a_frozen_guest_thaws_by_itself,
            an_unconfirmed_network_is_taken_back, netplan_sets_the_network_up;
        agent: second_agent_on_one_data_directory, unknown_configuration_key_suggests_the_nearest,
            cli_starts_an_agent, api_wants_its_token, logs_are_json,
            example_configuration_is_accepted, kvm_is_probed_and_the_verdict_kept;
    }
}

fn main() {
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials()).exit();
    }
    assert!(rustix::process::geteuid().is_root(), "the suite makes device nodes: run it as root");
    enter_own_mount_namespace();
    inn_tests::host::build_binary();
    if arguments.filter.is_none() {
        guests::boot_ahead();
    }
    let conclusion = libtest_mimic::run(&arguments, trials());
    guest_restart::finish();
    guests::finish();
    suite::finish();
    println!("nothing of the suite is left: no process, mount, socket or temporary file");
    conclusion.exit();
}

/// Starts this program again where what it mounts is nobody else's, and gone
/// with it.
#[expect(clippy::disallowed_methods, reason = "the suite starts itself")]
fn enter_own_mount_namespace() {
    const INSIDE: &str = "INN_E2E_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    // A shell's background job ignores SIGINT, and so would all that we start.
    let error = Command::new("env")
        .args(["--default-signal", "unshare", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("env (coreutils) does not start unshare (util-linux): {error}");
}
