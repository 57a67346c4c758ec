//! What machines with a keeper have in common: neither screen nor power button, and
//! no network of their VMM's own.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;

use inn_units::Bytes;
use tokio::net::UnixStream;

use super::KeptMachine;
use crate::{
    CardLimits, Forward, Forwarded, Machine, MachineEnd, MachineIdentity, Saved, SavedAhead,
};

/// One with a keeper: what is its VMM's own. All else is the keeper's, or is not.
pub trait KeptVmm: Send + Sync + 'static {
    fn kept(&self) -> &KeptMachine;

    /// As [`Machine::connect_channel`].
    fn channel(&self) -> impl Future<Output = io::Result<UnixStream>> + Send;

    /// As [`Machine::resize_disk`].
    fn look_at_disk(
        &self,
        serial: &str,
        size: Bytes,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// As [`Machine::limit_card`].
    fn hold_card_to(&self, _limits: &CardLimits) -> impl Future<Output = io::Result<()>> + Send {
        std::future::ready(self.kept().has_no("limits of its card"))
    }

    /// As [`Machine::pause`].
    fn stand_still(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// As [`Machine::resume`].
    fn go_on(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// As [`Machine::save`].
    fn write_down(&self) -> impl Future<Output = io::Result<Saved>> + Send;
}

const NO_NETWORK: &str = "network of its own whose ports could be forwarded";

impl<V: KeptVmm> Machine for V {
    fn identity(&self) -> &MachineIdentity {
        self.kept().identity()
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        self.kept().must_live()?;
        self.channel().await
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        self.kept().connect_console().await
    }

    async fn set_vnc_password(&self, _password: &str) -> io::Result<()> {
        self.kept().has_no("screens")
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        self.kept().has_no("screens")
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        self.kept().must_live()?;
        self.look_at_disk(serial, size).await
    }

    async fn press_power_button(&self) -> io::Result<()> {
        self.kept().has_no("power button")
    }

    async fn set_forwards(&self, _forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        self.kept().has_no(NO_NETWORK)
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        self.kept().has_no(NO_NETWORK)
    }

    async fn limit_card(&self, limits: &CardLimits) -> io::Result<()> {
        self.kept().must_live()?;
        self.hold_card_to(limits).await
    }

    async fn pause(&self) -> io::Result<()> {
        self.kept().must_live()?;
        self.stand_still().await
    }

    async fn resume(&self) -> io::Result<()> {
        self.kept().must_live()?;
        self.go_on().await
    }

    async fn save_after(&self, _ahead: Option<SavedAhead>) -> io::Result<Saved> {
        self.kept().must_live()?;
        self.write_down().await
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        Ok(None)
    }

    async fn wait(&self) -> MachineEnd {
        self.kept().wait().await
    }

    async fn kill(&self) -> io::Result<()> {
        self.kept().kill().await
    }
}
