# Prints everything on the root file system, one JSON object a line, in the form
# of tree.rs's Entry. Mount points are named but not entered.
import hashlib
import json
import os
import stat
import sys

KINDS = {
    stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link",
    stat.S_IFCHR: "char", stat.S_IFBLK: "block", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def describe(path):
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    content = None
    if kind == "file":
        with open(path, "rb") as f:
            content = hashlib.sha256(f.read()).hexdigest()
    names = os.listxattr(path, follow_symlinks=False)
    return kind, {
        "path": path[1:].hex(),
        "kind": kind,
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "size": info.st_size if kind == "file" else 0,
        "mtime": 0 if kind == "dir" else info.st_mtime_ns // 1_000_000_000,
        "device": [os.major(info.st_rdev), os.minor(info.st_rdev)] if kind in ("char", "block") else None,
        "target": os.readlink(path).hex() if kind == "link" else None,
        "xattrs": {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in names},
        "sha256": content,
        "same_as": f"{info.st_dev}:{info.st_ino}" if kind == "file" and info.st_nlink > 1 else None,
    }


pending = [b"/"]
while pending:
    directory = pending.pop()
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        kind, entry = describe(path)
        sys.stdout.write(json.dumps(entry) + "\n")
        if kind == "dir" and not os.path.ismount(path):
            pending.append(path)
