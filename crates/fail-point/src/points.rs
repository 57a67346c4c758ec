//! The registry: every point, in the order in which an operation passes them.

use std::fmt;

macro_rules! points {
    ($($operation:ident { $($point:ident $name:literal: $done:literal => $next:literal;)+ })+) => {
        /// What is done step by step. An operation that is part of others, such
        /// as a launch, stands for itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($operation,)+
        }

        /// An instant between two steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Point {
            $($(
                #[doc = concat!("Done: ", $done, ". Next: ", $next, ".")]
                $point,
            )+)+
        }

        impl Point {
            /// All, operation by operation.
            pub const ALL: &[Self] = &[$($(Self::$point,)+)+];

            /// By which it is armed: `create.stored`.
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$point => $name,)+)+ }
            }

            pub const fn operation(self) -> Operation {
                match self { $($(Self::$point => Operation::$operation,)+)+ }
            }

            /// What has just been done.
            pub const fn done(self) -> &'static str {
                match self { $($(Self::$point => $done,)+)+ }
            }

            /// What would be done next.
            pub const fn next(self) -> &'static str {
                match self { $($(Self::$point => $next,)+)+ }
            }
        }
    };
}

points! {
    Create {
        CreateReserved "create.reserved": "it is admitted and its name reserved" => "its record is stored";
        CreateStored "create.stored": "its record is stored" => "the agent knows it";
        CreateAtWork "create.at-work": "its task is at work" => "the client is told";
    }
    Replace {
        ReplaceAsked "replace.asked": "that the new VM takes the old one's place is stored" => "the old VM ends";
        ReplaceCleared "replace.cleared": "the new VM's record is in the old one's place" => "the agent knows it";
    }
    Change {
        ChangeStored "change.stored": "what is desired now is stored" => "the VM's task is poked";
        ChangePoked "change.poked": "the VM's task is poked" => "the client is told";
    }
    Limits {
        LimitsStored "limits.stored": "a VM's new limits are stored" => "they are written where its machine is";
    }
    Network {
        NetworkStored "network.stored": "a new network is stored" => "its bridge is made";
        NetworkForgotten "network.forgotten": "a network is forgotten" => "its bridge is removed";
        NetworkLinks "network.links": "bridges, taps and addresses are as declared" => "the tables are made so";
        NetworkTables "network.tables": "the tables are as declared" => "those who wait are told";
        ZoneRecorded "network.zone-recorded": "bridges that firewalld's zone is to have are recorded" => "firewalld is asked";
        ZoneAsked "network.zone-asked": "firewalld's zone has the bridges that it is to have" => "that is recorded";
    }
    Attach {
        NetworkLeased "attach.leased": "the VM has its addresses" => "its tap is opened";
        NetworkTap "attach.tap": "the VM's tap is open" => "it is put on its bridge, and rules are made for it";
        NetworkApplied "attach.applied": "the host's network is ready for the VM" => "its VMM is started with the tap";
        PolicyStored "attach.policy-stored": "a VM's new policy is stored" => "it is put in force";
        AddressStored "attach.address-stored": "a VM's other address is stored" => "it is put in force";
        AddressApplied "attach.address-applied": "a VM's other address is in force" => "its guest is told";
        AddressTold "attach.address-told": "a VM's guest has its other address" => "that is noted";
    }
    Ports {
        PortsStored "ports.stored": "port maps are stored" => "the agent knows them";
        PortsDeclared "ports.declared": "the agent knows of port maps" => "they are put in force";
        PortsForgotten "ports.forgotten": "port maps are forgotten" => "they are taken out of force";
        PortsForwarded "ports.forwarded": "a VMM has been told which ports lead to its VM" => "those who wait are told";
    }
    Pause {
        PauseHungUp "pause.hung-up": "nobody talks to the guest any more" => "its machine is stopped";
        PauseStands "pause.stands": "the machine stands still" => "that is stored";
        PauseRecorded "pause.recorded": "that it stands still is stored" => "those who wait are told";
    }
    Resume {
        ResumeGoesOn "resume.goes-on": "the machine goes on" => "that is stored";
        ResumeRecorded "resume.recorded": "that it goes on is stored" => "its guest's session is got back";
    }
    Capture {
        CaptureNoted "capture.noted": "that the VM stands still is stored" => "its machine is stopped";
        CaptureStands "capture.stands": "the machine stands still" => "memory and disk are copied";
        CaptureGoesOn "capture.goes-on": "the machine goes on" => "that is stored";
    }
    Snapshot {
        SnapshotCaught "snapshot.caught": "memory and disk are copied, and the VM runs on" => "they are written down";
        SnapshotWritten "snapshot.written": "the snapshot's files are on the disk" => "it gets its name";
        SnapshotNamed "snapshot.named": "the snapshot's directory has its name" => "its record is stored";
        SnapshotRecorded "snapshot.recorded": "the snapshot's record is stored" => "the client is told";
        SnapshotForgotten "snapshot.forgotten": "a snapshot's record is gone" => "its files are removed";
    }
    Fork {
        ForkCaught "fork.caught": "memory and disk are copied, and the parent runs on" => "the clones' records are stored";
    }
    Templates {
        TemplatePrepared "template.prepared": "a machine that is nobody's is up, rehearsed and stands still" => "it is saved";
        TemplateCaught "template.caught": "its memory and disk are caught" => "they are written down";
        TemplateNamed "template.named": "the template is on the disk under its name" => "the machine that it was made from ends";
        TemplateKept "template.kept": "VMs of its kind begin from it" => "clones of it are made";
        CloneWaits "clone.waits": "a clone is up and stands still" => "it is among those that wait";
        CloneTaken "clone.taken": "a clone that waited is a VM's machine" => "it goes on";
        CloneGoesOn "clone.goes-on": "it runs" => "its guest becomes itself";
    }
    Ttl {
        TtlStored "ttl.stored": "a VM's time to live is stored" => "it is counted down";
        TtlOver "ttl.over": "a VM's time to live is over" => "its stop or its deletion is stored";
    }
    Idle {
        IdleStored "idle.stored": "what becomes of an idle VM is stored" => "its use is watched";
        IdleDue "idle.due": "a VM is unused for long enough" => "that it rests is stored";
        IdleWakes "idle.wakes": "somebody needs a VM that rests" => "that it is woken is stored";
    }
    Suspend {
        SuspendNoted "suspend.noted": "that the VM stands still is stored" => "its machine is stopped";
        SuspendStands "suspend.stands": "the machine stands still" => "its memory is written down";
        SuspendWritten "suspend.written": "the memory is on the disk" => "it gets its name";
        SuspendNamed "suspend.named": "the memory has its name" => "that it is there is stored";
        SuspendRecorded "suspend.recorded": "that it is saved is stored" => "its machine is ended";
        WakeNoted "wake.noted": "the machine that goes on is stored" => "what it goes on from is taken away";
        WakeTaken "wake.taken": "what it goes on from is taken away" => "it goes on";
    }
    Disks {
        DisksDirectory "disks.directory": "the VM's directory is made" => "its disks are made";
        ScratchFormatted "disks.formatted": "an empty file system of this size is made" => "it gets its name in the cache";
        ScratchSized "disks.sized": "the disk has its length" => "its file system is copied";
        DiskMade "disks.made": "the disk is whole" => "the one at /persist is looked for";
        PersistMade "disks.persist-made": "the disk at /persist is whole" => "it gets its name";
        PersistNamed "disks.persist-named": "the disk at /persist has its name" => "the machine is launched";
    }
    DiskImage {
        ImageCopyBegun "disk-image.begun": "the copy's file is there" => "the bytes are copied";
        ImageCopyWhole "disk-image.whole": "the copy is on the disk" => "it gets its name";
        ImageCopyNamed "disk-image.named": "the copy has its name" => "the machine is launched";
    }
    DiskFetch {
        DiskFetchVerified "disk-fetch.verified": "a disk image is whole and what it should be" => "it is unpacked";
        DiskFetchUnpacked "disk-fetch.unpacked": "the disk has its name in the cache" => "its record is written";
        DiskFetchRecorded "disk-fetch.recorded": "the disk is in the cache" => "the client is told";
    }
    Cgroup {
        CgroupFirst "cgroup.first": "the first of the VM's control groups is made" => "the others are made";
        CgroupMade "cgroup.made": "the VM's control groups are made and limited" => "its VMM is started in them";
        CgroupRemoved "cgroup.removed": "a control group of the VM is removed" => "the others are removed";
    }
    Jail {
        JailGiven "jail.given": "the run directory belongs to the VMM's user" => "the console's log is linked into it";
        JailDescriptors "jail.descriptors": "all that the VMM may open is open for it" => "QEMU is spawned with it";
    }
    Firecracker {
        FirecrackerLent "firecracker.lent": "its tap stays without a holder" => "its keeper is started";
        FirecrackerKept "firecracker.kept": "its keeper runs" => "its API is awaited";
        FirecrackerAttached "firecracker.attached": "it has attached to its tap" => "the tap goes with it again";
        FirecrackerConfigured "firecracker.configured": "it knows its machine" => "that is started";
        FirecrackerLoaded "firecracker.loaded": "it has a machine that was saved" => "that is handed over";
        FirecrackerWritten "firecracker.written": "it has written its machine down" => "that is copied";
    }
    Krun {
        KrunLogged "krun.logged": "the log writer is being started" => "sockets are bound and disks opened";
        KrunTold "krun.told": "what its helper gets is open: sockets, disks, its tap" => "that is started";
        KrunSpawned "krun.spawned": "its helper runs" => "its machine is awaited";
        KrunAnswered "krun.answered": "its machine runs" => "it is handed over";
    }
    Libvirt {
        LibvirtLogged "libvirt.logged": "the log writer runs" => "libvirt is given the domain's definition";
        LibvirtDefined "libvirt.defined": "libvirt has the domain's definition" => "libvirt starts it";
        LibvirtStarted "libvirt.started": "its QEMU stands still" => "that is given its console, its log and its tap";
        LibvirtWired "libvirt.wired": "its QEMU has all that the agent had open for it" => "its process is looked for";
        LibvirtRuns "libvirt.runs": "its domain runs" => "it is handed over";
    }
    Launch {
        LaunchDiskComplete "launch.disk-complete": "the disk has the size that is recorded" => "the VMM is started";
        QemuPrepared "qemu.prepared": "the run directory is made" => "the log writer is started";
        LogWriterSpawned "qemu.log-writer-spawned": "the log writer is being started" => "sockets are bound";
        BridgeSpawned "qemu.bridge-spawned": "the vsock's bridge runs" => "it is connected";
        BridgeConnected "qemu.bridge-connected": "the vsock's bridge is connected" => "QEMU's sockets are bound";
        QemuBound "qemu.bound": "QEMU's sockets are bound" => "QEMU is spawned";
        HostSpawned "host.spawned": "the process runs" => "its identity is read";
        QemuSpawned "qemu.spawned": "QEMU runs" => "its QMP is asked";
        QemuAnswered "qemu.answered": "QMP has answered" => "the machine is handed over";
        SimWritten "sim.written": "the simulated machine lives" => "it is handed over";
        LaunchDone "launch.done": "the VM's task has the machine" => "its identity is stored";
        LaunchRecorded "launch.recorded": "the machine's identity is stored" => "the guest is greeted";
    }
    Boot {
        BootGreeted "boot.greeted": "the guest has answered" => "it is configured";
        BootConfigured "boot.configured": "the guest is configured" => "its workload is started";
        BootWorkload "boot.workload": "the workload runs" => "that is stored";
        BootRecorded "boot.recorded": "that it is up is stored" => "those who wait are told";
    }
    Stop {
        StopAsked "stop.asked": "the guest is asked to shut down" => "its machine's end is awaited";
        QemuKilled "qemu.killed": "the QEMU process is gone" => "its sockets are removed";
        StopEnded "stop.ended": "the machine is gone" => "that is stored";
        StopRecorded "stop.recorded": "the machine's end is stored" => "the next step is planned";
    }
    Delete {
        DeleteKept "delete.kept": "the disk that is to be kept is set aside" => "the files are removed";
        DeleteRunDirectory "delete.run-directory": "the run directory is removed" => "the VM's directory is removed";
        DeleteDirectory "delete.directory": "the VM's directory is removed" => "the disk at /persist is removed";
        DeletePurged "delete.purged": "the disk at /persist is removed" => "the record is removed";
        DeleteForgotten "delete.forgotten": "the record is removed" => "the agent forgets it";
    }
    Grow {
        GrowStored "grow.stored": "the disk's new size is stored" => "its file grows";
        GrowFile "grow.file": "the disk's file has grown" => "the machine is told";
        GrowTold "grow.told": "the machine is told" => "the client is told";
    }
    Lease {
        LeaseTaken "lease.taken": "the lease is held" => "its connection is served";
        LeaseOver "lease.over": "its connection is gone" => "the VM's deletion is stored";
    }
    Exec {
        ExecBegun "exec.begun": "the guest has the command" => "its output is passed on";
        ExecEnded "exec.ended": "the command has ended" => "the client is told";
        ExecDetached "exec.detached": "the guest has the command that runs on by itself" => "the client is told";
    }
    Copy {
        CopyInOpened "copy.in-opened": "the guest has opened the file" => "its content is sent";
        CopyInSent "copy.in-sent": "all its content is sent" => "the guest gives it its name";
        CopyInDone "copy.in-done": "the file has its name" => "the client is told";
        CopyOutOpened "copy.out-opened": "the guest has opened the file" => "its content is passed on";
    }
    Import {
        ImportClaimed "import.claimed": "the image is chosen and claimed" => "its layers are fetched";
        BlobPart "import.blob-part": "a part of a layer's bytes is here" => "the next part comes";
        BlobCopied "import.blob-copied": "a layer is here and verified" => "it may be used";
        LayerUnpacked "import.layer-unpacked": "a layer is on the disk" => "the next one is unpacked";
        ImportBlobs "import.blobs": "all layers are verified and on the disk" => "the disk is completed";
        ImportDiskBuilt "import.disk-built": "the root disk is built" => "the blobs get their names";
        ImportBlobsNamed "import.blobs-named": "the blobs have their names" => "the disk gets its name";
        ImportDiskNamed "import.disk-named": "the root disk has its name" => "the record is written";
        RecordWritten "import.record-written": "the record is written" => "it gets its name";
        ImportRecorded "import.recorded": "the image is recorded" => "the client is told";
    }
    DeleteImage {
        ImageUnnamed "image-delete.unnamed": "the image's record is removed" => "its root disk is removed";
        ImageDiskSwept "image-delete.disk-swept": "its root disk is removed" => "its blobs are removed";
        ImageSwept "image-delete.swept": "its blobs are removed" => "the client is told";
    }
    Commit {
        CommitCopied "commit.copied": "the VM's disk is copied as it was at one moment" => "what the VM has changed is read";
        CommitPacked "commit.packed": "what the VM has changed is a layer" => "the image is made of it";
    }
    Collect {
        CollectPlanned "image-gc.planned": "what goes is decided" => "the first of it is removed";
        CollectUnnamed "image-gc.unnamed": "an image's records are removed" => "its root disk is removed";
        CollectDisk "image-gc.disk": "an image's root disk is removed" => "the blobs that only it has are removed";
        CollectEntry "image-gc.entry": "one thing is removed" => "the next one is, or the client is told";
    }
    Token {
        TokenAdded "token.added": "the new token's digest is stored" => "the client is told the token";
        TokenRevoked "token.revoked": "the token's revocation is stored" => "its connections are ended";
    }
    Events {
        EventsPruned "events.pruned": "the oldest events are removed" => "that is committed, with the new ones";
        EventsKept "events.kept": "new events are kept and the oldest gone" => "they are shown";
    }
    Drain {
        DrainStored "drain.stored": "the drain is stored" => "the node takes no VMs any more";
        UndrainStored "drain.over": "the drain's end is stored" => "the node takes VMs again";
    }
    Hold {
        HoldStored "guests.held": "that the guests are held is stored" => "they are told to go down";
        HoldReleased "guests.released": "that the guests are let go is stored" => "those that are to run start";
    }
    GoDown {
        DownTold "go-down.told": "guests are told to go down" => "they are waited for";
        DownReached "go-down.down": "these guests are down" => "the next ones are told";
    }
    AgentStart {
        AgentLocked "agent.locked": "the data directory is locked" => "the state is opened";
        AgentStateOpened "agent.state-opened": "the state is opened and up to date" => "the node's id is read";
        AgentNamed "agent.named": "the node has its id" => "the image cache is opened";
        WorkspaceMade "agent.workspace-made": "a directory for unfinished files is made" => "it is locked";
        WorkspaceLocked "agent.workspace-locked": "the directory for unfinished files is locked" => "those of dead agents are removed";
        TokenWritten "agent.token-written": "the first token's file is written" => "its digest is stored";
        TokenStored "agent.token-stored": "the first token's digest is stored" => "its file gets its name";
        AgentListens "agent.listens": "the API's socket is bound" => "its owner is set";
        AgentServes "agent.serves": "the API is served" => "the first start is prepared";
    }
    Restore {
        RestoreRead "restore.read": "the VMs of earlier lives are read" => "their tasks are started";
        RestoreLeaseOver "restore.lease-over": "the deletion of a leased VM is stored" => "its task is started";
        RestoreTasks "restore.tasks": "the VMs' tasks are started" => "machines that are nobody's are ended";
        RestoreMachines "restore.machines": "machines that are nobody's are ended" => "files that are nobody's are removed";
        RestoreFiles "restore.files": "files that are nobody's are removed" => "all adoptions are awaited";
        RestoreDone "restore.done": "every VM is adopted or given up" => "the API is served";
        StrayEnded "restore.stray-ended": "a machine that no run directory leads to is ended" => "its VM's task is started";
        ReapKilled "restore.reap-killed": "a machine that nobody had recorded is ended" => "its sockets are removed";
        AdoptReaped "restore.reaped": "what an unrecorded launch left is ended" => "the VM is planned anew";
        AdoptFound "restore.found": "the machine is found" => "its VM's task takes it over";
        AdoptGone "restore.gone": "the machine is found to be gone" => "that is stored";
        AdoptGivenUp "restore.given-up": "a machine that does not answer is ended" => "that is stored";
    }
    Usage {
        UsageJournal "usage.journal": "what VMs use goes to another journal" => "the checkpoint before it is written";
        UsageCheckpoint "usage.checkpoint": "the checkpoint is written" => "the ledger gets its lines";
        UsageWritten "usage.written": "the ledger has its lines" => "journals before the checkpoint are removed";
    }
    Upgrade {
        UpgradeTried "upgrade.tried": "the new program was tried" => "the upgrade is decided on";
        UpgradeDecided "upgrade.decided": "the upgrade is decided on" => "the client is told";
        UpgradeHandedOver "upgrade.handed-over": "nothing of the agent is at work but its sockets" => "the process becomes the new program";
        UpgradeTaken "upgrade.taken": "the new program has the sockets" => "it opens the state";
    }
    AgentEnd {
        EndSocketRemoved "agent-end.socket-removed": "the API's socket is removed" => "leased VMs are deleted";
        EndLeases "agent-end.leases": "leased VMs are gone" => "the VMs' tasks are told to leave";
        EndLeft "agent-end.left": "the VMs' tasks have left" => "the agent exits";
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Operation {
    /// As the table of the kill matrix names it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Change => "change what is desired",
            Self::Limits => "change limits",
            Self::Network => "networks",
            Self::Attach => "attach to a network",
            Self::Ports => "port maps",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Capture => "catch a VM as it is",
            Self::Snapshot => "snapshot",
            Self::Fork => "fork",
            Self::Templates => "templates",
            Self::Ttl => "time to live",
            Self::Idle => "idle VMs",
            Self::Suspend => "sleep of an idle VM",
            Self::Usage => "ledger of usage",
            Self::Disks => "make disks",
            Self::DiskImage => "copy a disk image",
            Self::DiskFetch => "pull of a disk image",
            Self::Cgroup => "control groups",
            Self::Jail => "jail",
            Self::Firecracker => "Firecracker",
            Self::Krun => "libkrun",
            Self::Libvirt => "libvirt",
            Self::Launch => "launch",
            Self::Boot => "boot",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Grow => "grow a disk",
            Self::Lease => "lease",
            Self::Exec => "exec",
            Self::Copy => "copy",
            Self::Import => "import an image",
            Self::DeleteImage => "delete an image",
            Self::Commit => "make an image of a VM's disk",
            Self::Collect => "collect what is unused in the image cache",
            Self::Token => "tokens",
            Self::Events => "events",
            Self::Drain => "drain",
            Self::Hold => "hold of the guests",
            Self::GoDown => "guests going down",
            Self::AgentStart => "start of the agent",
            Self::Restore => "adoption",
            Self::Upgrade => "upgrade of the agent",
            Self::AgentEnd => "end of the agent",
        }
    }
}
