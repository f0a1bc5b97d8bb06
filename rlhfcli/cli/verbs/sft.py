"""``rlhf sft``: phase 1, supervised fine-tuning."""

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
def sft(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    max_time: MaxTimeOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
) -> None:
    """Fine-tune the base model on dialogues, with LoRA or in full.

    Prepares the data first if need be. Writes <output_dir>/sft/final, a plain transformers folder (with the PEFT
    adapter in it where LoRA was used), and <output_dir>/sft/metrics.jsonl.
    """
    from rlhfcli.cli.shared import work
    from rlhfcli.cli.shared.training_options import going
    from rlhfcli.cli.views import trained

    wish = going("sft", resume=resume, overwrite=overwrite, max_time=max_time)
    job = work.begin(recipe, overrides or [], offline=offline)
    with work.holding(job):
        if resume and work.nothing_left(job, "sft", wish):
            return
        work.claim(job, "sft", overwrite=overwrite, resume=resume)
        result = work.train(job, work.project_of(job, wish), "sft")
    trained.say_trained(job.run, "sft", result)
    work.next_steps(job, "rlhf chat", "rlhf reward", "rlhf eval")
