"""``Project``: what the verbs of the command line do, as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli import launch
from rlhfcli.api import benchmarking, capacity, conversation, exporting, measuring, training
from rlhfcli.api.options import Caller, ExportOptions, Progress, TrainingOptions, sink_of
from rlhfcli.api.results import Evaluation, Exported, PhaseResult, PreparedData, RunResult
from rlhfcli.api.workspace import Workspace
from rlhfcli.errors import UserError
from rlhfcli.files.run_layout import PHASES, REWARD, SFT, Phase
from rlhfcli.progress import Sink

if TYPE_CHECKING:
    from rlhfcli.chat.session import ChatSession
    from rlhfcli.core.publish.card_code import Form
    from rlhfcli.recipe.loader import Loaded
    from rlhfcli.recipe.schema import Recipe


class Project:
    """A recipe and its run folder: prepare data, train both phases, measure, export, chat.

        from rlhfcli import Project

        project = Project("tiny", {"output_dir": "runs/mine", "sft.max_steps": 20}, progress="notebook")
        print(project.sft().validation["eval_loss"])

    A method does what the verb of its name does, with the same checks: it locks the run folder while it works, and
    replaces nothing without ``overwrite=True``. Errors are those of ``rlhfcli.errors``; their hints name options as one
    types them, so that ``--overwrite`` is ``overwrite=True`` here. Ctrl-C during a training stops it with a checkpoint
    and raises ``Interrupted``. A method trains in this process, on one device: training on several ranks is a matter of
    the command line (``rlhf sft --gpus all``), because each rank is a process of its own.

    A new project sets environment variables of torch and of the Hugging Face libraries for this process, unless they
    are set: caches, telemetry, progress bars. See ``launch/environment.py``.

    Args:
        recipe: A recipe file, the folder of a run, the name of a built-in recipe, or a recipe that is loaded already.
        overrides: Changes to the recipe: ``{"sft.learning_rate": 1e-4}``, or texts as after ``--set``.
        progress: ``silent``, ``terminal`` (bars on stderr), ``notebook`` (lines on stdout), or a ``Sink`` of your own.
        offline: Forbid the network: local files and caches only.
        caller: The command that uses this class, where it is one.

    Raises:
        RecipeError: The recipe, or a change to it, cannot be used; it holds all problems.
        UserError: There is no such recipe.
    """

    def __init__(
        self,
        recipe: str | Path | Loaded,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        *,
        progress: Progress = "silent",
        offline: bool = False,
        caller: Caller | None = None,
    ) -> None:
        self.sink = sink_of(progress)
        launch.in_this_process(offline=offline)
        if isinstance(recipe, str | Path):
            recipe = _load(str(recipe), overrides, self.sink)
        elif not hasattr(recipe, "recipe"):
            raise UserError(f"a recipe is a file, a run folder or a built-in name, not {recipe!r}")
        elif overrides:
            raise UserError("the recipe is loaded already: overrides come too late")
        launch.together()  # the first rank is going to write what the others have read
        self.recipe: Recipe = recipe.recipe
        self._name = recipe.name
        self._caller = caller or Caller()

    def __repr__(self) -> str:
        return f"Project({self._name!r}, folder={str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.recipe.output_dir)

    def prepare(self, *, overwrite: bool = False, strict: bool = False) -> PreparedData:
        """Read, check, split and tokenise the data, unless it is prepared already.

        Args:
            overwrite: Prepare it again, and let the recipe of the run folder be replaced.
            strict: Refuse data with a row that cannot be used.

        Returns:
            The data with all its counts.

        Raises:
            DataError: A source cannot be used, or with ``strict`` a row.
            OutputError: The run folder belongs to another recipe, or another command is at work in it.
        """
        workspace = self._workspace("prepare")
        with workspace.locked():
            workspace.claim("data", overwrite=overwrite)
            store = workspace.prepare_or_reuse(strict=strict, anew=overwrite)
        from rlhfcli.data.preparation.overlap import find_overlap

        with self.sink.stage("looking for evaluation prompts in the training data"):
            overlap = find_overlap(store.folder, self.recipe.eval, self.recipe.seed)
        return PreparedData(store.folder, store.manifest | {"overlap": overlap}, store, workspace.load_tokenizer)

    def sft(self, *, resume: bool = False, overwrite: bool = False, max_time: float | None = None) -> PhaseResult:
        """Phase 1: fine-tune the base model on dialogues; prepares the data first if need be.

        Args:
            resume: Continue from the newest checkpoint; a finished phase is left as it is.
            overwrite: Train again and replace the model that is there.
            max_time: Seconds until the training stops with a checkpoint; ``None``: no limit.

        Returns:
            The model and how its training went.

        Raises:
            OutputError: The model is there already, or another command is at work in the run folder.
            Interrupted: The training was asked to stop, or its time was over; ``resume=True`` continues it.
        """
        options = TrainingOptions.checked(resume=resume, overwrite=overwrite, max_time=max_time)
        return training.train_phase(self._workspace("sft"), SFT, options)

    def reward(self, *, resume: bool = False, overwrite: bool = False, max_time: float | None = None) -> PhaseResult:
        """Phase 2: train the reward model on pairs of a chosen and a rejected answer.

        Args:
            resume: Continue from the newest checkpoint; a finished phase is left as it is.
            overwrite: Train again and replace the model that is there.
            max_time: Seconds until the training stops with a checkpoint; ``None``: no limit.

        Returns:
            The model and how its training went.

        Raises:
            ModelError: It starts from the fine-tuned model, which is not trained yet.
            OutputError: The model is there already, or another command is at work in the run folder.
            Interrupted: The training was asked to stop, or its time was over; ``resume=True`` continues it.
        """
        options = TrainingOptions.checked(resume=resume, overwrite=overwrite, max_time=max_time)
        return training.train_phase(self._workspace("reward"), REWARD, options)

    def run(self, *, resume: bool = False, overwrite: bool = False, max_time: float | None = None) -> RunResult:
        """Prepare the data, train both phases and measure them; a finished phase is left as it is.

        Args:
            resume: Continue a phase from its newest checkpoint.
            overwrite: Train again and replace the models that are there.
            max_time: Seconds until a training stops with a checkpoint; ``None``: no limit.

        Returns:
            Both phases and their evaluation.

        Raises:
            OutputError: The run folder belongs to another recipe, or another command is at work in it.
            Interrupted: A training was asked to stop, or its time was over; ``resume=True`` continues it.
        """
        options = TrainingOptions.checked(resume=resume, overwrite=overwrite, max_time=max_time)
        return training.train_run(self._workspace("run"), options)

    def evaluate(self) -> Evaluation:
        """Measure the trained models beside their baselines; the figures are also written into the run folder.

        Returns:
            Figures of the models that are trained.

        Raises:
            ModelError: Nothing is trained yet.
            OutputError: Another command is at work in the run folder.
        """
        workspace = self._workspace("evaluate")
        with workspace.locked():
            return measuring.evaluate(workspace)

    def benchmark(
        self, paths: Sequence[str | Path], reward: str | Path | None = None, *, label: str | None = None
    ) -> dict[str, Any]:
        """Measure a reward model on published benchmarks, from local files; see docs/benchmarks.md.

        Args:
            paths: Files or folders of benchmarks.
            reward: Another reward model than the run's.
            label: Which output is the reward, for a reward model that has several.
        """
        name = None if reward is None else str(reward)
        return benchmarking.measure(self._workspace("benchmark"), [Path(path) for path in paths], name, label)

    def export(
        self, phase: Phase, target: str | Path, form: Form | ExportOptions = "merged", *, overwrite: bool = False
    ) -> Exported:
        """Write a trained model as a folder that other programs load, and check that they compute the same numbers.

        Args:
            phase: ``sft`` or ``reward``.
            target: Where the export goes.
            form: ``merged``, ``adapter`` or ``deepspeed-chat``; ``ExportOptions`` for more choices.
            overwrite: Replace an earlier export.

        Returns:
            The folder, and the comparison.

        Raises:
            ModelError: The model is not trained yet, has no such form, or others would get other numbers.
            OutputError: Something is in the target.
        """
        _check_phase(phase)
        options = ExportOptions(form) if isinstance(form, str) else form
        place = exporting.Target(Path(target), overwrite, self._command("export"), self.sink)
        return exporting.export_phase(self._workspace("export").run, phase, place, options)

    def chat(
        self, model: str | Path | None = None, reward: str | Path | None = None, *, label: str | None = None
    ) -> ChatSession:
        """Begin a conversation with the fine-tuned model, whose replies the reward model scores.

        Args:
            model: Another model or adapter folder than the run's.
            reward: Another reward model than the run's; ``none``: replies are not scored.
            label: Which output is the reward, for a reward model that has several.

        Raises:
            ModelError: A model is not there or cannot be loaded.
        """
        speaker, scorer = (None if name is None else str(name) for name in (model, reward))
        return conversation.open_chat(self.recipe, speaker, scorer, label, self.sink)

    def bench(
        self, phases: Phase | Sequence[Phase] = (SFT, REWARD), *, steps: int = 10, find_size: bool = False
    ) -> list[dict[str, Any]]:
        """Measure the speed of training steps and what limits it; nothing is trained that stays.

        Args:
            phases: Those to measure.
            steps: Steps that count; two more warm up.
            find_size: Also find the largest ``micro_batch_tokens`` that fits into memory.

        Returns:
            Figures of each phase.
        """
        phases = [phases] if isinstance(phases, str) else phases
        for phase in phases:
            _check_phase(phase)
        return capacity.bench(self._workspace("bench"), phases, steps, find_size=find_size)

    def estimate_memory(self, phase: Phase, *, ranks: int = 1, ranks_here: int | None = None) -> dict[str, Any]:
        """Estimate the memory that a phase needs at each ZeRO stage; nothing is trained and nothing is written.

        Args:
            phase: ``sft`` or ``reward``.
            ranks: Number of ranks in all.
            ranks_here: Number of ranks that share the memory of this machine; left out, all.

        Returns:
            Sizes of the model and its largest micro-batch, and bytes by stage.
        """
        _check_phase(phase)
        return capacity.estimate_memory(self._workspace("estimate_memory"), phase, ranks, ranks_here or ranks)

    def _command(self, method: str) -> tuple[str, ...]:
        return self._caller.command or (f"Project({self._name!r}).{method}()",)

    def _workspace(self, method: str) -> Workspace:
        from rlhfcli.runs.run_folder import RunFolder

        run = RunFolder(self.recipe, self._command(method))
        return Workspace(self.recipe, run, self.sink, self._caller.launch_options)


def _check_phase(phase: str) -> None:
    if phase not in PHASES:
        raise UserError(f"a phase is sft or reward, not {phase}")


def _load(recipe: str, overrides: Sequence[str] | Mapping[str, Any], sink: Sink) -> Loaded:
    from rlhfcli.recipe import trust
    from rlhfcli.runs import opening

    loaded = opening.open_recipe(recipe, _changes(overrides))
    for note in (*loaded.notes, *trust.notes(loaded.recipe)):
        sink.warn(note)
    return loaded


def _changes(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return changes as the texts that stand after ``--set``; values become YAML."""
    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else [str(change) for change in overrides]
    from rlhfcli.files import strict_yaml

    values = {key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()}
    try:
        return [f"{key}={strict_yaml.inline(value)}" for key, value in values.items()]
    except TypeError as error:
        raise UserError(f"a change to the recipe cannot be read: {error}") from None
