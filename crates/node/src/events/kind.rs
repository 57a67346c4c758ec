/// What an event is about. The names are stable: docs/api.md lists them, and a
/// test compares.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum EventKind {
            $($(#[doc = $doc])+ $kind,)*
        }

        impl EventKind {
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// The agent serves.
    AgentStarted = "agent-started",
    /// The agent ends; VMs run on.
    AgentEnding = "agent-ending",
    /// The agent hands its process over to another program; VMs run on.
    AgentUpgrading = "agent-upgrading",
    /// A request that would change something: who, what and its result.
    ApiWrite = "api-write",
    /// The configuration was read again.
    ConfigReloaded = "config-reloaded",
    /// The configuration or a certificate was read again and is wrong.
    ConfigRefused = "config-refused",
    /// Events that were not kept, for want of space.
    EventsDropped = "events-dropped",
    /// An image has been imported.
    ImageImported = "image-imported",
    /// An import has failed.
    ImageFailed = "image-failed",
    /// An image's name has been taken away.
    ImageDeleted = "image-deleted",
    /// Things that nobody used have been removed from the image cache.
    ImagesCollected = "images-collected",
    /// What was left behind and nobody's has been removed.
    OrphanReaped = "orphan-reaped",
    /// A snapshot's files and name are gone.
    SnapshotDeleted = "snapshot-deleted",
    /// A snapshot was not taken, or not taken in.
    SnapshotFailed = "snapshot-failed",
    /// A snapshot of another node's has been taken in.
    SnapshotImported = "snapshot-imported",
    /// A snapshot of a VM has been taken.
    SnapshotTaken = "snapshot-taken",
    /// A token has been made.
    TokenCreated = "token-created",
    /// A token holds no more.
    TokenRevoked = "token-revoked",
    /// A VM has been accepted.
    VmAccepted = "vm-accepted",
    /// A VM of an earlier life of the agent runs on under this one.
    VmAdopted = "vm-adopted",
    /// A VM is gone.
    VmDeleted = "vm-deleted",
    /// A VM's machine has come to its end.
    VmEnded = "vm-ended",
    /// A step towards what is desired of a VM has failed.
    VmFailed = "vm-failed",
    /// VMs have been made that go on from where a VM or a snapshot was.
    VmForked = "vm-forked",
    /// A VM that nobody used is put to rest.
    VmIdle = "vm-idle",
    /// A VM's lease is over.
    VmLeaseEnded = "vm-lease-ended",
    /// A VM has another phase.
    VmPhase = "vm-phase",
    /// A VM's time to live is over.
    VmTtlEnded = "vm-ttl-ended",
    /// A VM that rested is woken.
    VmWoken = "vm-woken",
}
