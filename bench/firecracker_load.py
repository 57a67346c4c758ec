#!/usr/bin/env python3
"""firecracker_load.py INN FIRECRACKER KERNEL KERNEL_ARGS LAYOUT [ROUNDS]

Tells how long a VM under Firecracker takes from its snapshot to a first command,
beside Firecracker by itself: the same snapshot loaded by hand through its API,
and one round trip over the vsock to the guest agent, by turns.

INN is a release build; KERNEL an uncompressed vmlinux with all built in, and
KERNEL_ARGS what it needs; LAYOUT an OCI layout with a tag `mini`, as
tests/fixtures/make writes it. Needs root and a /dev/kvm. It has an agent of its
own in a temporary directory, and leaves nothing.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# crates/guest-proto: what an opening is, and the port.
MARKER = b"\xffINNKEEPER-SYNC\x01"
NONCE = os.urandom(16)
PORT = 5161


class Agent:
    """An agent of this measurement's own, and its client."""

    def __init__(self, inn, firecracker, home):
        self.inn, self.home = inn, home
        (home / "fc").mkdir()
        # Without a jailer beside it: by hand there is none either.
        shutil.copy(firecracker, home / "fc/firecracker")
        self.firecracker = home / "fc/firecracker"
        self.environment = os.environ | {
            "INN_DATA_DIR": str(home / "data"),
            "INN_RUNTIME_DIR": str(home / "run"),
            "INN_FIRECRACKER": str(self.firecracker),
            "INN_API_LISTEN": "127.0.0.1:0",
            "INN_START_DEADLINE": "10m",
            "INN_TEMPLATES_ENABLED": "false",
            "INN_NETWORK_MODE": "user",
            "INN_AUTOSTART": "0",
        }
        log = open(home / "log", "w")
        self.process = subprocess.Popen([inn, "agent"], env=self.environment, stdout=log, stderr=log)
        while subprocess.run(self.command("vm", "list"), env=self.environment, capture_output=True).returncode:
            if self.process.poll() is not None:
                sys.exit((home / "log").read_text())
            time.sleep(0.1)

    def command(self, *arguments):
        return [self.inn, *map(str, arguments)]

    def ask(self, *arguments):
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"inn {arguments}: {done.stderr}")
        return done.stdout

    def timed(self, *arguments):
        begun = time.monotonic()
        self.ask(*arguments)
        return time.monotonic() - begun

    def end(self):
        self.ask("vm", "delete", "--all", "--force")
        self.process.terminate()
        self.process.wait()


def put(api, path, body):
    """One request, and when it was answered."""
    text = json.dumps(body)
    api.sendall(
        f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    answer = api.recv(4096)
    if b" 204 " not in answer:
        sys.exit(f"{path}: {answer!r}")


def connected(path):
    while True:
        try:
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(str(path))
            return stream
        except OSError:
            stream.close()
            time.sleep(0.0005)


def answers(path):
    """Whether the guest agent answers on a connection of its own."""
    with connected(path) as guest:
        guest.settimeout(2)
        try:
            guest.sendall(f"CONNECT {PORT}\n".encode())
            if not guest.recv(32).startswith(b"OK "):
                return False
            guest.sendall(MARKER + NONCE)
            heard = b""
            while MARKER + NONCE not in heard:
                got = guest.recv(4096)
                if not got:
                    return False
                heard += got
            return True
        except OSError:
            return False


def by_hand(agent, parts, disks, directory):
    """Loads it, and has the guest agent's first answer. In seconds: until the
    load was answered, the load itself, and until the guest's answer."""
    directory.mkdir()
    (directory / "run").symlink_to(".")
    for name, source in disks.items():
        target = directory / name
        if os.access(source, os.W_OK) and name.endswith("rw"):
            shutil.copy(source, target)
        else:
            target.symlink_to(source)
    begun = time.monotonic()
    vmm = subprocess.Popen(
        [agent.firecracker, "--api-sock", "api.sock"],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        api = connected(directory / "api.sock")
        before = time.monotonic()
        backend = {"backend_type": "File", "backend_path": str(parts["memory"])}
        put(api, "/snapshot/load", {
            "snapshot_path": str(parts["state"]), "mem_backend": backend, "resume_vm": True,
        })
        loaded = time.monotonic()
        while not answers(directory / "vsock.sock"):
            pass
        return loaded - begun, loaded - before, time.monotonic() - begun
    finally:
        vmm.kill()
        vmm.wait()
        shutil.rmtree(directory)


def measure(agent, kernel, kernel_args, layout, rounds):
    agent.ask("image", "import", layout, "--reference", "mini", "--name", "mini")
    agent.ask(
        "vm", "create", "--image", "mini", "--name", "parent", "--runtime", "firecracker",
        "--memory", "128MiB", "--network", "none", "--kernel", kernel, "--kernel-args", kernel_args,
    )
    for _ in range(3):
        agent.ask("vm", "exec", "parent", "--", "true")
    # What its guest still has to write it writes before, and not in each clone.
    agent.ask("vm", "exec", "parent", "--", "sh", "-c", "sync; sleep 3")
    running = [agent.timed("vm", "exec", "parent", "--", "true") for _ in range(rounds)]
    agent.ask("vm", "snapshot", "parent", "--name", "saved")
    (vm,) = json.loads(agent.ask("vm", "show", "parent", "-o", "json"))
    run_dir = agent.home / "run/vms" / vm["id"]
    root = os.readlink(run_dir / "disk_inn_mroot")
    (directory,) = (agent.home / "data/snapshots").iterdir()
    parts = {name: directory / name for name in ["state", "memory"]}
    disks = {"disk_inn_mroot": root, "disk_inn_mrw": directory / "disk"}
    agent.ask("vm", "stop", "parent", "--force")
    theirs, ours = [], []
    for number in range(rounds):
        theirs.append(by_hand(agent, parts, disks, agent.home / "hand"))
        name = f"clone-{number}"
        restored = agent.timed("snapshot", "restore", "saved", "--name", name)
        ours.append((restored, agent.timed("vm", "exec", name, "--", "true")))
        if number == rounds - 1:
            print(agent.ask("vm", "why", name))
        agent.ask("vm", "delete", name, "--force")
    median = lambda seconds: f"{statistics.median(seconds) * 1000:.1f} ms"
    print(f"{rounds} rounds, load {os.getloadavg()[0]:.1f}, {os.uname().release}, {os.cpu_count()} CPUs")
    for what, column in [
        ("by hand: process to the load's answer", [one[0] for one in theirs]),
        ("by hand: the load alone", [one[1] for one in theirs]),
        ("by hand: process to the agent's first answer", [one[2] for one in theirs]),
        ("inn snapshot restore, whole process", [one[0] for one in ours]),
        ("the first exec after it, whole process", [one[1] for one in ours]),
        ("both", [sum(one) for one in ours]),
        ("an exec in the parent, before", running),
    ]:
        print(f"{what}: median {median(column)}, {min(column) * 1000:.1f} to {max(column) * 1000:.1f}")


def main():
    inn, firecracker, kernel, kernel_args, layout = sys.argv[1:6]
    rounds = int(sys.argv[6]) if len(sys.argv) > 6 else 9
    with tempfile.TemporaryDirectory(prefix="inn-load-") as home:
        agent = Agent(os.path.abspath(inn), firecracker, Path(home))
        try:
            measure(agent, kernel, kernel_args, layout, rounds)
        finally:
            agent.end()


main()
