"""Runs the command given on a new terminal, changes the terminal's size once the
command has printed "waiting", and tells as JSON what came of it."""

import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios

# Seconds that only a command which hangs takes.
LIMIT = 150


def set_size(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


ours, theirs = os.openpty()
set_size(ours, 24, 81)
before = termios.tcgetattr(theirs)
child = os.fork()
if child == 0:
    os.close(ours)
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(theirs, fd)
    os.execvp(sys.argv[1], sys.argv[1:])

signal.alarm(LIMIT)
printed, raw, status = b"", None, None
while status is None:
    # We hold the terminal's other end, so only the child's end is one.
    ready, _, _ = select.select([ours], [], [], 0.05)
    if ready:
        printed += os.read(ours, 65536)
        if raw is None and b"waiting" in printed:
            raw = not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO)
            set_size(ours, 50, 132)
        continue
    pid, ended = os.waitpid(child, os.WNOHANG)
    if pid:
        status = os.waitstatus_to_exitcode(ended)
print(json.dumps({
    "printed": printed.decode(errors="replace"),
    "raw": raw,
    "exitCode": status,
    "restored": termios.tcgetattr(theirs) == before,
}))
