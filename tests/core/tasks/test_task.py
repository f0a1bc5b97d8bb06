"""Tasks over stored examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.data.store import prepared, writers
from rlhfcli.recipe.schema import RewardSection
from tests.core.tasks.examples import dialogues, preferences


@pytest.mark.parametrize("packed", [True, False])
def test_stored_examples_are_cut_like_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """Without a Python number for each of their tokens."""
    monkeypatch.setattr(writers, "_BATCH", 2)  # several record batches
    for phase, examples in (("sft", dialogues()), ("reward", preferences())):
        writer = writers.Writer(tmp_path, phase, "train")  # type: ignore[arg-type]
        for example in examples:
            writer.write(example, "here")  # type: ignore[arg-type]
        writer.close()
    stored_dialogues = prepared.StoredDialogues(tmp_path / "sft_train.arrow")
    stored_pairs = prepared.StoredPairs(tmp_path / "reward_train.arrow")
    expected: list[Any] = [
        SftTask(dialogues(), "assistant", packed=packed, pad_id=1),
        RewardTask(preferences(), RewardSection(), packed=packed, pad_id=1),
    ]
    monkeypatch.setattr(prepared._Stored, "__getitem__", lambda *_: pytest.fail("an example was made"))
    found: list[Any] = [
        SftTask(stored_dialogues, "assistant", packed=packed, pad_id=1),
        RewardTask(stored_pairs, RewardSection(), packed=packed, pad_id=1),
    ]
    for one, other in zip(expected, found, strict=True):
        assert one.lengths() == other.lengths()
        rows = range(len(one.lengths()))
        assert [one.cut(rows, budget) for budget in (8, 20, 999)] == [
            other.cut(rows, budget) for budget in (8, 20, 999)
        ]
