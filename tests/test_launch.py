"""Variables that are set before torch is imported, launch options, and reports about ranks that fail."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlhfcli import errors, launch
from rlhfcli.errors import LaunchError, RecipeError, RlhfError
from rlhfcli.launch import dispatch, failure, hosts, rank, rank_files
from rlhfcli.launch.options import Options, Plan, plan

NAMES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "GOMP_SPINCOUNT", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # other tests train in this process
MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *RANKS, *MPI, rank.FILES, rank.LAUNCHER):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_caches_of_kernels_and_spinning_threads_are_bounded() -> None:
    launch.in_this_process()
    assert [os.environ.get(name) for name in NAMES] == ["64", "64", "2000", None, None]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    launch.in_this_process(offline=True)
    assert [os.environ.get(name) for name in NAMES] == ["7", "64", None, "1", "ACTIVE"]


@pytest.mark.parametrize(
    ("asked", "gpus", "planned"),
    [
        (Options(), 0, None),
        (Options(), 8, None),  # one GPU, as before there were ranks
        (Options(ranks=1), 0, None),
        (Options(gpus="1"), 4, None),
        (Options(ranks=3), 0, Plan(3)),
        (Options(gpus="2"), 4, Plan(2)),
        (Options(gpus="all"), 4, Plan(4)),
        (Options(gpus="all"), 1, None),
        (Options(nnodes=2, node_rank=1, main_address="first"), 0, Plan(1, 2, 1, "first:29500")),
        (Options(nnodes=2, node_rank=0, main_address="10.0.0.1:1234"), 8, Plan(8, 2, 0, "10.0.0.1:1234")),
        (Options(nnodes=2, node_rank=0, main_address="[::1]", ranks=2), 0, Plan(2, 2, 0, "[::1]:29500")),
        (Options(nnodes=3, node_rank=2, main_address="first", gpus="4"), 8, Plan(4, 3, 2, "first:29500")),
    ],
)
def test_what_is_started(asked: Options, gpus: int, planned: Plan | None) -> None:
    assert plan(asked, gpus) == planned


@pytest.mark.parametrize(
    ("asked", "gpus", "told"),
    [
        (Options(gpus="2", ranks=2), 4, "--gpus and --ranks exclude each other"),
        (Options(gpus="all"), 0, "--gpus all: no GPU can be used here\nrlhf doctor says why."),
        (Options(gpus="8"), 4, "--gpus 8: there are 4 GPUs here\n--gpus all takes them all."),
        (Options(gpus="2"), 1, "--gpus 2: there is 1 GPU here"),
        (Options(gpus="two"), 1, "--gpus: must be a number from 1, or all; got two"),
        (Options(gpus="0"), 1, "--gpus: must be a number from 1, or all; got 0"),
        (Options(ranks=4), 2, "--ranks 4: --ranks is for CPUs, and there are 2 GPUs here\n--gpus 2 takes GPUs."),
        (Options(node_rank=0), 0, "--node-rank and --main-address belong to several nodes\nAdd --nnodes N."),
        (Options(nnodes=2, node_rank=0), 0, "--nnodes 2: several nodes need to know which one this is"),
        (Options(nnodes=2, node_rank=2, main_address="a"), 0, "--node-rank: must be from 0 to 1, got 2"),
        (Options(nnodes=2, node_rank=0, main_address="a:b"), 0, "--main-address: must be HOST or HOST:PORT, got a:b"),
    ],
)
def test_what_cannot_be_started(asked: Options, gpus: int, told: str) -> None:
    with pytest.raises(LaunchError) as caught:
        plan(asked, gpus)
    assert str(caught.value).startswith(told)
    assert caught.value.exit_code == 2


def test_one_rank_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.local, "run", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(dispatch, "usable_gpus", lambda: 1)
    assert launch.start(Options(), []) is launch.start(Options(gpus="all"), []) is False


def test_all_gpus_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(dispatch.local, "run", lambda *what: seen.append(what))
    monkeypatch.setattr(dispatch, "usable_gpus", lambda: 4)
    assert launch.start(Options(gpus="all"), ["sft", "--gpus", "all"])
    assert seen == [(Plan(4), ["sft", "--gpus", "all"])]


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        (None, {}, "there is no such file"),
        ("", {}, "the hostfile names no machine\nA line is: worker-1 slots=8"),
        ("# none\n\n", {}, "the hostfile names no machine"),
        ("a slots=1\n", {"ranks": 2}, "--hostfile says already which nodes and ranks there are"),
        ("a slots=1\n", {"gpus": "x"}, "must be a number from 1, or all; got x"),
        (
            "a slots=1\nb slots=1\n",
            {},
            "the machines of a hostfile are reached through ssh and pdsh; ssh and pdsh are not",
        ),
    ],
)
def test_a_hostfile_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, more: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("PATH", "")
    file = tmp_path / "hosts"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LaunchError) as caught:
        launch.start(Options(hostfile=file, **more), [])
    assert told in str(caught.value)


@pytest.mark.parametrize(("code", "told"), [(1, "exit code 1"), (247, "signal 9: it was killed"), (-9, "signal 9")])
def test_how_the_end_of_deepspeeds_launcher_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    (tmp_path / "hosts").write_text("localhost slots=2")
    ends = [sys.executable, "-c", f"import os; os.kill(os.getpid(), 9) if {code} < 0 else os._exit({code})"]
    monkeypatch.setattr(hosts, "_command", lambda *_: ends)
    with pytest.raises(errors.RankError, match=f"a rank ended with {told}"):
        hosts.run(tmp_path / "hosts", None, [])


def report(folder: Path, number: int, error: BaseException, when: float = 0.0) -> None:
    """What a rank leaves behind that ends with an error."""
    try:
        raise error
    except BaseException as raised:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "4"}.items():
                patch.setenv(name, value)
            rank._report(raised, folder)
    file = rank.report_of(folder, number)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"time": when}))


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2342")
NCCL_LOST = RuntimeError(
    "NCCL error: unhandled system error, Last error: socketProgress: Connection closed by remote peer"
)
FAILURES: list[tuple[dict[int, int], dict[int, BaseException], str]] = [
    # how ranks ended, what they reported (in the order of time), what is told
    ({1: -9, 0: -15}, {}, "rank 1 was killed (signal 9)\nUsually the machine ran out of memory"),
    ({0: 1, 1: -9}, {0: LOST}, "rank 1 was killed (signal 9)"),
    ({0: 1, 1: -11}, {0: ValueError("what?")}, "rank 1 crashed inside a library (signal 11)"),
    ({3: -7}, {}, "rank 3 hit a bus error (signal 7)\nUsually /dev/shm is too small"),
    ({0: -6, 1: 1}, {1: ValueError("no")}, "rank-1.log: rank 1: ValueError: no\nThe log has the whole traceback."),
    ({0: 1, 1: 1}, {0: LOST, 1: KeyError("x")}, "rank-1.log: rank 1: KeyError: 'x'"),
    ({0: 1, 1: 1}, {1: ValueError("first"), 0: ValueError("second")}, "rank-1.log: rank 1: ValueError: first"),
    ({2: 1}, {2: LOST}, "rank-2.log: rank 2 has lost another rank: RuntimeError: [gloo/"),
    (
        {1: 1},
        {1: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")},
        "rank-1.log: rank 1 ran out of memory: CUDA out of memory. Tried to allocate 2 GiB.\nLower sft.micro_batch_tok",
    ),
    (
        {0: 1, 1: 1},
        {0: NCCL_LOST, 1: RuntimeError("NCCL error: ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0")},
        "rank-1.log: rank 1: RuntimeError: NCCL error: ncclInvalidUsage: Duplicate GPU detected",
    ),
    (
        {0: 1, 1: 1},
        {
            0: NCCL_LOST,
            1: RuntimeError("NCCL error: unhandled cuda error:\nCuda failure 2 'out of memory'"),
        },
        "rank-1.log: rank 1 ran out of memory: NCCL error: unhandled cuda error:\nLower sft.micro_batch_tok",
    ),
    ({1: 1}, {1: NCCL_LOST}, "rank-1.log: rank 1 has lost another rank: RuntimeError: NCCL error: unhandled system"),
    ({1: 7, 0: -15}, {}, "rank 1 ended with exit code 7"),
    ({0: -15, 1: 143}, {}, "rank 0 was ended by SIGTERM"),
    (
        {0: 1, 1: 1},
        {0: LOST, 1: errors.TrainingError("the loss is nan at step 3", where="sft, in a batch", hint="Lower it.")},
        "rank 1: sft, in a batch: the loss is nan at step 3\nLower it.",
    ),
    ({0: 2, 1: 143}, {0: errors.DataError("no rows", where="a.jsonl", hint="Add.")}, "a.jsonl: no rows\nAdd."),
]


@pytest.mark.parametrize(("exits", "reports", "told"), FAILURES, ids=[told[:40] for _, _, told in FAILURES])
def test_the_rank_that_failed_first_is_named(
    tmp_path: Path, exits: dict[int, int], reports: dict[int, BaseException], told: str
) -> None:
    for when, (number, error) in enumerate(reports.items()):
        report(tmp_path, number, error, when)
    found, log = failure.explain(exits, tmp_path)
    assert str(found).removeprefix(f"{tmp_path.resolve()}/").startswith(told)
    if log is not None:
        assert "Traceback" in log.read_text()


def test_the_last_line_of_a_log_is_quoted(tmp_path: Path) -> None:
    rank.log_of(tmp_path, 1).write_text("much\n" * 3000 + "cannot open shared object file\n\n")
    found, log = failure.explain({1: 127}, tmp_path)
    assert found.what == "rank 1 ended with exit code 127: cannot open shared object file"
    assert log == rank.log_of(tmp_path, 1).resolve()


def test_a_rank_that_was_killed_says_from_where_the_run_can_be_resumed(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"
    (tmp_path / rank.RUN).write_text(str(run))
    assert "--resume" not in str(failure.explain({1: -9}, tmp_path)[0].hint)  # there is no checkpoint yet
    for step in (5, 15):
        (run / "sft" / "checkpoints" / f"step-{step:08}").mkdir(parents=True)
    hint = str(failure.explain({1: -9}, tmp_path)[0].hint)
    assert hint.endswith(" The same command with --resume continues after step 15.")
    (tmp_path / rank.RUN).unlink()
    assert "--resume" not in str(failure.explain({1: -9}, tmp_path)[0].hint)


def test_all_problems_of_a_recipe_are_reported(tmp_path: Path) -> None:
    problems = [
        errors.Problem("r.yaml:3", "seed", "must be a whole number"),
        errors.Problem("r.yaml:4", "x", "unknown"),
    ]
    report(tmp_path, 0, RecipeError(problems, hint="see"))
    found, _ = failure.explain({0: 2, 1: 2}, tmp_path)
    assert isinstance(found, RecipeError) and found.problems == problems and found.hint == "see"
    assert found.exit_code == 2


def run_as_rank(tmp_path: Path, body: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``body`` inside of ``as_rank``, in a process of its own that is rank 1 of 2."""
    code = f"from rlhfcli import errors, launch\nwith launch.as_rank():\n    {body}\n"
    world = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", **more}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **world}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_rank_reports_to_its_parent_and_ends(tmp_path: Path) -> None:
    ours = {rank.FILES: str(tmp_path), rank.LAUNCHER: str(os.getpid())}
    done = run_as_rank(tmp_path, "1 / 0", **ours)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    found, log = failure.explain({1: 1}, tmp_path)
    assert found.what == "rank 1: ZeroDivisionError: division by zero"
    assert log is not None and log.read_text().rstrip().endswith("ZeroDivisionError: division by zero")
    assert run_as_rank(tmp_path, "raise errors.DataError('no')", **ours).returncode == 2


