use std::time::{Duration, SystemTime};

use inn_guest_proto::capability;
use inn_guest_proto::wire::{self, end, request};

use super::{GuestSession, unexpected};
use crate::{
    DiskGrown, DiskMount, Frozen, GuestError, GuestResume, NetworkApplied, NetworkSetup, Password,
    ResumeReport, convert,
};

/// What changes the machine. A guest agent that neither is PID 1 nor runs as a
/// service refuses all of it.
impl GuestSession {
    pub async fn set_password(&self, user: &str, password: Password) -> Result<(), GuestError> {
        self.can_change_machine("set passwords")?;
        self.done(request::Kind::SetPassword(convert::password(user, password))).await
    }

    pub async fn set_hostname(&self, hostname: &str) -> Result<(), GuestError> {
        self.can_change_machine("change its hostname")?;
        let request = wire::SetHostname { hostname: hostname.to_owned() };
        self.done(request::Kind::SetHostname(request)).await
    }

    pub async fn set_clock(&self, time: SystemTime) -> Result<(), GuestError> {
        self.can_change_machine("set its clock")?;
        let request = wire::SetClock { unix_ns: convert::clock(time)? };
        self.done(request::Kind::SetClock(request)).await
    }

    /// Taken back by the guest, whole, unless
    /// [`confirm_network`](Self::confirm_network) reaches it within `confirm`,
    /// on this session or another.
    pub async fn apply_network(
        &self,
        setup: NetworkSetup,
        confirm: Duration,
    ) -> Result<NetworkApplied, GuestError> {
        self.can_change_machine("change its network")?;
        let request = wire::ApplyNetwork {
            setup: Some(convert::network_setup(setup)),
            confirm_ms: convert::millis(confirm),
        };
        match self.ask(request::Kind::ApplyNetwork(request)).await? {
            end::Outcome::NetworkApplied(done) => Ok(convert::network_applied(&done)),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn confirm_network(&self) -> Result<(), GuestError> {
        self.can_change_machine("change its network")?;
        self.done(request::Kind::ConfirmNetwork(wire::ConfirmNetwork {})).await
    }

    /// Thawed by the guest itself after `dead_man`, whatever becomes of us. No
    /// mounts are all that can be frozen.
    pub async fn freeze(
        &self,
        dead_man: Duration,
        mounts: Vec<String>,
    ) -> Result<Frozen, GuestError> {
        self.can_change_machine("freeze file systems")?;
        let request = wire::Freeze { dead_man_ms: convert::millis(dead_man), mounts };
        self.frozen(request::Kind::Freeze(request)).await
    }

    /// Whether the file systems were frozen all along, says
    /// [`Frozen::expired`].
    pub async fn thaw(&self) -> Result<Frozen, GuestError> {
        self.can_change_machine("thaw file systems")?;
        self.frozen(request::Kind::Thaw(wire::Thaw {})).await
    }

    async fn frozen(&self, kind: request::Kind) -> Result<Frozen, GuestError> {
        match self.ask(kind).await? {
            end::Outcome::Frozen(done) => Ok(convert::frozen(&done)),
            other => Err(unexpected(&other)),
        }
    }

    /// The lines of the user's authorized_keys.
    pub async fn ssh_keys(&self, user: &str) -> Result<Vec<String>, GuestError> {
        self.can_change_machine("tell ssh keys")?;
        let request = wire::GetSshKeys { user: user.to_owned() };
        match self.ask(request::Kind::GetSshKeys(request)).await? {
            end::Outcome::SshKeys(told) => Ok(convert::ssh_keys(told)),
            other => Err(unexpected(&other)),
        }
    }

    /// Adds those that are missing, or with `replace` leaves only these.
    pub async fn set_ssh_keys(
        &self,
        user: &str,
        keys: Vec<String>,
        replace: bool,
    ) -> Result<(), GuestError> {
        self.can_change_machine("change ssh keys")?;
        let request = wire::SetSshKeys { user: user.to_owned(), keys, replace };
        self.done(request::Kind::SetSshKeys(request)).await
    }

    /// Brings the file system on `target`, and the partition under it, to the
    /// size that the disk has now.
    pub async fn grow_disk(&self, target: &str) -> Result<DiskGrown, GuestError> {
        self.can_change_machine("grow disks")?;
        let request = wire::GrowDisk { target: target.to_owned() };
        match self.ask(request::Kind::GrowDisk(request)).await? {
            end::Outcome::DiskGrown(done) => Ok(convert::disk_grown(&done)),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn mount_disk(&self, mount: DiskMount) -> Result<(), GuestError> {
        self.can_change_machine("mount disks")?;
        self.done(request::Kind::MountDisk(convert::disk_mount(mount))).await
    }

    pub async fn unmount(&self, target: &str) -> Result<(), GuestError> {
        self.can_change_machine("unmount disks")?;
        let request = wire::Unmount { target: target.to_owned() };
        self.done(request::Kind::Unmount(request)).await
    }

    /// For a machine that goes on from a saved one, before anything else is
    /// asked of it. That a step failed is no error here: the report says it.
    pub async fn resume(&self, resume: GuestResume) -> Result<ResumeReport, GuestError> {
        self.can_resume()?;
        resumed(self.ask(request::Kind::Resume(convert::resume(resume)?)).await?)
    }

    pub(super) fn can_resume(&self) -> Result<(), GuestError> {
        self.needs(capability::RESUME, "become itself again after it was saved")
    }

    fn can_change_machine(&self, what: &str) -> Result<(), GuestError> {
        self.needs(capability::MACHINE, what)
    }
}

pub(super) fn resumed(outcome: end::Outcome) -> Result<ResumeReport, GuestError> {
    match outcome {
        end::Outcome::Resumed(done) => Ok(convert::resumed(&done)),
        other => Err(unexpected(&other)),
    }
}
