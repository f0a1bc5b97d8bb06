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
)
from rlhfcli.cli.shared.rank_options import on_ranks
from rlhfcli.files.run_layout import PHASES


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
    from rlhfcli import console, launch
    from rlhfcli.cli.shared import measuring, work
    from rlhfcli.cli.shared.training_options import going
    from rlhfcli.cli.verbs.eval import show
    from rlhfcli.cli.views import trained

    began = time.perf_counter()
    wish = going("run", resume=resume, overwrite=overwrite, max_time=max_time)
    job = work.begin(recipe, overrides or [], offline=offline)
    with work.holding(job):
        if overwrite and launch.first():
            job.run.refuse_other_models()  # before anything is written
        work.claim(job, "data", overwrite=overwrite)
        project = work.project_of(job, wish)
        work.look_ahead(job, project)
        for phase in PHASES:
            if work.nothing_left(job, phase, wish):
                continue
            work.claim(job, phase, overwrite=overwrite, resume=resume)
            trained.say_trained(job.run, phase, work.train(job, project, phase))
        if not launch.continue_alone():
            return
        show(measuring.evaluate(job))
    console.message(f"All done in {time.perf_counter() - began:.0f} s. Everything is in {job.run.path}")
    work.next_steps(job, "rlhf chat")
