//! Files into a VM's /in and out of its /out.

use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use inn_client::Client;

use crate::context::complain;
use crate::failure::Failure;
use crate::pack;
use crate::pipe::{Passing, StreamReader, stream_from};
use crate::unpack::{self, Unpacked};

/// Where a program's own file is put, and where it runs.
pub(crate) const IN: &str = "/in";
/// Where a program leaves what is to be brought back.
pub(crate) const OUT: &str = "/out";

/// Puts a file or a directory at `/in/NAME`; the answer is that path.
pub(crate) async fn put_in(client: &Client, vm: &str, file: &Path) -> Result<String, Failure> {
    let name = name_of(file)?;
    let guest_path = format!("{IN}/{name}");
    let source = file.to_owned();
    let content =
        stream_from(move |out| pack::pack(&source, Path::new(&name), out), Passing::default());
    client.write_tree(vm, IN, content).await?;
    Ok(guest_path)
}

/// What cannot be sent is found out before a VM is made for it.
pub(crate) fn check_file(file: &Path) -> Result<(), Failure> {
    name_of(file)?;
    std::fs::File::open(file)
        .map(drop)
        .map_err(|e| Failure::because(format!("cannot read {}", file.display()), &e))
}

fn name_of(file: &Path) -> Result<String, Failure> {
    let name = file.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Failure::new(format!("{} has no file name to keep in the VM", file.display()))
    })?;
    Ok(name.to_owned())
}

/// Makes an empty /out for the program to leave things in.
pub(crate) async fn make_out(client: &Client, vm: &str) -> Result<(), Failure> {
    let content = stream_from(pack::pack_nothing, Passing::default());
    client.write_tree(vm, OUT, content).await?;
    Ok(())
}

/// Brings what is in /out to `dir`, which is made if it is missing.
pub(crate) async fn fetch_out(client: &Client, vm: &str, dir: &Path) -> Result<(), Failure> {
    let stream = client.read_tree(vm, OUT).await?;
    let reader = StreamReader::new(stream, Passing::default());
    let into = dir.to_owned();
    let done = blocking(move || {
        let into = open_dir(&into)?;
        unpack::unpack(reader, &into).map_err(|e| Failure::because("cannot bring /out back", &e))
    })
    .await?;
    remark(&done);
    Ok(())
}

/// Makes and opens a directory of the user's choice.
pub(crate) fn open_dir(path: &Path) -> Result<Dir, Failure> {
    let refuse = |e| Failure::because(format!("cannot make {}", path.display()), &e);
    std::fs::create_dir_all(path).map_err(refuse)?;
    Dir::open_ambient_dir(path, ambient_authority()).map_err(refuse)
}

/// Says what a hostile or unusual archive had that was left out. Not a note
/// that `--quiet` takes away: the copy is not whole.
pub(crate) fn remark(done: &Unpacked) {
    for remark in &done.remarks {
        complain(remark);
    }
    let more = done.left_out.saturating_sub(done.remarks.len() as u64);
    if more > 0 {
        complain(&format!("left out {more} more"));
    }
}

/// Runs what blocks in a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Failure::because("a thread of ours ended early", &e)),
    }
}
