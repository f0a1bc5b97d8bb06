"""Import DeepSpeed, join the process group and leave it; a process alone is a group of one rank that opens no port.

Ranks find each other through a store. The process that hosts it listens at the address that the ranks are given and
nowhere else: torch by itself would listen on all interfaces, and let anybody read and write there.
"""

from __future__ import annotations

import atexit
import errno
import ipaddress
import logging
import os
import socket
import sys
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.errors import LaunchError, UserError

_TIMEOUT = timedelta(hours=1)  # DeepSpeed's
_PATIENCE = timedelta(days=7)  # preparing data, or measuring, may take the first rank as long as it takes
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}

_patient_group: Any = None


def import_deepspeed() -> Any:
    """Import DeepSpeed quietly, for the GPU where there is one, else for the CPU, and without its start-up build.

    Returns:
        The package.

    Raises:
        UserError: ``DS_ACCELERATOR`` asks for a device that torch does not use here.
    """
    check_accelerator()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    if hasattr(deepspeed.ops, "__compatible_ops__"):  # a C++ build that only serves inference
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # stage 3 calls functions of torch.distributed that have newer names
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed")
    warnings.filterwarnings("ignore", category=UserWarning, message=".*[Dd]istutils")  # with which it finds libaio
    return deepspeed


def check_accelerator() -> None:
    """Check that DeepSpeed will use the device that torch uses.

    Raises:
        UserError: ``DS_ACCELERATOR`` names another one.
    """
    here = "cuda" if torch.cuda.is_available() else "cpu"
    asked = os.environ.get("DS_ACCELERATOR", here)
    if asked != here:
        why = "torch can use no GPU (rlhf doctor says why)" if here == "cpu" else "torch uses the GPU"
        hide = ", or hide the GPU: CUDA_VISIBLE_DEVICES=" if asked == "cpu" else ""
        raise UserError(
            f"{asked} is asked of DeepSpeed, but here {why}",
            where=f"DS_ACCELERATOR={asked}",
            hint=f"Take this variable out of the environment: unset DS_ACCELERATOR{hide}",
        )


def ensure_process_group() -> None:
    """Join the process group of all ranks; a process that no launcher has started is a group of one.

    The group is left at the end of the process, however that comes (see ``leave``).

    Raises:
        LaunchError: The first rank cannot listen at its address.
    """
    deepspeed = import_deepspeed()
    if dist.is_initialized():
        return
    for name in [name for name in os.environ if name.startswith("OMPI_COMM_WORLD_")]:
        del os.environ[name]  # DeepSpeed would take the size of another program's MPI job for ours
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    ranks = world_size()
    if ranks == 1:
        os.environ.update(_ALONE)  # DeepSpeed reads them
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if ranks == 1:
        _begin_alone(backend)
    elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):  # the launcher hosts the store
        dist.init_process_group(backend, timeout=_TIMEOUT)
    else:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, ranks, False, _TIMEOUT) if rank() else listen(host, port, ranks, _TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank(), world_size=ranks, timeout=_TIMEOUT)
    atexit.register(_leave_at_exit)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def patient_group() -> Any:
    """Return a gloo group of all ranks that waits for days; the usual group gives up after an hour."""
    global _patient_group
    if _patient_group is None:
        _patient_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _patient_group


def exchange_device() -> torch.device:
    """Return the device on which tensors have to be for the ranks to exchange them."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def leave() -> None:
    """Destroy all process groups of this process, if there are any."""
    global _patient_group
    _patient_group = None
    if dist.is_initialized():
        dist.destroy_process_group()


def _leave_at_exit() -> None:
    """End gloo's threads before the interpreter ends, which would abort the process.

    NCCL's group has no such threads, and might wait here for ranks that have failed.
    """
    if not dist.is_initialized() or dist.get_backend() != "nccl":
        leave()
    elif _patient_group is not None:
        dist.destroy_process_group(_patient_group)


def listen(host: str, port: int, clients: int, timeout: timedelta) -> TCPStore:
    """Host the store through which the ranks find each other, at a single address.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 for any free one, which ``store.port`` names.
        clients: Number of processes that will connect, this one included.
        timeout: How long to wait for them.

    Returns:
        The store. It listens at all addresses, and says so, if ``host`` leads to this machine without being one of its
        addresses (as for a container), or if it is this machine's name and resolves to the loopback interface.

    Raises:
        LaunchError: The port is in use, or the name is not known.
    """
    try:
        listener = _bound(host, port)
    except OSError as error:
        raise LaunchError(
            f"the first rank cannot listen here: {error.strerror}",
            where=f"{host}:{port}",
            hint="Give an address of the first machine that the others reach, with a free port.",
        ) from None
    own, bound = listener.getsockname()[:2]
    if ipaddress.ip_address(own).is_unspecified:
        own = "localhost"
    return TCPStore(own, bound, clients, True, timeout, master_listen_fd=listener.detach())


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    literal = host == "localhost" or host.strip("[]") == address[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if not literal and ipaddress.ip_address(address[0]).is_loopback:  # Debian gives a machine's own name 127.0.1.1
            raise OSError(errno.EADDRNOTAVAIL, "")
        listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            listener.close()
            raise
        sys.stderr.write(f"{host} is no address of this machine that others reach: listening at all of its addresses\n")
        listener.bind(("", port))
    return listener


def _begin_alone(backend: str) -> None:
    """Make a process group of one rank; gloo and NCCL would listen for others that never come.

    torch has a backend that exchanges nothing. In older versions it leaves out copies that even one rank needs; then
    the usual backend is used.
    """
    from torch.testing._internal.distributed import fake_pg  # noqa: F401  # makes the backend known

    dist.init_process_group("fake", store=HashStore(), rank=0, world_size=1)
    if not all(_copies(device) for device in {"cpu", "cuda" if torch.cuda.is_available() else "cpu"}):
        dist.destroy_process_group()
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _copies(device: str) -> bool:
    """Return whether the tensors that a rank gathers from itself, or reduces with itself, arrive."""
    given, into = torch.arange(1.0, 4.0, device=device), [torch.zeros(3, device=device) for _ in range(5)]
    kept = given.clone()
    dist.all_reduce(given)
    dist.broadcast(given, 0)
    dist.all_gather([into[0]], given)
    dist.all_gather_into_tensor(into[1], given)
    dist.reduce_scatter(into[2], [given])
    dist.reduce_scatter_tensor(into[3], given)
    dist.all_to_all_single(into[4], given)
    return all(torch.equal(each, kept) for each in (given, *into))
