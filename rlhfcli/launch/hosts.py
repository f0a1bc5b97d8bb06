"""Start ranks on the machines of a hostfile, through DeepSpeed's launcher, which needs pdsh and ssh."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlhfcli.errors import LaunchError, RankError
from rlhfcli.launch.local import on_loopback, signals_to_ranks
from rlhfcli.launch.options import usable_gpus
from rlhfcli.launch.rank import ANCESTOR, end_with_parent

_PORTS = range(20000, 32000)  # below the ports that systems assign
_HERE = ("localhost", "127.0.0.1")
_USER_ERROR, _INTERRUPTED = 2, 130
GRACE = 15.0  # seconds from Ctrl-C until everything is killed


def run(hostfile: Path, gpus: str | None, arguments: Sequence[str]) -> None:
    """Start this command on all machines of a hostfile and wait for its end.

    Args:
        hostfile: Lines such as ``worker-1 slots=8``.
        gpus: Number of GPUs to use on each machine; all slots if left out.
        arguments: Arguments of the command line.

    Raises:
        LaunchError: The hostfile cannot be used, or a program is missing.
        RankError: A rank has failed.
        SystemExit: A rank has shown an error that the user can fix, or why it stopped.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; everything has ended.
    """
    command = [*_command(hostfile, _hosts(hostfile), gpus), "--module", "rlhfcli", *arguments]
    process = subprocess.Popen(
        command,
        env=os.environ | (_local_environment() if "--no_ssh_check" in command else {}),
        start_new_session=True,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # which it passes on to other machines
    )

    def end() -> None:  # signal the launcher's whole group; by itself it leaves ranks behind
        os.killpg(process.pid, signal.SIGINT)
        raise KeyboardInterrupt

    with signals_to_ranks(end):
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    if code:
        _raise_failure(code, hostfile)


def _local_environment() -> dict[str, str]:
    """Return what is added to the environment where all ranks are on this machine."""
    added = {ANCESTOR: str(os.getpid())}
    added |= {name: value for name, value in on_loopback().items() if name not in os.environ}
    if not usable_gpus():  # or DeepSpeed warns of it, once for each of its processes
        added["DS_ACCELERATOR"] = "cpu"
    return added


def _raise_failure(code: int, hostfile: Path) -> NoReturn:
    """Raise the error that belongs to an exit code of DeepSpeed's launcher."""
    if code in (_USER_ERROR, _INTERRUPTED):
        raise SystemExit(code)
    signalled = code - 256 if code > 128 + 64 else code  # the launcher passes signal 9 on as 247
    how = f"signal {-signalled}" if signalled < 0 else f"exit code {code}"
    raise RankError(
        f"a rank ended with {how}" + (": it was killed" if signalled == -signal.SIGKILL else ""),
        where=f"--hostfile {hostfile}",
        hint="Usually that machine ran out of memory." if signalled == -9 else "The lines above tell more.",
    )


def _hosts(hostfile: Path) -> list[str]:
    lines = [line.partition("#")[0].split() for line in hostfile.read_text(encoding="utf-8").splitlines()]
    hosts = [words[0] for words in lines if words]
    if not hosts:
        raise LaunchError("the hostfile names no machine", where=str(hostfile), hint="A line is: worker-1 slots=8")
    return hosts


def _command(hostfile: Path, hosts: Sequence[str], gpus: str | None) -> list[str]:
    port = random.SystemRandom().choice(_PORTS)  # so that two runs at once do not meet
    options = ["--hostfile", str(hostfile), "--no_local_rank", "--master_port", str(port), "--log_level", "critical"]
    if gpus is not None:
        options += ["--num_gpus", gpus]
    if len(hosts) == 1 and hosts[0] in _HERE:
        options += ["--master_addr", "127.0.0.1", "--no_ssh_check"]
    else:
        missing = [program for program in ("ssh", "pdsh") if shutil.which(program) is None]
        if missing:
            raise LaunchError(
                f"the machines of a hostfile are reached through ssh and pdsh; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not installed",
                where=str(hostfile),
                hint="Without them: the same command on every node, with --nnodes, --node-rank and --main-address.",
            )
    return [sys.executable, "-m", "deepspeed.launcher.runner", *options]


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
