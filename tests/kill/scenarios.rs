//! Which operations lead over which point, and what each comes to.
//!
//! The match has no wildcard: a new point does not compile without a row here,
//! and a row whose operation never reaches its point fails.

use inn_fail_point::{Operation, Point};

use crate::deed::{After, Deed};
use crate::ground::Runtime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) deed: Deed,
    pub(crate) point: Point,
    pub(crate) after: After,
    pub(crate) runtime: Runtime,
    /// One of the few with real machines that every run has.
    pub(crate) always: bool,
}

impl Case {
    /// Whether it is about the host's network, so that it needs one.
    pub(crate) fn has_bridges(&self) -> bool {
        let operation = self.point.operation();
        let of_networks =
            matches!(operation, Operation::Network | Operation::Attach | Operation::Ports);
        let of_tap = matches!(
            self.point,
            Point::FirecrackerLent
                | Point::FirecrackerAttached
                | Point::KrunTold
                | Point::KrunSpawned
        );
        (of_networks || of_tap) && !self.has_forwards()
    }

    /// Whether it is about what firewalld is told.
    pub(crate) fn has_zone(&self) -> bool {
        matches!(self.point, Point::ZoneRecorded | Point::ZoneAsked)
    }

    /// Whether it is about what VMMs forward, in place of that.
    pub(crate) fn has_forwards(&self) -> bool {
        self.point == Point::PortsForwarded
    }
}

/// Where it can be shown.
#[derive(Clone, Copy)]
enum On {
    Sim,
    Qemu,
    /// With QEMU in the full run.
    Both,
    /// With QEMU always: processes or disks are at stake.
    BothAlways,
    QemuAlways,
    FirecrackerAlways,
    KrunAlways,
    Libvirt,
    LibvirtAlways,
}

/// In the order of the table.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for &point in Point::ALL {
        for (deed, after, on) in of(point) {
            let case = |runtime, always| Case { deed, point, after, runtime, always };
            if matches!(on, On::Sim | On::Both | On::BothAlways) {
                cases.push(case(Runtime::Sim, true));
            }
            match on {
                On::Sim => {}
                On::FirecrackerAlways => cases.push(case(Runtime::Firecracker, true)),
                On::KrunAlways => cases.push(case(Runtime::Krun, true)),
                On::Libvirt => cases.push(case(Runtime::Libvirt, false)),
                On::LibvirtAlways => cases.push(case(Runtime::Libvirt, true)),
                On::Qemu | On::Both => cases.push(case(Runtime::Qemu, false)),
                On::BothAlways | On::QemuAlways => cases.push(case(Runtime::Qemu, true)),
            }
        }
    }
    cases
}

