//! Imports an image into a cache directory and says what came of it:
//! `import CACHE_DIR PATH NAME [REFERENCE]`. For timing an import alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use inn_image::{ImageStore, ImportRequest, Unwatched};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match import(&args) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn import(args: &[String]) -> Result<String, Box<dyn std::error::Error>> {
    let [root, path, name, reference @ ..] = args else {
        return Err("usage: import CACHE_DIR PATH NAME [REFERENCE]".into());
    };
    let request = ImportRequest {
        path: PathBuf::from(path),
        name: name.parse()?,
        reference: reference.first().cloned(),
        digest: None,
    };
    let record = ImageStore::open(Path::new(root))?.import(&request, &Unwatched)?;
    Ok(format!("{} {} {}", record.manifest, record.disk_bytes, record.root_disk.display()))
}
