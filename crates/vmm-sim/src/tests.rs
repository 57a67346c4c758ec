use std::path::Path;
use std::time::Duration;

use inn_guest_proto::wire::{Configure, Exec, Request, Shutdown, end, exec_end, request};
use inn_guest_proto::{Host, HostEvent, data_cost};
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, Subject, run_all};
use inn_vmm::{
    Accel, AdoptError, Boot, ChannelKind, Console, Disk, DiskSource, Lifetime, Machine,
    MachineConfig, MachineEnd, Runtime,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

fn config(dir: &Path, id: u8) -> MachineConfig {
    let disk = dir.join("disk");
    std::fs::File::create(&disk).unwrap().set_len(4096).unwrap();
    MachineConfig {
        id: VmId::from_bytes([id; 5]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel: Accel::Tcg,
        boot: Boot::Firmware,
        channel: ChannelKind::Serial,
        from: None,
        disks: vec![Disk {
            source: DiskSource::Raw(disk),
            read_only: false,
            serial: "inn-rw".to_owned(),
        }],
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
        run_dir: dir.join("run"),
        lifetime: Lifetime::Detached,
        isolation: inn_vmm::Isolation::default(),
    }
}

struct Sim(SimRuntime);

impl Subject for Sim {
    type Runtime = SimRuntime;

    fn runtime(&self) -> &SimRuntime {
        &self.0
    }

    async fn disk_size(&self, machine: &SimMachine, serial: &str) -> Option<Bytes> {
        machine.core.disk_size(serial)
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        config(dir, 1)
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        vec![
            (config(dir, 2), MachineEnd::PoweredOff),
            (config(dir, 3), MachineEnd::Died("simulated".to_owned())),
        ]
    }
}

#[tokio::test]
async fn conforms() {
    let runtime = SimRuntime::new(|id| {
        let end = match id.as_bytes()[0] {
            2 => Some(MachineEnd::PoweredOff),
            3 => Some(MachineEnd::Died("simulated".to_owned())),
            _ => None,
        };
        let ends_after = end.map(|end| (Duration::from_millis(50), end));
        Behaviour { ends_after, ..Behaviour::default() }
    });
    run_all(&Sim(runtime)).await;
}

/// A host's end that asks one thing after the other.
struct Client {
    stream: UnixStream,
    host: Host,
}

impl Client {
    async fn connect(machine: &SimMachine) -> Self {
        let stream = machine.connect_channel().await.unwrap();
        let mut client = Self { stream, host: Host::new([7; 16], "test") };
        while !matches!(client.next().await, HostEvent::Hello { .. }) {}
        client
    }

    async fn next(&mut self) -> HostEvent {
        loop {
            while !self.host.output().is_empty() {
                let written = self.stream.write(self.host.output()).await.unwrap();
                self.host.wrote(written);
            }
            if let Some(event) = self.host.next_event().unwrap() {
                return event;
            }
            let read = self.stream.read_buf(self.host.input()).await.unwrap();
            assert_ne!(read, 0, "the guest hung up");
        }
    }

    async fn ask(&mut self, kind: request::Kind) -> (Vec<u8>, end::Outcome) {
        let stream = self.host.open(Request { kind: Some(kind) }).unwrap();
        let mut output = Vec::new();
        loop {
            match self.next().await {
                HostEvent::Data { stream: s, data } if s == stream => {
                    output.extend_from_slice(&data.bytes);
                    self.host.consumed(stream, data_cost(data.bytes.len()));
                }
                HostEvent::End { stream: s, end } if s == stream => {
                    return (output, end.outcome.unwrap());
                }
                _ => {}
            }
        }
    }

    async fn exec(&mut self, line: &str) -> (String, exec_end::Status) {
        let argv = line.split(' ').map(str::to_owned).collect();
        let exec = Exec { id: line.to_owned().into(), argv, ..Exec::default() };
        let (output, outcome) = self.ask(request::Kind::Exec(exec)).await;
        let end::Outcome::ExecEnd(end) = outcome else { panic!("{outcome:?}") };
        (String::from_utf8(output).unwrap(), end.status.unwrap())
    }
}

#[tokio::test]
async fn the_guest_runs_its_programs_and_powers_off() {
    let place = Place::new();
    let runtime = SimRuntime::default();
    let machine = place.launch(&runtime, &config(place.path(), 1)).await;
    let mut client = Client::connect(&machine).await;
    let (_, outcome) = client.ask(request::Kind::Configure(Configure::default())).await;
    assert!(matches!(outcome, end::Outcome::Configured(_)));
    use exec_end::Status::Code;
    assert_eq!(client.exec("/bin/true").await, (String::new(), Code(0)));
    assert_eq!(client.exec("exit 7").await, (String::new(), Code(7)));
    assert_eq!(client.exec("echo a b").await, ("a b\n".to_owned(), Code(0)));
    assert_eq!(client.exec("sleep 0.01").await, (String::new(), Code(0)));
    let unknown = Exec { argv: vec!["python3".to_owned()], ..Exec::default() };
    let (_, outcome) = client.ask(request::Kind::Exec(unknown)).await;
    assert!(matches!(outcome, end::Outcome::Failure(_)));
    let long = format!("echo {}", "x".repeat(60_000));
    for _ in 0..10 {
        assert_eq!(client.exec(&long).await.0.len(), 60_001, "credit is given back");
    }
    let (_, outcome) = client.ask(request::Kind::Shutdown(Shutdown::default())).await;
    assert!(matches!(outcome, end::Outcome::Done(_)));
    assert_eq!(machine.wait().await, MachineEnd::PoweredOff);
}

#[tokio::test]
async fn another_life_adopts_by_the_file_alone() {
    let place = Place::new();
    let config = config(place.path(), 1);
    let machine = place.launch(&SimRuntime::default(), &config).await;
    let identity = machine.identity().clone();
    let mut client = Client::connect(&machine).await;
    client.ask(request::Kind::Configure(Configure::default())).await;
    drop((client, machine));

    let later = SimRuntime::default();
    let adopted = later.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    assert!(adopted.core.guest().configured);
    adopted.kill().await.unwrap();
    let again = SimRuntime::default().adopt(config.id, &identity, &config.run_dir).await;
    assert!(matches!(again, Err(AdoptError::Gone { .. })));
}

#[tokio::test]
async fn a_leased_machine_is_not_there_for_another_life() {
    let place = Place::new();
    let config = MachineConfig { lifetime: Lifetime::Leased, ..config(place.path(), 1) };
    let machine = place.launch(&SimRuntime::default(), &config).await;
    let identity = machine.identity().clone();
    let adopted = SimRuntime::default().adopt(config.id, &identity, &config.run_dir).await;
    assert!(matches!(adopted, Err(AdoptError::Gone { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_stays_silent() {
    let place = Place::new();
    let runtime = SimRuntime::new(|_| Behaviour { answers_after: None, ..Behaviour::default() });
    let machine = place.launch(&runtime, &config(place.path(), 1)).await;
    let connected = tokio::time::timeout(Duration::from_secs(3600), Client::connect(&machine));
    assert!(connected.await.is_err());
}

#[tokio::test]
async fn a_dropped_handle_hangs_up_and_the_machine_stays() {
    let place = Place::new();
    let runtime = SimRuntime::default();
    let config = config(place.path(), 1);
    let machine = place.launch(&runtime, &config).await;
    let identity = machine.identity().clone();
    let mut channel = machine.connect_channel().await.unwrap();
    drop(machine);
    assert_eq!(channel.read(&mut [0; 1]).await.unwrap(), 0);
    let adopted = runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    adopted.kill().await.unwrap();
}
