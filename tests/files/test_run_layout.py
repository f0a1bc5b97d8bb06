"""The names in a run folder are a file format: runs of older versions are found by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.files import run_layout

RUN = Path("runs/tiny")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (run_layout.recipe_file(RUN), "recipe.yaml"),
        (run_layout.record_file(RUN), "run.json"),
        (run_layout.data(RUN) / run_layout.DATA_MANIFEST, "data/manifest.json"),
        (run_layout.evaluation(RUN), "eval"),
        (run_layout.logs(RUN), "logs"),
        (run_layout.metrics(RUN, "sft"), "sft/metrics.jsonl"),
        (run_layout.final(RUN, "reward"), "reward/final"),
        (run_layout.adapter_of(run_layout.final(RUN, "sft")), "sft/final/adapter"),
        (run_layout.checkpoint(run_layout.checkpoints(RUN, "sft"), 200), "sft/checkpoints/step-00000200"),
    ],
)
def test_names_stay(found: Path, expected: str) -> None:
    assert found == RUN / expected


def test_a_model_folder_knows_its_run(tmp_path: Path) -> None:
    final = run_layout.final(tmp_path, "sft")
    final.mkdir(parents=True)
    assert run_layout.run_of(final) == tmp_path.resolve()
    assert run_layout.is_final(final, "sft") and not run_layout.is_final(final, "reward")
    assert not run_layout.is_run(tmp_path)
    run_layout.record_file(tmp_path).write_text("{}")
    assert run_layout.is_run(tmp_path)
