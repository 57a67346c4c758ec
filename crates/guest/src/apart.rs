//! Work on a thread of its own. The pool that the transfers of files share may
//! be full of stalled ones; what is done here must not wait for those, and may
//! itself hang on a disk without keeping anybody from theirs.

use inn_guest_proto::wire::FailureKind;
use tokio::sync::oneshot;

use crate::refusal::{OrRefuse, Refusal};

/// Parsers and system calls; nothing here recurses.
const STACK: usize = 256 * 1024;

/// Runs `job` and waits for it. Whoever stops waiting does not stop the job.
pub(crate) async fn apart<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(move || {
            let _gave_up = tell.send(job());
        })
        .or_refuse(|| "start a thread".into())?;
    // Only a panic, which a release build does not survive, drops it.
    told.await.map_err(|_| Refusal::new(FailureKind::Failed, "finish what was asked"))
}
