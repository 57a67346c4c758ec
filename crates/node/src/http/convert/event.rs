use inn_api::{Event, EventVm};
use inn_store::EventRecord;
use inn_units::EventSeq;

pub(in crate::http) fn event((seq, record): (EventSeq, EventRecord)) -> Event {
    let EventRecord { at, kind, vm_id, vm_name, actor, message, detail } = record;
    Event {
        seq,
        at,
        kind,
        vm: vm_id.map(|id| EventVm { id, name: vm_name.unwrap_or_default() }),
        actor,
        message,
        // Only objects are written.
        detail: serde_json::from_str(&detail).unwrap_or_default(),
    }
}
