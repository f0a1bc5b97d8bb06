"""Evaluation of the models that a run has trained."""

from __future__ import annotations

from typing import Any

from rlhfcli.api.results import Evaluation
from rlhfcli.api.workspace import Workspace
from rlhfcli.errors import ModelError
from rlhfcli.files.run_layout import REWARD, SFT


def evaluate(workspace: Workspace) -> Evaluation:
    """Measure the trained models and write ``eval/*.json``; the run folder is locked already.

    Args:
        workspace: The opened run.

    Raises:
        ModelError: Nothing is trained yet.
    """
    recipe, run, sink = workspace.recipe, workspace.run, workspace.sink
    if not run.finished(SFT) and not run.finished(REWARD):
        raise ModelError("nothing is trained yet", where=str(run.path), hint="Run rlhf sft and rlhf reward first.")
    # data of other settings than the models were made with would be measured, and would replace theirs
    workspace.claim("eval")
    for line in run.differing_settings():
        sink.warn(line)
    prepared = workspace.prepare()
    from rlhfcli.evaluation import trained_models

    results: dict[str, dict[str, Any]] = {}
    if run.finished(SFT):
        results[SFT] = trained_models.evaluate_fine_tuned(recipe, run.sft, prepared, sink)
        run.write_result(SFT, results[SFT])
    if run.finished(REWARD):
        results[REWARD] = trained_models.evaluate_reward_model(recipe, run.reward, prepared, sink)
        run.write_result(REWARD, results[REWARD])
    run.record_done({"eval": {}})
    return Evaluation(run.evaluation, results.get(SFT), results.get(REWARD))
