"""``rlhf sft``: phase 1, supervised fine-tuning."""

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
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.shared.training_options import training_options

    options = training_options(resume=resume, overwrite=overwrite, max_time=max_time)
    project = open_project(recipe, overrides, offline=offline)
    result = project.sft(resume=options.resume, overwrite=options.overwrite, max_time=options.max_time)
    if result.trained:
        show_next(project.recipe, "rlhf chat", "rlhf reward", "rlhf eval")
