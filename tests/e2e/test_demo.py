"""The embedded example as the README shows it: what it can do is measured, and the README's Python says so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Done

README = Path(__file__).parents[2] / "README.md"
SHORT = (
    ("data.sources", "[{path: builtin:tiny/pairs, limit: 3000, phase: reward}]"),
    ("reward.init_from", "base"),
    ("reward.epochs", "1"),
    ("eval.every", "1000"),
)


def scores(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """What the README's lines for a reward model print, in a folder that holds ``runs/tiny``."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    (code,) = [block for block in blocks if "SequenceClassification" in block]
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[0] for line in printed] == ["A dog says woof.", "A dog says moo.", "Go away."]
    return [float(line.rpartition(" ")[2]) for line in printed]


def test_a_short_training_already_ranks_the_rude_answer_last(
    rlhf: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = [part for key, value in SHORT for part in ("--set", f"{key}={value}")]
    assert rlhf("reward", "--recipe", "tiny", *changed).code == 0
    right, _, rude = scores(tmp_path, monkeypatch, capsys)
    assert right > rude


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1234, 1, 2])
def test_the_example_is_as_good_as_it_is_called(
    seed: int,
    rlhf: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rlhf("run", "--recipe", "tiny", "--set", f"seed={seed}").code == 0
    results = {name: json.loads(Path(f"runs/tiny/eval/{name}.json").read_text()) for name in ("sft", "reward")}
    language, reward = results["sft"], results["reward"]
    assert language["exact_match"]["macro"] >= 0.93
    assert language["base_first_line_match"]["macro"] < 0.85, "fine-tuning teaches more than to stop"
    assert language["base_exact_match"]["macro"] < 0.05
    assert language["stops"] > 0.98
    assert reward["accuracy"] >= 0.9
    assert reward["by_kind"]["wrong"]["accuracy"] >= 0.8
    right, wrong, rude = scores(tmp_path, monkeypatch, capsys)
    assert right > wrong > rude
