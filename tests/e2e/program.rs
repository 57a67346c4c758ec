use std::fs;

use crate::suite::host;

const PROGRAM: &str = "\
import os, sys
print('in', os.getcwd(), sorted(os.listdir('/in')))
os.makedirs('/out/deep', exist_ok=True)
open('/out/result.txt', 'w').write('42')
open('/out/deep/data.bin', 'wb').write(bytes(range(256)))
sys.exit(7)
";

pub(crate) fn file_in_results_out() {
    let host = host();
    host.inn(["vm", "create", "--image", "base", "--language", "python", "--name", "files"]).ok();
    let dir = host.home().join("program");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("main.py"), PROGRAM).unwrap();
    let output = host
        .inn(["vm", "run", "--vm", "files", "--file", "./main.py", "--out", "./results"])
        .dir(&dir)
        .output()
        .expect_code(7);
    assert_eq!(output.stdout, "in /in ['main.py']\n", "{output}");
    assert_eq!(fs::read_to_string(dir.join("results/result.txt")).unwrap(), "42");
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(fs::read(dir.join("results/deep/data.bin")).unwrap(), all);
    host.inn(["vm", "delete", "--force", "files"]).ok();
}

pub(crate) fn language_picks_the_image() {
    let host = host();
    let refused = host.inn(["vm", "create", "--language", "ruby", "--name", "rb"]).output();
    assert_eq!(refused.code, Some(1), "there is no image for ruby: {refused}");
    assert!(refused.stderr.contains("ruby"), "{refused}");
    let layout = inn_tests::Fixtures::get().layout();
    let args = ["image", "import", "--reference", "base", "--name", "python"];
    host.inn(args).args([layout.as_os_str()]).ok();
    host.inn(["vm", "create", "--language", "python", "--name", "py"]).ok();
    let shown = host.show("py");
    assert_eq!(shown["language"], "python", "{shown}");
    assert!(shown["image"]["name"].as_str().unwrap().starts_with("python"), "{shown}");
    host.inn(["vm", "delete", "--force", "py"]).ok();
}

pub(crate) fn hello_speaks_the_language() {
    let host = host();
    host.inn(["vm", "create", "--image", "base", "--language", "python", "--name", "hi"]).ok();
    assert_eq!(host.inn(["vm", "exec", "--hello", "hi"]).ok(), "Hello from python!\n");
    host.inn(["vm", "delete", "--force", "hi"]).ok();
}

pub(crate) fn run_with_file_and_rm() {
    let host = host();
    let dir = host.home().join("once");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("job.py"), "open('/out/x', 'w').write('done'); print('ran')").unwrap();
    let out = host
        .inn(["run", "--rm", "--language", "python", "--file", "job.py", "--out", "out", "base"])
        .dir(&dir)
        .ok();
    assert_eq!(out, "ran\n");
    assert_eq!(fs::read_to_string(dir.join("out/x")).unwrap(), "done");
}
