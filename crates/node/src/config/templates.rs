//! Templates, and how much of the host clones of them may take that wait.

use inn_domain::PoolLimits;
use inn_units::{Bytes, GIB};

/// A host with less has other things to do with its memory and its CPUs.
const SMALL_MEMORY: Bytes = Bytes(8 * GIB);
const SMALL_CPUS: usize = 4;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TemplatesConfig {
    pub enabled: bool,
    /// A sixteenth of the host's, and none on a small one, unless given.
    pub pool_memory: Option<Bytes>,
    /// The most clones of one template that wait.
    pub pool_clones: usize,
}

impl TemplatesConfig {
    /// On a host with so much memory.
    pub(crate) fn pool(&self, total: Bytes) -> PoolLimits {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = self.pool_memory.unwrap_or_else(|| match () {
            () if total < SMALL_MEMORY || cpus < SMALL_CPUS => Bytes(0),
            () => Bytes(total.get() / 16),
        });
        PoolLimits { memory, each: self.pool_clones }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_host_has_no_pool_unless_it_is_asked_for() {
        let auto = TemplatesConfig { enabled: true, pool_memory: None, pool_clones: 8 };
        assert_eq!(auto.pool(Bytes::gib(4)).memory, Bytes(0));
        let asked = TemplatesConfig { pool_memory: Some(Bytes::gib(1)), ..auto };
        assert_eq!(asked.pool(Bytes::gib(4)), PoolLimits { memory: Bytes::gib(1), each: 8 });
    }
}
