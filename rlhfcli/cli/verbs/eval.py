"""``rlhf eval``: measure both models."""

from __future__ import annotations

import json

from rlhfcli.cli.shared.options import JsonOption, OfflineOption, RecipeOption, SetOption


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
    from rlhfcli.cli.shared import measuring, work

    job = work.begin(recipe, overrides or [], offline=offline, verb="eval")
    with work.holding(job):
        results = measuring.evaluate(job)
    if as_json:
        console.result(json.dumps(results, ensure_ascii=False))
        return
    show(results)
    work.next_steps(job, "rlhf chat")


def show(results: dict[str, dict[str, object]]) -> None:
    """Print the tables of both models."""
    from rlhfcli import console
    from rlhfcli.cli.views import tables

    if "sft" in results:
        console.result(tables.language_tables(results["sft"]))
    if "reward" in results:
        console.result(tables.reward_tables(results["reward"]))
