#!/usr/bin/env python3
"""Tries the whole API with schemathesis against an agent of its own.

    run.py INN SCHEMATHESIS [ADDITIONAL OPTIONS OF `schemathesis run`]

The agent has its own data and runtime directory, simulated machines, and a
TCP listener on a port of its choice. There are an image and a few VMs before
the first case, so that paths lead to something (schemathesis.toml names them).
Everything goes twice: as admin and with a token that may only read.
"""

import hashlib
import http.client
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# As VMs in schemathesis.toml.
RUNNING, STOPPED = ["web", "db"], ["idle"]
PATIENCE = 60
# Cases are made from it: the same in every run.
SEED = "20260131"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


class Agent:
    def __init__(self, inn, root):
        self.inn, self.root = inn, root
        self.log = root / "agent.log"
        self.socket = root / "run" / "api.sock"
        config = root / "agent.toml"
        config.write_text(
            f'data_dir = "{root}/data"\nruntime_dir = "{root}/run"\n'
            f'api_listen = "127.0.0.1:0"\nlog_file = "{self.log}"\n'
            "api.rate = 100000\napi.strangers_rate = 100000\nsim.enabled = true\n"
            'network.mode = "user"\n'
        )
        self.process = subprocess.Popen([inn, "agent", "--config", str(config)])
        deadline = time.monotonic() + PATIENCE
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the agent did not start:\n{self.tail()}")
            time.sleep(0.05)
        self.url = "http://" + self.ask("GET", "/api/node")["apiListen"]
        self.token = (root / "data" / "token").read_text().strip()

    def ask(self, method, path, body=None):
        connection = UnixConnection(str(self.socket))
        headers = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            sys.exit(f"{method} {path}: {response.status} {text.decode()}")
        return json.loads(text) if text else None

    def fill(self):
        layout = self.root / "layout"
        write_layout(layout)
        operation = self.ask(
            "POST", "/api/images/import", {"path": str(layout), "name": "base"}
        )
        while operation["state"] == "running":
            query = f"wait=10s&version={operation['version']}"
            operation = self.ask("GET", f"/api/operations/{operation['id']}?{query}")
        if operation["state"] != "succeeded":
            sys.exit(f"the image is not imported: {operation}")
        for name in RUNNING + STOPPED:
            vm = {"name": name, "image": "base", "runtime": "sim", "diskBytes": 16 << 20}
            self.ask("POST", "/api/vms?wait=60s", {**vm, "start": name in RUNNING})

    def tail(self):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-30:])

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "it hung"


def write_layout(layout):
    """An OCI image of one layer with one file."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    kind = "application/vnd.oci.image"
    layer = blob(f"{kind}.layer.v1.tar", tar.getvalue())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    config = blob(f"{kind}.config.v1+json", json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": config,
        "layers": [layer],
    }
    manifest = blob(f"{kind}.manifest.v1+json", json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def read_token(agent):
    command = [agent.inn, "--socket", str(agent.socket), "token", "create"]
    command += ["--name", "reader", "--scope", "read"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return None
    return made.stdout.split()[-1]


def schemathesis(program, agent, who, token, options):
    print(f"--- as {who}", flush=True)
    command = [program, "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{agent.url}/api/openapi.json", "--seed", SEED, "--header"]
    command += [f"Authorization: Bearer {token}", *options]
    # Its cache of earlier failures would make one run depend on the other.
    return subprocess.run(command, cwd=agent.root, check=False).returncode == 0


def main():
    inn, program, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="inn-schemathesis-") as root:
        agent = Agent(os.path.abspath(inn), pathlib.Path(root))
        good, end = False, None
        try:
            agent.fill()
            # The reader first, who leaves everything as it is.
            reader = read_token(agent)
            good = reader is None or schemathesis(program, agent, "reader", reader, options)
            if reader is None:
                print("SKIPPED schemathesis as reader: this agent makes no tokens")
            good &= schemathesis(program, agent, "admin", agent.token, options)
            if agent.process.poll() is not None:
                print(f"the agent has died:\n{agent.tail()}")
                good = False
        finally:
            end = agent.close()
        text = agent.log.read_text(errors="replace")
        for line in text.splitlines():
            if "panicked" in line:
                print(line)
                good = False
        if end != 0:
            print(f"the agent ended with {end}:\n{agent.tail()}")
    sys.exit(0 if good and end == 0 else 1)


if __name__ == "__main__":
    main()
