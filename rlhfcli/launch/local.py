"""Start ranks on this machine, through torch's elastic launch API, which needs no ssh and finds a free port.

This file adds the end of the ranks (one that fails ends the others at once; Ctrl-C, SIGTERM and SIGHUP let them finish
their checkpoint), and shows the error that ended the run as one error.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli.launch import failure, rank_files
from rlhfcli.launch.environment import usable_cores
from rlhfcli.launch.options import Plan
from rlhfcli.launch.rank import FILES, LAUNCHER, log_of

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import LogsSpecs

LOOPBACK = "127.0.0.1"
_RENDEZVOUS, _JOIN = "rlhf", 600  # our name for torch's elastic registry; seconds that nodes wait for each other
GRACE = 600  # seconds from a signal until the ranks are killed: a step and a checkpoint of a large model


def run(plan: Plan, arguments: Sequence[str]) -> None:
    """Start this command on ranks and wait for their end.

    Args:
        plan: The ranks of this machine.
        arguments: Arguments of the command line.

    Raises:
        RlhfError: The error of the rank that failed first.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the ranks have ended.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    def end() -> None:
        raise SignalException("asked to end", signal.SIGINT)

    # torch substitutes ${local_rank} in arguments; ours are literal
    command = ["-m", "rlhfcli", *(argument.replace("$", "$$") for argument in arguments)]
    with rank_files.folder() as files:
        try:
            with signals_to_ranks(end), _quiet():
                elastic_launch(_config(plan, _logs(files, plan)), sys.executable)(*command)
        except ChildFailedError as error:
            exits = {rank: child.exitcode for rank, child in error.failures.items()}
            problem, log = failure.explain(exits, files)
            if log is not None and log.is_relative_to(files.resolve()):
                rank_files.keep(files)
            raise problem from None
        except SignalException:
            raise failure.interruption(files) or KeyboardInterrupt from None


def _config(plan: Plan, logs: LogsSpecs) -> Any:
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.launcher.api import LaunchConfig

    settings: dict[str, Any] = {
        "min_nodes": plan.nodes,
        "max_nodes": plan.nodes,
        "nproc_per_node": plan.per_node,
        "run_id": "rlhf",
        "max_restarts": 0,
        "monitor_interval": 0.1,
        "logs_specs": logs,
        "signals_to_handle": "SIGUSR2",  # one that nobody sends; signals_to_ranks handles the others
        "shutdown_timeout": GRACE,
    }
    rendezvous_handler_registry.register(_RENDEZVOUS, _rendezvous)
    # on one node any free port, and no look-up of a host name, which containers may lack
    settings |= {"rdzv_backend": _RENDEZVOUS, "rdzv_endpoint": plan.address or f"{LOOPBACK}:0"}
    settings |= {"rdzv_configs": {"rank": plan.node}} | ({} if plan.address else {"local_addr": LOOPBACK})
    known = {field.name for field in fields(LaunchConfig)}  # older versions of torch lack the last two
    return LaunchConfig(**{name: value for name, value in settings.items() if name in known})


def _rendezvous(parameters: Any) -> Any:
    """Make torch's static rendezvous, with a store that listens at the given address alone."""
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

    from rlhfcli.core.parallel.process_group import listen

    class AtOneAddress(StaticTCPRendezvous):
        def get_backend(self) -> str:
            return _RENDEZVOUS

    host, port = parse_rendezvous_endpoint(parameters.endpoint, -1)
    node, nodes, store = int(parameters.config["rank"]), parameters.max_nodes, None
    if node == 0:
        store = listen(host, port, nodes, timedelta(seconds=_JOIN))
        port = store.port
    handler = AtOneAddress(host, port, node, nodes, parameters.run_id, _JOIN)
    handler._store = store or handler._store
    return handler


def _logs(files: Path, plan: Plan) -> LogsSpecs:
    """Let the first rank write to the terminal and every other one to a file, and tell all their launcher."""
    from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

    threads = str(max(1, usable_cores() // plan.per_node))

    class Logs(LogsSpecs):
        @property
        def root_log_dir(self) -> str:
            return str(files)

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            out, err, errors = {}, {}, {}
            for local_rank, env in envs.items():
                rank = int(env["RANK"])
                env.update({FILES: str(files), LAUNCHER: str(os.getpid()), "TORCHELASTIC_ERROR_FILE": ""})
                env.setdefault("OMP_NUM_THREADS", threads)  # the user's own number stays
                if plan.nodes == 1:
                    for name, value in on_loopback().items():
                        env.setdefault(name, value)
                out[local_rank] = os.devnull if rank else ""  # the rank writes its output to its log
                err[local_rank] = str(log_of(files, rank)) if rank else ""
                errors[local_rank] = str(files / f"torch-{rank}.json")
            return LogsDest(out, err, {}, {}, errors)

    return Logs()


def on_loopback() -> dict[str, str]:
    """Return variables that let ranks of one machine use the loopback interface for gloo and NCCL."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


@contextmanager
def signals_to_ranks(end: Callable[[], None]) -> Iterator[None]:
    """Pass Ctrl-C, SIGTERM and SIGHUP to the ranks as SIGINT while this block runs: stop in good order.

    To a rank, SIGTERM means that another one has failed. A second signal ends everything at once: this process, and
    through the kernel the ranks. A signal that is ignored, such as SIGHUP under ``nohup``, stays ignored.

    Args:
        end: Called for the first signal; ends the ranks.
    """
    requested = False

    def handle(*_: object) -> None:
        nonlocal requested
        if requested:
            os._exit(130)
        requested = True
        end()

    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.getsignal(kind) for kind in kinds}
    before = {kind: handler for kind, handler in before.items() if handler is not signal.SIG_IGN}
    for kind in before:
        signal.signal(kind, handle)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's own report of the same events."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
