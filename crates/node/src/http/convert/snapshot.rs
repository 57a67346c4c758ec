use inn_api as api;
use inn_store::ReceiptRecord;

use crate::snapshots::Kept;
use crate::vm::Receipt;

pub(in crate::http) fn snapshot(kept: &Kept) -> api::Snapshot {
    let (manifest, spec) = (&kept.manifest, &kept.spec);
    let maker = &manifest.made_by;
    api::Snapshot {
        id: manifest.id,
        name: manifest.name.clone(),
        vm: manifest.vm.clone(),
        vm_id: manifest.vm_id,
        image: spec
            .image()
            .map(|image| api::ImageRef { name: image.name.clone(), digest: image.digest }),
        vcpus: spec.vcpus,
        memory_bytes: spec.memory,
        disk_bytes: spec.disk,
        stored_bytes: kept.bytes(),
        made_by: api::SnapshotMaker {
            runtime: maker.runtime.clone(),
            version: maker.version.clone(),
            arch: maker.arch.clone(),
            accelerator: maker.accel.to_string(),
            machine: maker.machine.clone(),
            cpu: maker.cpu.clone(),
            cpu_features: maker.cpu_features.iter().cloned().collect(),
            devices: maker.devices.clone(),
            kernel: maker.kernel.clone(),
        },
        parts: manifest
            .parts
            .iter()
            .map(|part| api::SnapshotPart {
                name: part.kind.to_string(),
                bytes: part.length,
                stored_bytes: part.stored,
                sha256: part.sha256.clone(),
            })
            .collect(),
        created_at: manifest.created_at,
    }
}

pub(in crate::http) fn receipt(record: &ReceiptRecord) -> Option<api::ResumeReceipt> {
    let receipt = Receipt::read(record)?;
    Some(api::ResumeReceipt {
        origin: receipt.origin,
        snapshot: receipt.snapshot,
        boot_session: receipt.boot_session,
        confirmed_at: receipt.confirmed_at,
        took_us: receipt.took_us,
        clock_lag_us: receipt.clock_lag_us,
        steps: receipt
            .steps
            .into_iter()
            .map(|step| api::ResumeStep {
                name: step.name,
                result: step.result,
                why: step.why,
                took_us: step.took_us,
            })
            .collect(),
    })
}

pub(in crate::http) fn signed_receipt(record: &ReceiptRecord) -> Option<api::SignedReceipt> {
    let ReceiptRecord { statement, signature, key } = record.clone();
    Some(api::SignedReceipt {
        receipt: receipt(record)?,
        statement,
        algorithm: "ed25519".to_owned(),
        signature,
        public_key: key,
    })
}
