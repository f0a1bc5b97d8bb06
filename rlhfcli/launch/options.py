"""Check the launch options against this machine, and plan the ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from rlhfcli.errors import LaunchError

PORT = 29500  # default port of the first node, as in torchrun and DeepSpeed


@dataclass(frozen=True)
class Options:
    """The launch options of the command line.

    Args:
        gpus: Number of ranks on GPUs of each node, or ``all``.
        ranks: Number of ranks on CPUs of each node.
        nnodes: Number of nodes.
        node_rank: Number of this node.
        main_address: ``host`` or ``host:port`` of the first node.
        hostfile: DeepSpeed's list of nodes.
    """

    gpus: str | None = None
    ranks: int | None = None
    nnodes: int = 1
    node_rank: int | None = None
    main_address: str | None = None
    hostfile: Path | None = None

    @property
    def given(self) -> bool:
        """Whether any option was given."""
        return self != Options()


@dataclass(frozen=True)
class Plan:
    """Ranks to start on this machine.

    Args:
        per_node: Number of ranks.
        nodes: Number of nodes.
        node: Number of this node.
        address: ``host:port`` of the first node; empty if there is only one.
    """

    per_node: int
    nodes: int = 1
    node: int = 0
    address: str = ""


def plan(options: Options, gpus: int) -> Plan | None:
    """Plan the ranks that are to be started.

    Args:
        options: The options, without a hostfile.
        gpus: Number of GPUs of this machine.

    Returns:
        The ranks; ``None`` if there is one in all, which is this process.

    Raises:
        LaunchError: The options contradict each other or the machine.
    """
    if options.gpus is not None and options.ranks is not None:
        raise LaunchError("--gpus and --ranks exclude each other", hint="--gpus is for GPUs, --ranks for CPUs.")
    _check_nodes(options)
    per_node = _on_gpus(options, gpus) if options.ranks is None else _on_cpus(options.ranks, gpus)
    if options.nnodes == 1:
        return Plan(per_node) if per_node > 1 else None
    return Plan(per_node, options.nnodes, options.node_rank or 0, _with_port(options.main_address or ""))


def imagined(options: Options, gpus: int) -> Plan:
    """Plan the ranks that would be started, for ``--dry-run``, which need not know the number of this node.

    Args:
        options: The options.
        gpus: Number of GPUs of this machine.

    Returns:
        The ranks, also if there is one.

    Raises:
        LaunchError: The options contradict each other or the machine.
    """
    if options.hostfile is not None:
        raise LaunchError(
            "--dry-run looks at this machine, not at those of a hostfile",
            where=f"--hostfile {options.hostfile}",
            hint="Run it on one of them, with --nnodes N and --gpus N in place of --hostfile.",
        )
    if options.nnodes > 1:
        options = replace(options, node_rank=options.node_rank or 0, main_address=options.main_address or "localhost")
    return plan(options, gpus) or Plan(1)


def check_hostfile(options: Options) -> None:
    """Check that a hostfile exists and is given without options that contradict it.

    Args:
        options: The options, with a hostfile.

    Raises:
        LaunchError: Another option says the same, or the file does not exist.
    """
    if Options(gpus=options.gpus, hostfile=options.hostfile) != options:
        raise LaunchError(
            "--hostfile says already which nodes and ranks there are",
            hint="Leave out --ranks, --nnodes, --node-rank and --main-address.",
        )
    if options.gpus not in (None, "all"):
        _number(options.gpus)
    if options.hostfile is None or not options.hostfile.is_file():
        raise LaunchError("there is no such file", where=f"--hostfile {options.hostfile}")


def usable_gpus() -> int:
    """Return the number of GPUs that torch can use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _check_nodes(options: Options) -> None:
    if options.nnodes == 1:
        if options.node_rank is not None or options.main_address is not None:
            raise LaunchError("--node-rank and --main-address belong to several nodes", hint="Add --nnodes N.")
        return
    where = f"--nnodes {options.nnodes}"
    if options.node_rank is None or options.main_address is None:
        raise LaunchError(
            "several nodes need to know which one this is, and where the first one is",
            where=where,
            hint="Type the same command on every node, with --node-rank 0, 1 … and --main-address HOST of node 0.",
        )
    if not 0 <= options.node_rank < options.nnodes:
        raise LaunchError(f"must be from 0 to {options.nnodes - 1}, got {options.node_rank}", where="--node-rank")


def _on_gpus(options: Options, gpus: int) -> int:
    if options.gpus is None:
        return max(1, gpus) if options.nnodes > 1 else 1
    where = f"--gpus {options.gpus}"
    if not gpus:
        raise LaunchError(
            "no GPU can be used here",
            where=where,
            hint="rlhf doctor says why. Without the option the CPU computes; --ranks N starts N ranks on it.",
        )
    count = gpus if options.gpus == "all" else _number(options.gpus)
    if count > gpus:
        raise LaunchError(f"there {_are(gpus)} here", where=where, hint="--gpus all takes them all.")
    return count


def _on_cpus(ranks: int, gpus: int) -> int:
    if gpus:
        raise LaunchError(
            f"--ranks is for CPUs, and there {_are(gpus)} here",
            where=f"--ranks {ranks}",
            hint=f"--gpus {min(ranks, gpus)} takes GPUs. CUDA_VISIBLE_DEVICES= in front of the command hides them.",
        )
    return ranks


def _are(gpus: int) -> str:
    return "is 1 GPU" if gpus == 1 else f"are {gpus} GPUs"


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise LaunchError(f"must be a number from 1, or all; got {text}", where="--gpus")
    return int(text)


def _with_port(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):  # [::1] has colons of its own
        return f"{address}:{PORT}"
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LaunchError(f"must be HOST or HOST:PORT, got {address}", where="--main-address")
    return address
