//! NVIDIA's own library, opened where the driver has brought it.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::Root;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// As sysfs has it: `0000:3b:00.0`.
    pub(super) pci_address: String,
    pub(super) driver_version: Option<String>,
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) memory_bytes: Option<u64>,
    /// Where it can be divided.
    pub(super) mig: Option<bool>,
}

/// What it tells of each GPU, or why it tells nothing.
pub(super) fn told(root: &Root) -> Result<Vec<Told>, String> {
    if root.is_live() {
        return ask().map_err(|error| format!("NVML: {error}"));
    }
    let text = root.text("nvml").ok_or_else(|| "NVML was not recorded".to_owned())?;
    Ok(text.lines().filter_map(recorded).collect())
}

fn ask() -> Result<Vec<Told>, NvmlError> {
    let nvml = Nvml::init()?;
    let driver_version = nvml.sys_driver_version().ok();
    let mut all = Vec::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        all.push(Told {
            pci_address: address(&device.pci_info()?.bus_id),
            driver_version: driver_version.clone(),
            name: device.name().ok(),
            uuid: device.uuid().ok(),
            memory_bytes: device.memory_info().ok().map(|memory| memory.total),
            mig: device.mig_mode().ok().map(|mode| mode.current != 0),
        });
    }
    Ok(all)
}

/// NVML's domains have eight digits, and its letters are large.
fn address(bus_id: &str) -> String {
    let id = bus_id.to_lowercase();
    match id.strip_prefix("0000") {
        Some(short) if id.len() > "0000:00:00.0".len() => short.to_owned(),
        _ => id,
    }
}

/// `address;driver;name;uuid;bytes;mig`, with what is not known left empty.
fn recorded(line: &str) -> Option<Told> {
    let fields: Vec<&str> = line.split(';').collect();
    let &[at, driver, name, uuid, bytes, mig] = fields.as_slice() else { return None };
    let text = |field: &str| (!field.is_empty()).then(|| field.to_owned());
    Some(Told {
        pci_address: address(at),
        driver_version: text(driver),
        name: text(name),
        uuid: text(uuid),
        memory_bytes: bytes.parse().ok(),
        mig: text(mig).map(|mig| mig == "1"),
    })
}