def test_a_rank_of_another_launcher_says_itself_what_is_wrong(tmp_path: Path) -> None:
    done = run_as_rank(tmp_path, "raise errors.TrainingError('the loss is nan', where='sft')")
    assert done.returncode == 1
    assert "rank 1: sft: the loss is nan\n" in done.stderr


def test_a_rank_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    body = f"open({str(tmp_path / 'started')!r}, 'w')"
    assert run_as_rank(tmp_path, body, **{rank.FILES: str(tmp_path), rank.LAUNCHER: "1"}).returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_hangs_inside_a_library_ends_after_sigterm() -> None:
    code = (
        "import os, threading\nfrom rlhfcli import launch\nfrom rlhfcli.launch import rank\nrank.PATIENCE = 0.5\n"
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n"  # as if Python never came to handle it
        "with launch.as_rank():\n    print('here', flush=True)\n    threading.Event().wait()\n"
    )
    world = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    process = subprocess.Popen([sys.executable, "-c", code], env=world, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    process.stdout.close()


def test_a_log_continues_in_the_folder_of_the_run(tmp_path: Path) -> None:
    files, run = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom rlhfcli import launch\n"
        "with launch.as_rank():\n"
        "    print('early', flush=True)\n"
        f"    launch.log_into(Path({str(run)!r}))\n"
        "    os.write(2, b'late\\n')\n"
        "    raise ValueError('bad')\n"
    )
    world = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", rank.FILES: str(files), rank.LAUNCHER: str(os.getpid())}
    with (files / "rank-1.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **world}, cwd=ROOT, stderr=log, timeout=60
        )
    assert done.returncode == 1
    found, where = failure.explain({1: 1}, files)
    assert found.where == str(where) == str((run / "rank-1.log").resolve())
    assert (run / "rank-1.log").read_text().splitlines()[:2] == ["early", "late"]


