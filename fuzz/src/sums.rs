//! The decoders and sums that are functions of bytes alone.

use arbitrary::Unstructured;
use inn_guest_proto::BlockSum;
use inn_guest_proto::wire::{DirPage, Envelope, ExecNote, FileChanges, Telemetry};

/// The first byte picks the message; what decodes must survive encoding.
pub fn messages(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 5 {
        0 => round_trip::<Envelope>(bytes),
        1 => round_trip::<DirPage>(bytes),
        2 => round_trip::<ExecNote>(bytes),
        3 => round_trip::<FileChanges>(bytes),
        _ => round_trip::<Telemetry>(bytes),
    }
}

fn round_trip<M: prost::Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let again = M::decode(message.encode_to_vec().as_slice()).expect("what we encode");
    assert_eq!(message, again);
}

/// Pieces and holes, cut differently twice: one sum.
pub fn block_sum(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let (mut pieces, mut length) = (Vec::new(), 0usize);
    while !u.is_empty()
        && let Ok((hole, size, fill)) = u.arbitrary::<(bool, u32, u8)>()
    {
        let size = usize::try_from(size % 150_000).expect("32 bits fit");
        length += size;
        if length > 400_000 {
            break;
        }
        pieces.push((hole, size, fill));
    }
    let (mut sparse, mut content) = (BlockSum::default(), Vec::new());
    for (hole, size, fill) in pieces {
        let bytes = vec![if hole { 0 } else { fill }; size];
        if hole {
            sparse.skip(size as u64);
        } else {
            sparse.add(&bytes);
        }
        content.extend_from_slice(&bytes);
    }
    let mut dense = BlockSum::default();
    dense.add(&content);
    assert_eq!(sparse.position(), dense.position());
    assert_eq!(sparse.finish(), dense.finish());
}
