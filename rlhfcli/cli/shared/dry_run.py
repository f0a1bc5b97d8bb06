"""``--dry-run`` of the training verbs: the memory that a training would need, without training."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlhfcli.files.run_layout import PHASES, Phase

if TYPE_CHECKING:
    from rlhfcli.launch.options import Plan


def dry_run(verb: str, ranks: Plan, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Estimate the memory of the phases that a verb trains; nothing is trained and nothing is written.

    Args:
        verb: ``sft``, ``reward``, or ``run`` for both.
        ranks: How many would train.
        options: The verb's options, of which those that choose the recipe are used.
        as_json: Print JSON alone.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared.options import open_project
    from rlhfcli.cli.views import memory_view, tables

    project = open_project(options["recipe"], options["overrides"], verb, offline=options["offline"])
    phases: tuple[Phase, ...] = PHASES if verb == "run" else tuple(phase for phase in PHASES if phase == verb)
    count, here = ranks.per_node * ranks.nodes, ranks.per_node
    results = [project.estimate_memory(phase, ranks=count, ranks_here=here) for phase in phases]
    if as_json:
        console.result(json.dumps(results))
        return
    console.result(tables.memory_tables(results))
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    console.next_steps(memory_view.next_steps(shlex.join(["rlhf", *words]), results))