def test_what_killed_parents_have_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        f"import tempfile, time; tempfile.tempdir = {str(tmp_path)!r}\nfrom rlhfcli.launch import rank_files\n"
        "with rank_files.folder() as files:\n"
        "  tempfile.mkdtemp(prefix='torchelastic_'); print(files, flush=True); time.sleep(60)"
    )
    parents = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = []
    for parent in parents:
        with parent.stdout or io.StringIO() as output:
            folders.append(Path(output.readline().strip()))
    with rank_files.folder() as kept:
        rank_files.keep(kept)
    (kept / "rank-1.log").write_text("why")
    assert sorted(tmp_path.iterdir()) == sorted([*folders, kept])  # torch's are inside
    parents[0].kill()
    parents[0].wait()
    with rank_files.folder() as own:
        assert sorted(tmp_path.iterdir()) == sorted([folders[1], kept, own])
    parents[1].kill()
    parents[1].wait()
    rank_files.tidy()
    assert list(tmp_path.iterdir()) == [kept]


def test_the_first_rank_makes_what_the_others_find(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(rank, "together", lambda: calls.append("together"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        monkeypatch.setenv("LOCAL_RANK", number)
        launch.wait_for_first(lambda: calls.append("make"), lambda: calls.append("find"))
    assert calls == ["make", "together", "together", "find"]


def test_every_error_of_this_program_can_be_reported_by_a_parent(tmp_path: Path) -> None:
    for kind in (RlhfError, errors.DataError, errors.ModelError, errors.OutputError, errors.TrainingError):
        report(tmp_path, 0, kind("what", where="where", hint="hint"))
        found, _ = failure.explain({0: 1}, tmp_path)
        assert (type(found), found.what, found.hint) == (kind, "what", "hint")


@pytest.mark.parametrize(
    ("world", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: the environment speaks of 2 ranks, but RANK, LOCAL_RANK, MASTER_PORT, "),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "but LOCAL_RANK, MASTER_PORT, MASTER_ADDR is missing\nLeft over from"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: the environment speaks of two ranks, but WORLD_SIZE must be a whole"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "but RANK must be a whole number\n"),
        ({"RANK": "x"}, None),  # left by a shell, and by nobody who starts several
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
    ],
)
def test_half_of_a_launchers_environment(
    monkeypatch: pytest.MonkeyPatch, world: dict[str, str], told: str | None
) -> None:
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    if told is None:
        assert launch.check_launcher() is None
        return
    with pytest.raises(LaunchError) as caught:
        launch.check_launcher()
    assert told in str(caught.value) and "unset WORLD_SIZE RANK LOCAL_RANK" in str(caught.value)
