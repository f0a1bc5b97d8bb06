"""``rlhf reward``: phase 2, the reward model."""

from __future__ import annotations

from rlhfcli.cli.shared.options import (
    MaxTimeOption,
    OfflineOption,
    OverwriteOption,
    RecipeOption,
    ResumeOption,
    SetOption,
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
    from rlhfcli.cli.shared import work
    from rlhfcli.cli.shared.training_options import going
    from rlhfcli.cli.views import trained

    wish = going("reward", resume=resume, overwrite=overwrite, max_time=max_time)
    job = work.begin(recipe, overrides or [], offline=offline, verb="reward")
    with work.holding(job):
        work.refuse_no_start(job)
        if resume and work.nothing_left(job, "reward", wish):
            return
        work.claim(job, "reward", overwrite=overwrite, resume=resume)
        result = work.train(job, work.project_of(job, wish), "reward")
    trained.say_trained(job.run, "reward", result)
    work.next_steps(job, "rlhf eval", "rlhf chat")
