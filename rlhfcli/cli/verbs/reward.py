"""``rlhf reward``: phase 2, the reward model."""

from __future__ import annotations

from rlhfcli.cli.shared.options import (
    MaxTimeOption,
    OfflineOption,
    OverwriteOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    open_project,
)
from rlhfcli.cli.shared.rank_options import on_ranks


@on_ranks
def reward(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    max_time: MaxTimeOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
) -> None:
    """Train the reward model on pairs of a chosen and a rejected answer.

    Starts from the fine-tuned model of the same run (or, with reward.init_from: base, from the base model).
    Writes <output_dir>/reward/final, which loads with AutoModelForSequenceClassification, and metrics.jsonl.
    """
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.shared.training_options import training_options

    options = training_options(resume=resume, overwrite=overwrite, max_time=max_time)
    project = open_project(recipe, overrides, "reward", offline=offline)
    result = project.reward(resume=options.resume, overwrite=options.overwrite, max_time=options.max_time)
    if result.trained:
        show_next(project.recipe, "rlhf eval", "rlhf chat")
