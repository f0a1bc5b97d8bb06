"""``rlhf run``: all phases of a recipe, one after the other."""

from __future__ import annotations

import time

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
def run(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    max_time: MaxTimeOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
) -> None:
    """Prepare the data, fine-tune, train the reward model and measure both.

    A phase that this run has already finished is not repeated, unless --overwrite is given.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.shared.training_options import training_options
    from rlhfcli.cli.views import tables

    started = time.perf_counter()
    options = training_options(resume=resume, overwrite=overwrite, max_time=max_time)
    project = open_project(recipe, overrides, offline=offline)
    result = project.run(resume=options.resume, overwrite=options.overwrite, max_time=options.max_time)
    if result.evaluation is None:  # another rank shows it
        return
    console.result(*tables.evaluation_tables(result.evaluation.by_phase()))
    console.message(f"All done in {time.perf_counter() - started:.0f} s. Everything is in {project.folder}")
    show_next(project.recipe, "rlhf chat")
