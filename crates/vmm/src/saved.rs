use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// A machine as it was at one moment: what others may begin from.
///
/// Both are files without a name, in memory: they go with whoever holds them
/// last, and nothing of a guest's memory comes to rest on a disk by them.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The guest's memory, as long as that is, with holes where it was never
    /// used. Nobody can write to it any more, so machines share its pages for
    /// as long as they only read them. `None` where `state` has the memory too.
    pub memory: Option<Arc<File>>,
    /// CPUs and devices, as the runtime that wrote it understands it, and no
    /// other.
    pub state: Arc<File>,
}

/// The same files, and not only ones like them.
impl PartialEq for Saved {
    fn eq(&self, other: &Self) -> bool {
        let memory = match (&self.memory, &other.memory) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        memory && Arc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for Saved {}

/// What was copied of a machine's memory while its guest ran. Most of it is what
/// it will be once the guest stands still, which then does so for the rest
/// alone.
#[derive(Debug)]
pub struct SavedAhead {
    /// As long as the memory.
    pub copy: File,
    /// What of the memory was in use; the copy has holes in the rest.
    pub in_use: Vec<Range<u64>>,
}
