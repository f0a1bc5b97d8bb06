"""Published benchmarks of reward models, from local files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli.api.workspace import Workspace
from rlhfcli.errors import ModelError
from rlhfcli.files import model_path, run_layout
from rlhfcli.files.run_layout import REWARD
from rlhfcli.progress import Sink

if TYPE_CHECKING:
    from rlhfcli.chat.reward_model import RewardModel
    from rlhfcli.evaluation.benchmarks.registry import LocalBenchmark
    from rlhfcli.runs.run_folder import RunFolder

RESULT = "benchmarks"
_AT_ONCE = 64  # items that are scored between two reports of progress
_SHOWN = 5  # rows that are named


def measure(workspace: Workspace, paths: Sequence[Path], reward: str | None, label: str | None) -> dict[str, Any]:
    """Measure a reward model on benchmarks; ``eval/benchmarks.json`` of the run gets the figures, if there is a run.

    Args:
        workspace: The opened run.
        paths: Files or folders of benchmarks.
        reward: Another reward model than the run's.
        label: Which output is the reward, for a reward model that has several.

    Returns:
        ``reward_model`` (its path) and ``benchmarks``: the figures of each, with ``path``, ``skipped`` rows, and
        ``in_training_data``, the prompts that the run was trained on.

    Raises:
        DataError: A path is no benchmark that is known.
        ModelError: There is no such reward model.
    """
    run = workspace.run
    name = reward or str(run.reward)
    if reward is None and not run.finished(REWARD):
        hint = "Run rlhf reward first, or name one: --reward FOLDER."
        raise ModelError("there is no reward model to measure yet", where=name, hint=hint)
    model_path.check(name, adapters=True)
    if not run_layout.is_run(run.path):
        return _measured(workspace, paths, name, label)
    with workspace.locked():
        result = _measured(workspace, paths, name, label)
        _write(run, name, result["benchmarks"])
    return result


def _measured(workspace: Workspace, paths: Sequence[Path], name: str, label: str | None) -> dict[str, Any]:
    from rlhfcli.evaluation.benchmarks import registry

    recipe, run, sink = workspace.recipe, workspace.run, workspace.sink
    with sink.stage("reading the benchmarks"):
        found = [registry.load(path) for path in paths]
    trusted = recipe.model.trust_remote_code and name == str(run.reward)
    with sink.stage("starting torch and transformers"):
        from rlhfcli.chat.reward_model import RewardModel
    with sink.stage("loading the reward model"):
        model = RewardModel.load(name, label=label, template=recipe.data.template, trust_remote_code=trusted)
    measured = [_measure(local, model, sink) for local in found]
    results = [
        {"path": str(path), **figures, "in_training_data": _overlap(run.data, local)}
        for path, local, figures in zip(paths, found, measured, strict=True)
    ]
    return {"reward_model": name, "benchmarks": results}


def _measure(local: LocalBenchmark, model: RewardModel, sink: Sink) -> dict[str, Any]:
    items = local.items
    scores: list[list[float] | None] = []
    sink.begin(local.benchmark.title, len(items), "items")
    try:
        for start in range(0, len(items), _AT_ONCE):
            scores += _scores(model, local, start)
            sink.advance(min(start + _AT_ONCE, len(items)), {})
    finally:
        sink.end()
    figures = local.benchmark.figures(items, scores)
    skipped = {"rows": len(local.skipped), "examples": list(local.skipped[:_SHOWN])}
    return {"title": local.benchmark.title, **figures.as_json(), "skipped": skipped}


def _scores(model: RewardModel, local: LocalBenchmark, start: int) -> list[list[float] | None]:
    """Score the answers of some items; an item of which the template cannot write an answer has no scores."""
    from rlhfcli.data.dialogues.dialogue import Turn

    items = local.items[start : start + _AT_ONCE]
    dialogues = [(*item.prompt, Turn("assistant", answer)) for item in items for answer in item.answers]
    rewards = iter(model.rewards_of(dialogues))
    scores: list[list[float] | None] = []
    for item in items:
        own = [next(rewards) for _ in item.answers]
        known = [reward for reward in own if reward is not None]
        scores.append(known if len(known) == len(own) else None)
    return scores


def _overlap(data: Path, local: LocalBenchmark) -> dict[str, Any] | None:
    """Count the prompts that occur in the run's training data; ``None`` if it has none here."""
    from rlhfcli.data.preparation.overlap import count_prompts

    return count_prompts(data, {RESULT: [item.prompt for item in local.items]}).get(RESULT)


def _write(run: RunFolder, name: str, results: Sequence[dict[str, Any]]) -> None:
    """Write the figures; those of other reward models and benchmarks stay."""
    try:
        written = json.loads(run_layout.result_file(run.path, RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    written = written if isinstance(written, dict) else {}
    earlier = written.get(name)
    own = earlier if isinstance(earlier, dict) else {}
    written[name] = own | {str(result["benchmark"]): result for result in results}
    run.write_result(RESULT, written)
