//! What both ends compute over a transfer, and compare at its end.

use bytes::Bytes;
use inn_guest_proto::BlockSum;
use inn_guest_proto::wire::Transferred;
use twox_hash::XxHash3_128;

use super::GuestError;

/// Bytes and checksums of what passed.
pub(super) struct Sum {
    /// Without holes.
    bytes: u64,
    plain: Option<Box<XxHash3_128>>,
    blocks: Option<BlockSum>,
    /// Whether the guest tells the block sum and not the plain one.
    sparse: bool,
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sum").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Sum {
    pub(super) fn of_tree() -> Self {
        Self { bytes: 0, plain: Some(Box::new(XxHash3_128::new())), blocks: None, sparse: false }
    }

    /// The block sum as well: a file's reader compares it with that of a
    /// transfer of another kind.
    pub(super) fn of_plain() -> Self {
        Self { blocks: Some(BlockSum::default()), ..Self::of_tree() }
    }

    /// Of a content whose first `kept` bytes count as zeros.
    pub(super) fn of_sparse(kept: u64) -> Self {
        let mut blocks = BlockSum::default();
        blocks.skip(kept);
        Self { bytes: 0, plain: None, blocks: Some(blocks), sparse: true }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(plain) = &mut self.plain {
            plain.write(bytes);
        }
        if let Some(blocks) = &mut self.blocks {
            blocks.add(bytes);
        }
    }

    pub(super) fn skip(&mut self, zeros: u64) {
        if let Some(blocks) = &mut self.blocks {
            blocks.skip(zeros);
        }
    }

    /// How far the content has come, holes included.
    pub(super) fn position(&self) -> u64 {
        self.blocks.as_ref().map_or(self.bytes, BlockSum::position)
    }

    pub(super) fn plain(&self) -> Bytes {
        let digest = self.plain.as_ref().map(|hash| hash.finish_128().to_be_bytes());
        digest.map(|digest| Bytes::copy_from_slice(&digest)).unwrap_or_default()
    }

    pub(super) fn blocks(&self) -> Option<[u8; 8]> {
        self.blocks.clone().map(BlockSum::finish)
    }

    /// Whether the guest has seen the same; then the content's block sum.
    pub(super) fn verify(
        &self,
        path: &str,
        theirs: &Transferred,
    ) -> Result<Option<[u8; 8]>, GuestError> {
        let blocks = self.blocks();
        let same = if self.sparse {
            self.verify_length(path, theirs)?;
            blocks.is_some_and(|sum| theirs.block_sum == sum[..])
        } else {
            theirs.bytes == self.bytes && theirs.xxh3_128 == self.plain()
        };
        if same { Ok(blocks) } else { Err(damaged(path)) }
    }

    /// Of a sparse transfer, whether the guest has seen as much; then what it
    /// tells as the block sum.
    pub(super) fn verify_length(
        &self,
        path: &str,
        theirs: &Transferred,
    ) -> Result<[u8; 8], GuestError> {
        let sum = <[u8; 8]>::try_from(theirs.block_sum.as_ref()).map_err(|_| damaged(path))?;
        if theirs.bytes != self.bytes || theirs.length != self.position() {
            return Err(damaged(path));
        }
        Ok(sum)
    }
}

fn damaged(path: &str) -> GuestError {
    GuestError::Damaged { what: path.to_owned() }
}
