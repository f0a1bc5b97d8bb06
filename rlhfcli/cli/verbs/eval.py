"""``rlhf eval``: measure both models."""

from __future__ import annotations

import json

from rlhfcli.cli.shared.options import JsonOption, OfflineOption, RecipeOption, SetOption, open_project


def evaluate(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the fine-tuned model against the base model, and the reward model against its baselines.

    Writes <output_dir>/eval/sft.json and <output_dir>/eval/reward.json.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.views import tables

    project = open_project(recipe, overrides, "eval", offline=offline)
    results = project.evaluate().by_phase()
    if as_json:
        console.result(json.dumps(results, ensure_ascii=False))
        return
    console.result(*tables.evaluation_tables(results))
    show_next(project.recipe, "rlhf chat")
