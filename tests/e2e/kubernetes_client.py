"""Runs commands through a URL as `kubernetes.stream.stream` does in pods, and
tells as JSON what came of them. Arguments: the URL, the token."""

import json
import sys
from urllib.parse import urlencode

from kubernetes.client import Configuration
from kubernetes.client.rest import ApiException
from kubernetes.stream.ws_client import RESIZE_CHANNEL, STDIN_CHANNEL, WSClient
from websocket import WebSocketBadStatusException

URL, TOKEN = sys.argv[1:]
# Seconds; only a hang takes that long.
LIMIT = 100


def run(command, token=TOKEN, **options):
    query = [("command", part) for part in command]
    query += [(key, "true" if value else "false") for key, value in options.items()]
    # No subprotocol: those that it asks for by itself are the test's subject.
    headers = {"authorization": f"Bearer {token}"}
    url = URL.replace("http://", "ws://", 1) + "?" + urlencode(query)
    return WSClient(Configuration(), url, headers, capture_all=False)


seen = {}

client = run(["sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"], stdout=True, stderr=True)
seen["subprotocol"] = client.subprotocol
client.run_forever(timeout=LIMIT)
seen["streams"] = [client.read_stdout(), client.read_stderr(), client.returncode]

client = run(["true"], stdout=True)
client.run_forever(timeout=LIMIT)
seen["success"] = client.returncode

client = run(["sh", "-c", "cat; echo and after the end"], stdin=True, stdout=True)
client.write_stdin("one\n")
client.write_stdin(b"two\n")
client.close_channel(STDIN_CHANNEL)
client.run_forever(timeout=LIMIT)
seen["stdin"] = [client.read_stdout(), client.returncode]

script = "tty; trap 'stty size; exit' WINCH; echo waiting; while :; do sleep 0.05; done"
client = run(["sh", "-c", script], stdin=True, stdout=True, tty=True)
printed = ""
while client.is_open() and "waiting" not in printed:
    printed += client.read_stdout(timeout=LIMIT)
client.write_channel(RESIZE_CHANNEL, json.dumps({"Height": 44, "Width": 155}))
client.run_forever(timeout=LIMIT)
seen["terminal"] = printed + client.read_stdout()

client = run(["head", "-c", "3000000", "/dev/zero"], stdout=True)
client.run_forever(timeout=LIMIT)
seen["large"] = len(client.read_stdout())

try:
    run(["true"], token="wrong", stdout=True)
except (ApiException, WebSocketBadStatusException) as error:
    seen["refused"] = getattr(error, "status_code", None) or error.status

print(json.dumps(seen))
