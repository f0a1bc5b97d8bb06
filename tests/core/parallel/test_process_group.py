"""How this process joins others, or none, and leaves them: where it listens, and which settings are refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from rlhfcli.core.parallel import process_group
from rlhfcli.errors import LaunchError, UserError

SECONDS = timedelta(seconds=10)
ALONE = """
import os, sys, torch, torch.distributed as dist
from rlhfcli.core.parallel import process_group
if sys.argv[1:]:
    process_group._copies = lambda _: False  # as with an older version of torch
process_group.ensure_process_group()
from deepspeed import comm
one, into = torch.ones(4), [torch.zeros(4) for _ in range(3)]
comm.all_reduce(one)
comm.barrier()
comm.all_gather([into[0]], one)
comm.all_gather_into_tensor(into[1], one)
comm.reduce_scatter_tensor(into[2], one)
assert all(bool((each == 1).all()) for each in (one, *into)), (one, into)
print(dist.get_world_size(), dist.get_rank(), dist.get_backend(), os.environ["LOCAL_RANK"])
"""


@pytest.mark.parametrize(("older", "backend"), [([], "fake"), (["older"], "gloo")])
def test_alone_whatever_another_program_has_left(older: list[str], backend: str) -> None:
    mpi = {
        "OMPI_COMM_WORLD_LOCAL_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "PMI_RANK": "3",
        "RANK": "3",
        "LOCAL_RANK": "3",
    }
    outside = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "MASTER_PORT")}
    command = [sys.executable, "-W", "ignore", "-c", ALONE, *older]
    done = subprocess.run(command, env=outside | mpi, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == [f"1 0 {backend} 0"], done.stderr


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1")])
def test_the_store_listens_at_the_given_address(host: str, address: str) -> None:
    store = process_group.listen(host, 0, 1, SECONDS)
    with socket.create_connection((address, store.port), 5):
        pass
    for other in ("127.0.0.2", _own_address()):  # where all interfaces would answer
        if other is not None:
            with pytest.raises(OSError), socket.create_connection((other, store.port), 5):
                pass


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        own: str = probe.getsockname()[0]
        return None if own.startswith("127.") else own


def test_where_the_address_is_not_this_machines_own_it_listens_everywhere_and_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    named = lambda host, *rest, **more: real("127.0.1.1" if host == "me" else host, *rest, **more)  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", named)
    for host in ("me", "192.0.2.1"):  # Debian's name of a machine; an address that leads here from outside
        store = process_group.listen(host, 0, 1, SECONDS)
        assert f"{host} is no address of this machine that others reach: listening at all" in capfd.readouterr().err
        with socket.create_connection(("127.0.0.3", store.port), 5):
            pass


def test_a_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            LaunchError, match=f"127.0.0.1:{port}: the first rank cannot listen here: Address already in"
        ):
            process_group.listen("127.0.0.1", port, 1, SECONDS)


@pytest.mark.parametrize(
    ("asked", "gpu", "told"),
    [
        ("cuda", False, "cuda is asked of DeepSpeed, but here torch can use no GPU"),
        ("npu", False, "npu is asked of DeepSpeed, but here torch can use no GPU"),
        ("cpu", True, "cpu is asked of DeepSpeed, but here torch uses the GPU"),
        ("cpu", False, None),
        ("cuda", True, None),
        (None, False, None),
    ],
)
def test_the_accelerator_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, gpu: bool, told: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    if asked is not None:
        monkeypatch.setenv("DS_ACCELERATOR", asked)
    if told is None:
        process_group.check_accelerator()
        return
    with pytest.raises(UserError) as caught:
        process_group.check_accelerator()
    assert told in str(caught.value) and "unset DS_ACCELERATOR" in str(caught.value)


RANK = """
import atexit, sys
from pathlib import Path
import torch.distributed as dist
from rlhfcli.core.parallel import ranks
from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.errors import OutputError

folder, end = Path(sys.argv[1]), sys.argv[2]
atexit.register(lambda: (folder / f"{end}-{rank()}").write_text(str(dist.is_initialized())))  # runs after ours
assert ranks.summed([rank() + 1.0]) == [3.0] if ranks.meet() is None else False
assert ranks.from_first(rank()) == 0 and ranks.highest([rank()]) == [1.0]
if end == "error":
    raise OutputError("the disk is full")
if end == "one" and rank() == 1:
    raise SystemExit(3)
"""


@pytest.mark.parametrize("end", ["well", "error", "one"])
def test_ranks_leave_their_groups_however_they_end(tmp_path: Path, end: str) -> None:
    """Threads of gloo that are there when the interpreter ends abort the process: "terminate called without …"."""
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    alone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in os.environ.items() if key not in alone}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    done = subprocess.run(
        [*command, str(tmp_path), end], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode == 0) is (end == "well"), done.stderr
    assert "terminate called" not in done.stderr and "exitcode  : -6" not in done.stderr
    assert {file.read_text() for file in tmp_path.glob(f"{end}-*")} == {"False"}, done.stderr