fn of(point: Point) -> Vec<(Deed, After, On)> {
    use After::{
        Absent, AllStopped, Anew, ImageAbsent, ImagePresent, Paused, Running, Same, Serving,
        Stopped, TokenRevoked, TokenThere, Undrained,
    };
    use Deed as D;
    use On::{
        Both, BothAlways, FirecrackerAlways, KrunAlways, Libvirt, LibvirtAlways, Qemu, QemuAlways,
        Sim,
    };
    use Point as P;
    match point {
        P::CreateReserved => vec![(D::Create, Absent, Sim)],
        P::CreateStored | P::CreateAtWork => vec![(D::Create, Running, Sim)],
        P::ReplaceAsked => vec![(D::Replace, Anew, BothAlways)],
        P::ReplaceCleared => vec![(D::Replace, Anew, Both)],
        P::ChangeStored => vec![
            (D::Start, Running, Sim),
            (D::Stop, Stopped, Both),
            (D::Restart, Anew, Both),
            (D::Delete, Absent, BothAlways),
            (D::EndTtlByStop, Stopped, Both),
            (D::EndTtlByDelete, Absent, Sim),
            (D::RestByPause, Paused, Both),
            (D::RestByStop, Stopped, Sim),
            (D::WakeFromPause, Same, Both),
        ],
        P::LimitsStored => vec![(D::ChangeLimits, Same, BothAlways)],
        P::NetworkStored => vec![(D::CreateNetwork, Same, Sim)],
        P::NetworkForgotten => vec![(D::DeleteNetwork, Same, Sim)],
        P::ZoneRecorded => vec![(D::CreateNetwork, Same, Sim)],
        P::ZoneAsked => vec![(D::CreateNetwork, Same, Sim), (D::DeleteNetwork, Same, Sim)],
        P::NetworkLinks | P::NetworkTables => vec![(D::CreateNetwork, Same, Sim)],
        P::NetworkLeased | P::NetworkTap | P::NetworkApplied => vec![(D::Create, Running, Sim)],
        P::PolicyStored => vec![(D::ChangePolicy, Same, Sim)],
        P::AddressStored | P::AddressApplied | P::AddressTold => {
            vec![(D::ChangeAddress, Same, Sim)]
        }
        P::PortsStored | P::PortsDeclared => vec![(D::MapPorts, Same, Sim)],
        P::PortsForgotten => vec![(D::UnmapPorts, Same, Sim)],
        P::CaptureNoted | P::CaptureGoesOn => vec![(D::TakeSnapshot, Same, Sim)],
        P::CaptureStands => {
            vec![(D::TakeSnapshot, Same, BothAlways), (D::Fork, Same, Sim)]
        }
        P::SnapshotCaught | P::SnapshotNamed | P::SnapshotRecorded => {
            vec![(D::TakeSnapshot, Same, Sim)]
        }
        P::SnapshotWritten => vec![(D::TakeSnapshot, Same, Both)],
        P::SnapshotForgotten => vec![(D::DeleteSnapshot, Same, Sim)],
        P::ForkCaught => vec![(D::Fork, Same, Both)],
        P::TemplatePrepared | P::TemplateNamed | P::TemplateKept => {
            vec![(D::MakeTemplate, Running, Sim)]
        }
        P::TemplateCaught => vec![(D::MakeTemplate, Running, BothAlways)],
        P::CloneWaits => vec![(D::TakeClone, Absent, Both)],
        P::CloneGoesOn => vec![(D::TakeClone, Running, Both)],
        P::CloneTaken => vec![(D::TakeClone, Running, BothAlways)],
        P::PauseHungUp | P::PauseRecorded => vec![(D::Pause, Paused, Sim)],
        P::PauseStands => vec![(D::Pause, Paused, BothAlways)],
        P::ResumeGoesOn => vec![(D::Resume, Same, BothAlways)],
        P::ResumeRecorded => vec![(D::Resume, Same, Sim)],
        // A simulated machine's end with their agent's.
        P::PortsForwarded => vec![(D::MapPorts, Same, Both), (D::UnmapPorts, Same, Qemu)],
        P::TtlStored => vec![(D::SetTtl, Same, Both)],
        P::TtlOver => vec![(D::EndTtlByStop, Stopped, Sim), (D::EndTtlByDelete, Absent, Both)],
        P::IdleStored => vec![(D::SetIdle, Same, Sim)],
        P::IdleDue => vec![(D::RestByPause, Paused, Both), (D::RestByStop, Stopped, Sim)],
        P::SuspendNoted | P::SuspendNamed | P::SuspendRecorded => {
            vec![(D::RestBySnapshot, Stopped, Sim)]
        }
        P::SuspendStands | P::SuspendWritten => vec![(D::RestBySnapshot, Stopped, BothAlways)],
        P::WakeNoted | P::WakeTaken => vec![(D::WakeFromSnapshot, Running, BothAlways)],
        P::IdleWakes => vec![(D::WakeFromPause, Paused, Both)],
        P::ChangePoked => {
            vec![(D::Start, Running, Sim), (D::Stop, Stopped, Sim), (D::Delete, Absent, Sim)]
        }
        P::DisksDirectory | P::ScratchFormatted | P::ScratchSized | P::DiskMade => {
            vec![(D::Create, Running, Both)]
        }
        P::PersistMade | P::PersistNamed => vec![(D::CreatePersistent, Running, Both)],
        P::ImageCopyBegun | P::ImageCopyWhole | P::ImageCopyNamed => {
            vec![(D::CreateFromDisk, Running, Sim)]
        }
        P::DiskFetchVerified | P::DiskFetchUnpacked | P::DiskFetchRecorded => {
            vec![(D::PullDisk, Serving, Sim)]
        }
        P::LaunchDiskComplete => vec![(D::Create, Running, Sim), (D::Start, Running, Both)],
        P::CgroupFirst => vec![(D::Create, Running, Qemu)],
        P::CgroupMade => vec![(D::Create, Running, QemuAlways), (D::Start, Running, Qemu)],
        P::CgroupRemoved => {
            vec![(D::StopByForce, Stopped, Qemu), (D::Delete, Absent, QemuAlways)]
        }
        P::JailGiven => vec![(D::Create, Running, QemuAlways), (D::Start, Running, Qemu)],
        P::JailDescriptors => vec![(D::Create, Running, Qemu)],
        P::FirecrackerLent | P::FirecrackerAttached => {
            vec![(D::Create, Running, FirecrackerAlways)]
        }
        P::FirecrackerKept | P::FirecrackerConfigured => {
            vec![(D::Create, Running, FirecrackerAlways)]
        }
        P::FirecrackerLoaded => vec![(D::WakeFromSnapshot, Running, FirecrackerAlways)],
        P::FirecrackerWritten => vec![(D::TakeSnapshot, Same, FirecrackerAlways)],
        P::KrunLogged | P::KrunTold | P::KrunSpawned | P::KrunAnswered => {
            vec![(D::Create, Running, KrunAlways)]
        }
        P::LibvirtDefined | P::LibvirtStarted | P::LibvirtWired => {
            vec![(D::Create, Running, LibvirtAlways)]
        }
        P::LibvirtLogged | P::LibvirtRuns => vec![(D::Create, Running, Libvirt)],
        P::QemuPrepared | P::LogWriterSpawned | P::QemuBound | P::QemuAnswered => {
            vec![(D::Create, Running, Qemu)]
        }
        P::BridgeSpawned | P::BridgeConnected => vec![(D::CreateOnVsock, Running, QemuAlways)],
        P::HostSpawned => vec![(D::Create, Running, QemuAlways)],
        P::QemuSpawned => vec![(D::Create, Running, QemuAlways), (D::Start, Running, Qemu)],
        P::SimWritten => vec![(D::Create, Running, Sim), (D::Restart, Anew, Sim)],
        P::LaunchDone => vec![
            (D::Create, Running, BothAlways),
            (D::Restart, Anew, BothAlways),
            (D::RunLeased, Absent, BothAlways),
        ],
        P::LaunchRecorded => vec![(D::Create, Running, Both), (D::RunLeased, Absent, Both)],
        P::BootGreeted | P::BootConfigured | P::BootWorkload => vec![(D::Create, Running, Both)],
        P::BootRecorded => vec![(D::Create, Running, Sim), (D::Restart, Anew, Both)],
        P::StopAsked => vec![(D::Stop, Stopped, BothAlways), (D::Restart, Anew, Both)],
        P::QemuKilled => {
            vec![(D::StopByForce, Stopped, QemuAlways), (D::Delete, Absent, Qemu)]
        }
        P::StopEnded => vec![
            (D::Stop, Stopped, Both),
            (D::StopByForce, Stopped, Sim),
            (D::Restart, Anew, Sim),
            (D::Replace, Anew, Sim),
            (D::Delete, Absent, Sim),
        ],
        P::StopRecorded => {
            vec![(D::Stop, Stopped, Sim), (D::Restart, Anew, Both), (D::Delete, Absent, Both)]
        }
        P::DeleteKept => vec![(D::DeleteKeepingDisk, Absent, Both)],
        P::DeleteRunDirectory | P::DeleteForgotten => vec![(D::Delete, Absent, Both)],
        P::DeleteDirectory => vec![(D::Delete, Absent, Both), (D::Replace, Anew, Sim)],
        P::DeletePurged => vec![(D::DeletePurging, Absent, Both)],
        P::GrowStored | P::GrowFile | P::GrowTold => vec![(D::GrowDisk, Same, Both)],
        P::LeaseTaken => vec![(D::RunLeased, Absent, Both)],
        P::LeaseOver => vec![(D::EndLease, Absent, BothAlways)],
        P::ExecBegun => vec![(D::Exec, Same, BothAlways)],
        P::ExecEnded => vec![(D::Exec, Same, Both)],
        P::ExecDetached => vec![(D::ExecDetached, Same, Both)],
        P::CopyInOpened => vec![(D::CopyIn, Same, Qemu)],
        P::CopyInSent => vec![(D::CopyIn, Same, QemuAlways)],
        P::CopyInDone => vec![(D::CopyIn, Same, Qemu)],
        P::CopyOutOpened => vec![(D::CopyOut, Same, Qemu)],
        // The import's layers are those of an image that is there.
        P::BlobPart | P::BlobCopied | P::LayerUnpacked => vec![(D::Pull, ImageAbsent, Sim)],
        P::ImportClaimed
        | P::ImportBlobs
        | P::ImportBlobsNamed
        | P::ImportDiskBuilt
        | P::ImportDiskNamed
        | P::RecordWritten => {
            vec![(D::Import, ImageAbsent, Sim), (D::Pull, ImageAbsent, Sim)]
        }
        P::ImportRecorded => vec![(D::Import, ImagePresent, Sim), (D::Pull, ImagePresent, Sim)],
        P::ImageUnnamed | P::ImageSwept => vec![(D::DeleteImage, ImageAbsent, Sim)],
        P::ImageDiskSwept => {
            vec![(D::DeleteImage, ImageAbsent, Sim), (D::StartAgain, Running, Sim)]
        }
        P::CommitCopied | P::CommitPacked => vec![(D::Commit, ImageAbsent, Both)],
        P::CollectPlanned => vec![(D::CollectImages, ImagePresent, Sim)],
        P::CollectUnnamed | P::CollectDisk | P::CollectEntry => {
            vec![(D::CollectImages, ImageAbsent, Sim)]
        }
        P::TokenAdded => vec![(D::CreateToken, TokenThere, Sim)],
        P::TokenRevoked => vec![(D::RevokeToken, TokenRevoked, Sim)],
        P::EventsPruned => vec![(D::PruneEvents, Serving, Sim)],
        P::EventsKept => vec![(D::FirstStart, Serving, Sim)],
        P::DrainStored => vec![(D::Drain, AllStopped, Both)],
        P::UndrainStored => vec![(D::Undrain, Undrained, Sim)],
        P::HoldStored => vec![(D::HoldGuests, AllStopped, Both)],
        P::HoldReleased => vec![(D::ReleaseGuests, Running, Both)],
        P::DownTold => vec![(D::Drain, AllStopped, BothAlways), (D::HoldGuests, AllStopped, Sim)],
        P::DownReached => vec![(D::Drain, AllStopped, Both), (D::HoldGuests, AllStopped, Both)],
        P::TokenStored | P::TokenWritten => vec![(D::FirstStart, Serving, Sim)],
        P::AgentLocked
        | P::AgentStateOpened
        | P::AgentNamed
        | P::WorkspaceMade
        | P::WorkspaceLocked
        | P::AgentListens
        | P::AgentServes => vec![(D::FirstStart, Serving, Sim), (D::StartAgain, Running, Sim)],
        P::UsageJournal | P::UsageCheckpoint | P::UsageWritten => {
            vec![(D::StartAgain, Running, Both)]
        }
        P::RestoreRead | P::RestoreTasks | P::RestoreFiles | P::RestoreDone => {
            vec![(D::StartAgain, Running, Both)]
        }
        P::RestoreLeaseOver => vec![(D::StartAgain, Running, Both)],
        P::RestoreMachines => vec![(D::StartAgain, Running, Both)],
        P::AdoptFound => {
            vec![(D::StartAgain, Running, BothAlways), (D::StartAgain, Running, LibvirtAlways)]
        }
        // One of libvirt's has left its definition, which tells how it ended: it is
        // found, and its end with it; unless somebody has undefined it meanwhile.
        P::AdoptGone => vec![
            (D::StartAgain, Running, BothAlways),
            (D::StartWithoutDomain, Running, LibvirtAlways),
        ],
        P::AdoptReaped => vec![(D::StartAgain, Running, Both)],
        P::ReapKilled => vec![(D::StartAgain, Running, QemuAlways)],
        P::StrayEnded => vec![(D::StartBesideStray, Running, QemuAlways)],
        P::AdoptGivenUp => {
            vec![(D::StartAfterHang, Running, Qemu), (D::StartBesideStray, Running, Qemu)]
        }
        P::UpgradeTried | P::UpgradeDecided => vec![(D::Upgrade, Same, Sim)],
        P::UpgradeHandedOver => vec![(D::Upgrade, Same, BothAlways)],
        P::UpgradeTaken => vec![(D::Upgrade, Same, Both)],
        P::EndSocketRemoved | P::EndLeases => vec![(D::EndAgent, Serving, Both)],
        P::EndLeft => vec![(D::EndAgent, Serving, Sim)],
    }
}

impl Case {
    /// What its agent is armed with. The sweep at an agent's start passes a
    /// point of deletions, too.
    pub(crate) fn armed(&self) -> String {
        match (self.deed, self.point) {
            (Deed::DeleteImage, Point::ImageDiskSwept) => format!("{}:2", self.point),
            _ => self.point.name().to_owned(),
        }
    }

    /// As the runner's filter takes it.
    pub(crate) fn name(&self) -> String {
        let deed = self.deed.name().replace(' ', "-");
        format!("{}::{}::{deed}", self.runtime.name(), self.point)
    }
}
