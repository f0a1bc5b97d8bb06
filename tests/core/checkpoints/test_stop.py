"""Ctrl-C on a real terminal, while a bar moves on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

BUSY = """
import time
from rlhfcli.console import TerminalSink
from rlhfcli.core.checkpoints.stop import Stop

stop, sink = Stop(), TerminalSink()
sink.begin("sft", 1000)
with stop.handling_signals(sink.note):
    for step in range(1, 1000):
        sink.advance(step, {"loss": 1.0, "memory_gb": 0.9})
        time.sleep(0.02)
        if step == 50:
            sink.note("now")
        if stop.wanted and step > 100:
            break
sink.end()
"""


def screen_of(written: str) -> list[str]:
    """The lines that a terminal shows after all this, for what Rich's bars use of one."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == "\n":
            row, lines = row + 1, [*lines, *([""] if row + 1 == len(lines) else [])]
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


def test_no_bar_covers_what_is_said_of_ctrl_c() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: (signal.signal(signal.SIGINT, signal.SIG_DFL), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(slave)
    seen = b""
    with contextlib.suppress(OSError):  # what Linux says when the other side is gone
        while more := os.read(master, 4096):
            if b"now" in (seen := seen + more) and b"stopping" not in seen and b"\x03" not in seen:
                os.write(master, b"\x03")  # Ctrl-C: the terminal writes ^C and sends the signal
                seen += b"\x03"
    assert process.wait() == 0
    lines = screen_of(seen.decode().replace("\x03", ""))
    told = "stopping after this step, with a checkpoint; the same again stops at once"
    assert [line.rstrip() for line in lines if "stopping" in line] == [told]
