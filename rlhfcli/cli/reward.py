"""``rlhf reward``: phase 2, the reward model."""

from __future__ import annotations

from rlhfcli.cli.common import OfflineOption, OverwriteOption, RecipeOption, SetOption
from rlhfcli.cli.ranks import on_ranks


@on_ranks
def reward(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
) -> None:
    """Train the reward model on pairs of a chosen and a rejected answer.

    Starts from the fine-tuned model of the same run (or, with reward.init_from: base, from the base model).
    Writes <output_dir>/reward/final, which loads with AutoModelForSequenceClassification, and metrics.jsonl.
    """
    from rlhfcli import console
    from rlhfcli.cli import work

    job = work.begin(recipe, overrides or [], offline=offline)
    work.claim(job, "reward", overwrite=overwrite)
    result = work.train(job, work.project_of(job), "reward")
    work.say_trained(job, "reward", result)
    console.next_steps(["rlhf eval", "rlhf chat"])
