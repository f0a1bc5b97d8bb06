"""Every file of a run cut, changed, edited or missing gives a clear error wherever it is read, or the same result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.chat.transcript import Record, append
from rlhfcli.cli.inspect.run_states import read as read_states
from rlhfcli.cli.inspect.runs import figures, state
from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.checkpoint_files import Progress
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.publish import exporter, model_card
from rlhfcli.core.training.metrics_log import truncate
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.store.manifest import damage
from rlhfcli.data.store.prepared import DataStore
from rlhfcli.errors import RlhfError
from rlhfcli.files import checksums, run_layout
from rlhfcli.progress import Silent
from rlhfcli.recipe.loader import load_recipe
from rlhfcli.runs import recent, resumable
from rlhfcli.runs.run_folder import RunFolder
from tests.core import folders
from tests.core.model_files.test_fuzz_folders import BREAKS, break_bytes

PAIRS = [{"prompt": f"Question {n}?", "chosen": f"Answer {n}.", "rejected": "No."} for n in range(30)]
RECIPE = """
output_dir: runs/x
model: {{name: builtin:tiny}}
data: {{sources: [{{path: {rows}}}], validation: 0.3}}
"""
METRICS = [
    {"step": 0, "eval_loss": 2.5},
    {"step": 2, "loss": 2.0, "learning_rate": 1e-3},
    {"step": 4, "eval_loss": 1.5},
]
TENSORS = {"weight:a": torch.arange(6.0), "exp_avg:a": torch.ones(6)}
RESULTS = {
    "sft": {"perplexity": 3.5, "exact_match": 0.5, "skills": {"facts": {"exact_match": 0.25}}},
    "reward": {"accuracy": 0.9, "accuracy_ci95": [0.8, 0.95], "pairs": 40, "baselines": {"longer": 0.5}},
}


def _run(folder: Path) -> RunFolder:
    return RunFolder(load_recipe(folder / "recipe.yaml").recipe)


def _opened(part: str, *, resume: bool = False) -> Callable[[Path], Any]:
    return lambda folder: _run(folder).claim(part, resume=resume)  # type: ignore[arg-type]


def _card(phase: str) -> Callable[[Path], str]:
    def made(folder: Path) -> str:
        source = exporter.of_run(_run(folder), phase)  # type: ignore[arg-type]
        assert source.trained is not None
        return model_card.card(source.trained, "merged", source.base)

    return made


def _data(folder: Path) -> list[Any]:
    if fault := damage(folder / "data"):
        return [fault]  # which is reported, and the store is made anew
    prepared = DataStore(folder / "data")
    return [list(prepared.dialogues(part)) + list(prepared.pairs(part)) for part in ("train", "validation")]


def _checkpoint(folder: Path) -> Any:
    warnings: list[str] = []
    found = checkpoint_files.newest(folder / "reward" / "checkpoints", warnings.append)
    if found is None:
        assert warnings or not run_layout.list_checkpoints(folder / "reward" / "checkpoints")
        return None  # which is reported
    values = {key: found.read(key).tolist() for key in TENSORS}
    return values, found.progress, found.manifest["settings"], found.random_state(0)["cpu"].tolist()


def _models(folder: Path) -> None:
    for phase in ("sft", "reward"):
        for place in (folder / phase / "final", folder / phase / "final" / "adapter"):
            checksums.verify(place)


def _listed(folder: Path) -> Any:
    found, _ = read_states(folder.parent)
    recent.choose(folder.parent, "chat")
    return [(state(run), figures(run), run.broken) for run in found]


def _chat(folder: Path) -> None:
    file = folder / "chat" / "chats.jsonl"
    before = file.read_bytes() if file.exists() else b""
    turns = [Turn("user", "Hi"), Turn("assistant", "Hello")]
    try:
        append(file, turns, {}, Record(file, "m"))
    except ValueError:
        assert file.read_bytes() == before
        return
    assert file.read_bytes().startswith(before)
    json.loads(file.read_bytes()[len(before) :])


def _metrics(folder: Path) -> list[Any]:
    return [truncate(folder / phase / "metrics.jsonl", 3) for phase in ("sft", "reward")]


@dataclass(frozen=True)
class Kind:
    """Files of one kind: who reads them, and whether a change can be noticed at all."""

    pattern: str
    readers: tuple[Callable[[Path], Any], ...]
    sealed: bool = False


OPEN = (*map(_opened, ("data", "sft", "reward", "eval")), _opened("reward", resume=True))
CARDS = (_card("sft"), _card("reward"))
KINDS = [
    Kind("run.json", (*OPEN, *CARDS, _listed)),
    Kind("recipe.yaml", (*OPEN, *CARDS, _listed)),
    Kind("eval/*.json", (*CARDS, _listed)),
    Kind("*/metrics.jsonl", (_metrics, _listed)),
    Kind("chat/chats.jsonl", (_chat, _listed)),
    Kind("data/*", (_data, _listed), sealed=True),
    Kind("data/manifest.json", CARDS),
    Kind("*/final/*", (_models, _listed), sealed=True),
    Kind("reward/checkpoints/*", (_checkpoint, _opened("reward", resume=True), _listed), sealed=True),
]
SEALED_READERS = (_data, _checkpoint, _models)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Any]]:
    """A run with everything in it, and what the readers of sealed files give."""
    place = tmp_path_factory.mktemp("whole")
    folder, rows = place / "runs" / "x", place / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (place / "my.yaml").write_text(RECIPE.format(rows=rows))
    before = Path.cwd()
    os.chdir(place)
    try:
        return folder, _made(folder)
    finally:
        os.chdir(before)


def _made(folder: Path) -> dict[Any, Any]:
    run = RunFolder(load_recipe("my.yaml").recipe)
    run.claim("data")
    prepare(run.recipe, load_tokenizer("builtin:tiny", "human_assistant"), run.data, Silent())
    for phase in ("sft", "reward"):
        final, _ = folders.save("opt", Path("saved", phase), reward=phase == "reward")
        (folder / phase).mkdir()
        shutil.move(final, folder / phase / "final")
        (folder / phase / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
        run.record_done({phase: {"steps": 4, "tokens": 99, "seconds": 1.5, "eval_loss": 1.5}})
        run.write_result(phase, RESULTS[phase])
    checkpoint_files.save(
        folder / "reward" / "checkpoints",
        iter(TENSORS.items()),
        {"0:cpu": torch.get_rng_state()},
        Progress(4, 99, 1.5, {"loss": 1.0}, 3, {"eval_loss": 1.5}),
        resumable.settings(run.recipe, "reward") | {resumable.FINGERPRINT: "f"},
        100,
    )
    _chat(folder)
    return {reader: reader(folder) for reader in SEALED_READERS}


@contextmanager
def copy(folder: Path) -> Iterator[Path]:
    """A copy, and its place as the working directory; its files are linked, and may be replaced but not changed."""
    before = Path.cwd()
    with TemporaryDirectory() as place:
        target = Path(place) / "runs" / "x"
        shutil.copytree(folder, target, copy_function=os.link)
        os.chdir(place)
        try:
            yield target
        finally:
            os.chdir(before)


def replace(file: Path) -> None:
    """Give a copy's file a content of its own, which may be changed."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**20),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [1], {"a": 1}, "2099-01-01T00:00:00", "\ud800", 10**400, "***", "hf_abcdefghijklmnop"]),
)


