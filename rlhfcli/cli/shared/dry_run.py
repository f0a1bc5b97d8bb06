"""``--dry-run`` of the training verbs: what it would need, and which stage fits, without training."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlhfcli.files.run_layout import PHASES

if TYPE_CHECKING:
    from rlhfcli.cli.shared.work import Work
    from rlhfcli.launch.options import Plan


def dry_run(verb: str, ranks: Plan, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Estimate the memory of what a verb would train; nothing is trained and nothing is written.

    Args:
        verb: ``sft``, ``reward``, or ``run``: both.
        ranks: How many would train.
        given: The verb's options; those that say which recipe it is are used.
        as_json: Print JSON alone.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared import work
    from rlhfcli.cli.views import memory_view, tables

    job = work.begin(given["recipe"], given["overrides"] or [], offline=given["offline"], verb=verb)
    results = [_estimate(job, phase, ranks) for phase in (PHASES if verb == "run" else (verb,))]
    if as_json:
        console.result(json.dumps(results))
        return
    console.result(tables.memory_tables(results))
    typed = [word for word in sys.argv[1:] if word != "--dry-run"]
    console.next_steps(memory_view.next_steps(shlex.join(["rlhf", *typed]), results))


def _estimate(job: Work, phase: str, ranks: Plan) -> dict[str, Any]:
    from rlhfcli.cli.shared import work

    tokenizer = work.tokenizer_of(job)
    with job.sink.stage("importing the core"):
        from rlhfcli.core.capacity.dry_run import Assumed, dry_run
        from rlhfcli.core.training.phases import PhaseInputs
        from rlhfcli.data.preparation.prepare import ready
    recipe, section = job.recipe, job.recipe.sft if phase == "sft" else job.recipe.reward
    assumed = Assumed(section.micro_batch_tokens, recipe.data.max_length, len(tokenizer))
    project = PhaseInputs(recipe, ready(recipe, job.run.data) or assumed, tokenizer, job.run.path, job.sink)
    with job.sink.stage(f"{phase}: a step of the model without memory"):
        return dry_run(project, phase, ranks.per_node * ranks.nodes, ranks.per_node)
