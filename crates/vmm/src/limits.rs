use crate::{Accel, Boot, Capabilities, ChannelKind, LaunchError, MachineConfig, NicBackend};

/// virtio spec 1.2, 5.2.6.1 (VIRTIO_BLK_ID_BYTES).
const LONGEST_SERIAL: usize = 20;

impl Capabilities {
    /// Refuses what such a runtime can't do, by what it can. Pure.
    pub fn admit(&self, config: &MachineConfig) -> Result<(), LaunchError> {
        let runtime = self.name;
        let refuse = |asked: String, limit: &str| {
            Err(LaunchError::Refused { runtime, asked, limit: limit.to_owned() })
        };
        if config.vcpus.get() > self.max_vcpus {
            let limit = format!("{} at most", self.max_vcpus);
            return refuse(format!("{} vCPUs", config.vcpus), &limit);
        }
        if config.memory < self.min_memory {
            let limit = format!("{} at least", self.min_memory);
            return refuse(format!("{} of memory", config.memory), &limit);
        }
        if config.disks.len() > self.max_disks {
            let limit = format!("{} at most", self.max_disks);
            return refuse(format!("{} disks", config.disks.len()), &limit);
        }
        if !self.accels.contains(&config.accel) {
            let names: Vec<String> = self.accels.iter().map(Accel::to_string).collect();
            return refuse(format!("the acceleration {}", config.accel), &names.join(" or "));
        }
        if matches!(config.boot, Boot::Kernel(_)) && !self.architecture.has_our_agent() {
            let limit = format!("to boot disks of {} by firmware alone", self.architecture);
            return refuse("to boot a kernel".to_owned(), &limit);
        }
        if config.boot == Boot::Firmware && !self.firmware {
            return refuse("to boot a disk by firmware".to_owned(), "kernels alone");
        }
        if config.from.is_some() && !self.snapshots {
            return refuse("to go on from what was saved".to_owned(), "no snapshots");
        }
        if config.from.is_some() && !self.snapshot_channels.contains(&config.channel) {
            return refuse(
                "to go on from what was saved".to_owned(),
                "that only with a serial channel",
            );
        }
        if !self.channels.contains(&config.channel) {
            return match config.channel {
                ChannelKind::Serial => refuse("a serial channel".to_owned(), "a vsock alone"),
                ChannelKind::Vsock => {
                    refuse("a vsock".to_owned(), "none without vhost-device-vsock")
                }
            };
        }
        match config.nic.as_ref().map(|nic| &nic.backend) {
            Some(NicBackend::User) if !self.user_network => {
                return refuse("a network of the VMM's own".to_owned(), "taps alone");
            }
            Some(NicBackend::Foreign(network)) if !self.foreign_networks => {
                return refuse(format!("a card on {network}"), "the node's networks alone");
            }
            Some(NicBackend::Tap(tap)) if !tap.limits.is_none() && !self.card_limits => {
                return refuse("limits of its card".to_owned(), "none of its own");
            }
            _ => {}
        }
        match config.disks.iter().find(|disk| !is_serial(&disk.serial)) {
            Some(disk) => refuse(
                format!("the disk serial {:?}", disk.serial),
                &format!("1 to {LONGEST_SERIAL} letters, digits, - and _"),
            ),
            None => Ok(()),
        }
    }
}

/// As [`crate::Disk`] has it. None of these needs escaping anywhere.
fn is_serial(serial: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_SERIAL).contains(&serial.len()) && serial.bytes().all(plain)
}