def edit(file: Path, where: int, how: str, value: Any) -> None:
    """Change one value of a JSON file, as somebody with an editor does."""
    content = json.loads(file.read_text().splitlines()[0] if file.suffix == ".jsonl" else file.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(at: Any) -> None:
        for key in at if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ():
            places.append((at, key))
            walk(at[key])

    walk(content)
    at, key = places[where % len(places)]
    if how == "remove":
        del at[key]
    else:
        at[key] = value
    file.write_text(json.dumps(content))


def look(whole: tuple[Path, dict[Any, Any]], kind: Kind, number: int, change: Callable[[Path], None]) -> None:
    """Change one file, and let all read it."""
    folder, expected = whole
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    row_budget = [name for name in names if fnmatch(name, kind.pattern) and not name.endswith("README.md")]
    with copy(folder) as target:
        file = target / row_budget[number % len(row_budget)]
        replace(file)
        change(file)
        for reader in kind.readers:
            with copy(target) as place:
                replace(place / "chat" / "chats.jsonl") if (place / "chat" / "chats.jsonl").exists() else None
                try:
                    found = reader(place)
                except RlhfError as error:
                    assert error.where or error.args
                    continue
                if kind.sealed and reader in SEALED_READERS and found is not None:
                    reported = reader is _data and isinstance(found[0], str)
                    assert reported or found == expected[reader], file.name


def bytes_changed(whole: Any, kind: int, number: int, how: tuple[str, float, int]) -> None:
    look(whole, KINDS[kind], number, lambda file: break_bytes(file, *how))


def value_edited(whole: Any, kind: int, number: int, how: tuple[int, str, Any]) -> None:
    look(whole, KINDS[kind], number, lambda file: edit(file, *how))


EDITS = st.tuples(st.integers(0, 10_000), st.sampled_from(["set", "set", "remove"]), STRANGE)
JSON_KINDS = [n for n, kind in enumerate(KINDS) if kind.pattern.endswith((".json", ".jsonl"))]
CASES: list[tuple[Callable[..., None], Any, Any, int]] = [
    (bytes_changed, st.integers(0, len(KINDS) - 1), BREAKS, 70),
    (value_edited, st.sampled_from(JSON_KINDS), EDITS, 70),
]
IDS = [case[0].__name__ for case in CASES]


def hunt(whole: Any, case: int, times: int) -> None:
    check, kinds, how, share = CASES[case]
    often = settings(
        max_examples=share * times,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=times == 1,  # the default suite is the same every time
    )
    drawn = given(kind=kinds, number=st.integers(0, 40), how=how)
    drawn(often(lambda **values: check(whole, **values)))()


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_broken_runs(whole: Any, case: int) -> None:
    hunt(whole, case, 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_many_broken_runs(whole: Any, case: int) -> None:
    hunt(whole, case, 20)
