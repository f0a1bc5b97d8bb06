"""What the verbs do, one function per step; torch is imported only when a step needs it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli import console, launch
from rlhfcli.cli.shared.options import open_project
from rlhfcli.cli.shared.typed import machines, typed
from rlhfcli.errors import ModelError, OutputError
from rlhfcli.files import model_place, run_layout
from rlhfcli.files.run_layout import PHASES, Phase
from rlhfcli.progress import Sink
from rlhfcli.recipe.loader import Loaded
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs import resumable
from rlhfcli.runs.run_folder import Part, RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhfcli.cli.shared.training_options import TrainingOptions
    from rlhfcli.core.result import Result
    from rlhfcli.core.training.phases import PhaseInputs
    from rlhfcli.data.preparation.prepare import Prepared


@dataclass(frozen=True)
class Work:
    """An opened project.

    Args:
        loaded: The recipe, and why it was taken.
        run: Its folder.
        sink: Shows progress.
    """

    loaded: Loaded
    run: RunFolder
    sink: Sink

    @property
    def recipe(self) -> Recipe:
        """All settings."""
        return self.loaded.recipe


def begin(recipe: str | None, overrides: Sequence[str], *, offline: bool = False, verb: str = "") -> Work:
    """Load the recipe and get this process ready.

    Args:
        recipe: The ``--recipe`` option.
        overrides: The ``--set`` options.
        offline: The ``--offline`` option.
        verb: Which command: without ``--recipe`` it takes a run that has what it needs.

    Returns:
        The project.
    """
    launch.in_this_process(offline=offline)
    loaded = open_project(recipe, overrides, verb, say_all=True)
    launch.together()  # before the first rank writes anything: it might change what the others take to be the recipe
    return Work(loaded, RunFolder(loaded.recipe), console.TerminalSink())


@contextmanager
def holding(work: Work) -> Iterator[None]:
    """Keep every other command out of the run folder while a block writes in it; of several ranks the first does.

    Raises:
        OutputError: Another command is at work in it.
    """
    if not launch.first():
        yield
        return
    with work.run.held(console.message):
        yield


def claim(work: Work, part: Part, *, overwrite: bool, resume: bool = False) -> None:
    """Check that the run folder may be written, before anything expensive."""
    if launch.first():
        for key in work.run.open(part, overwrite=overwrite, resume=resume):
            console.message(
                f"{key} looks like a secret: {work.run.path}/recipe.yaml has *** in its place", style="yellow"
            )
    launch.together()


def nothing_left(work: Work, part: Phase, going: TrainingOptions) -> bool:
    """Whether a phase is finished and shall not be repeated; says so.

    Raises:
        OutputError: It was trained with other settings than those of this command.
    """
    if going.overwrite or launch.of_first(lambda: not work.run.finished(part) or bool(work.run.checkpoints(part))):
        return False
    work.run.refuse_other_settings(part)
    console.message(f"{part}: already done, nothing to do (--overwrite repeats it)")
    return True


def tokenizer_of(work: Work) -> PreTrainedTokenizerBase:
    """The base model's tokenizer with the recipe's template."""
    model = work.recipe.model
    model_place.check(model.name, adapters=True)
    with work.run.starting():
        with work.sink.stage("starting torch and transformers"):
            from rlhfcli.core.families.config_checks import check_length
            from rlhfcli.core.models.loading import load_tokenizer, peek_config
        tokenizer = load_tokenizer(model.name, work.recipe.data.template, trust_remote_code=model.trust_remote_code)
        config = peek_config(model.name, trust_remote_code=model.trust_remote_code)
        if config is not None and (beyond := check_length(config, work.recipe.data.max_length, model.name)):
            work.sink.note(beyond)
        return tokenizer


def prepare(
    work: Work, tokenizer: PreTrainedTokenizerBase, *, strict: bool = False, anew: bool = False, keep: bool = True
) -> Prepared:
    """Read, check, split and encode the data, or take what is already prepared.

    Args:
        work: The opened project.
        tokenizer: With its template.
        strict: A row that cannot be used is an error.
        anew: Make it even if it is there already.
        keep: Refuse to replace what a phase that was stopped needs.

    Returns:
        The store.

    Raises:
        DataError: Nothing can be prepared; or there are such rows.
        OutputError: A phase that was stopped goes on with the present data alone.
    """
    from rlhfcli.data.preparation import prepare as data

    def keep_present(new: data.Replacement) -> bool:
        if not keep:
            return False
        if new.present and any(resumable.needs_data(work.run.path, phase, new.present) for phase in PHASES):
            return True
        for phase in PHASES:
            resumable.refuse_new_data(work.run.path, phase, new.fingerprint, new.reason)
        return False

    with work.run.starting():
        prepared = launch.wait_for_first(
            lambda: data.prepare(
                work.recipe, tokenizer, work.run.data, work.sink, anew=anew, keep_present=keep_present
            ),
            lambda: _made_by_first(work.run.data),
        )
    tokenizer.chat_template = prepared.manifest["template"]  # of data that was kept, perhaps that of an older version
    if launch.first():
        work.run.note({"data": {"fingerprint": prepared.manifest["fingerprint"]}})
    if strict:
        prepared.refuse_faults()
    return prepared


def prepare_or_take(
    work: Work, *, strict: bool, anew: bool = False
) -> tuple[Prepared, Callable[[], PreTrainedTokenizerBase]]:
    """The prepared data, if possible without waiting for torch and transformers.

    Args:
        work: The opened project.
        strict: A row that cannot be used is an error.
        anew: Make it even if it is there already.

    Returns:
        The store, and what loads the tokenizer when it is wanted.
    """
    from rlhfcli.data.preparation import prepare as data

    tokenizer = functools.cache(lambda: tokenizer_of(work))
    with work.run.starting():
        found = None if anew else data.ready(work.recipe, work.run.data)
    if found is None:
        return prepare(work, tokenizer(), strict=strict, anew=anew, keep=not anew), tokenizer
    work.sink.note(f"prepared data: {work.run.data} is up to date")
    if strict:
        found.refuse_faults()
    return found, tokenizer


def _made_by_first(folder: Path) -> Prepared:
    """What the first of several ranks has prepared."""
    from rlhfcli.data.preparation.prepare import Prepared

    try:
        return Prepared(folder)
    except FileNotFoundError:
        raise OutputError(
            "the first rank has prepared the data here, but this machine does not see it",
            where=str(folder),
            hint="Put output_dir on a disk that all machines share.",
        ) from None


def overlap(work: Work, prepared: Prepared) -> dict[str, Any]:
    """Prompts of the evaluation sets that stand in the training data; see ``data.overlap``."""
    from rlhfcli.data.preparation.overlap import find_overlap

    with work.sink.stage("looking for evaluation prompts in the training data"):
        return find_overlap(prepared.folder, work.recipe.eval, work.recipe.seed)


def project_of(work: Work, going: TrainingOptions) -> PhaseInputs:
    """Everything that a phase needs."""
    if launch.first():
        with work.run.starting():
            from rlhfcli.core.training import trackers

            trackers.check(work.recipe)
    tokenizer = tokenizer_of(work)
    with work.run.starting():
        with work.sink.stage("importing the core"):
            from rlhfcli.core.families.config_checks import check_reward_form
            from rlhfcli.core.models.loading import language_config, peek_config
            from rlhfcli.core.parallel.process_group import check_accelerator
            from rlhfcli.core.training.phases import PhaseInputs
        check_accelerator()
        section = work.recipe.model  # looked at before the data is prepared, which may take long
        if going.verb != "reward":
            language_config(section.name, trust_remote_code=section.trust_remote_code)
        config = peek_config(section.name, trust_remote_code=section.trust_remote_code)
        if going.verb != "sft" and config is not None:
            check_reward_form(config, section.name)
    prepared = prepare(work, tokenizer, keep=not going.overwrite)
    launch.log_into(run_layout.logs(work.run.path))
    resume = typed(f"rlhf {going.verb} --resume{machines(sys.argv[1:])}", work.recipe, later=True)
    session = going.session(str(prepared.manifest["fingerprint"]), resume)
    return PhaseInputs(work.recipe, prepared, tokenizer, work.run.path, work.sink, session)


def look_ahead(work: Work, project: PhaseInputs) -> None:
    """Meet now what would end ``rlhf run`` after its training: no rows for a phase, or nothing to measure with.

    Raises:
        DataError: A phase has no rows, or ``eval.prompts`` or ``eval.pairs`` cannot be used.
    """
    from rlhfcli.data.sources.evaluation_rows import read_pairs, read_prompts

    project.prepared.dialogues("train")
    project.prepared.pairs("train")
    for file in work.recipe.eval.prompt_sets.values():
        read_prompts(file, work.recipe.seed)
    for file in work.recipe.eval.pair_sets.values():
        read_pairs(file, work.recipe.seed)


def train(work: Work, project: PhaseInputs, phase: str) -> Result:
    """Run a phase and note it in ``run.json``.

    Args:
        work: The opened project.
        project: What the phase needs.
        phase: ``sft`` or ``reward``.

    Returns:
        What came out.

    Raises:
        ModelError: The reward phase starts from the SFT model, which is not there.
    """
    from rlhfcli.core.training import phases

    if phase == "reward":
        refuse_no_start(work)
    if not launch.is_rank() and (gpus := launch.usable_gpus()) > 1:
        console.message(f"training on 1 of {gpus} GPUs; --gpus all takes them all")
    began = time.perf_counter()
    result = (phases.train_sft if phase == "sft" else phases.train_reward)(project)
    figures = {
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(max(time.perf_counter() - began, result.seconds), 1),  # earlier sittings count
    }
    if launch.first():
        work.run.note({phase: figures | result.evaluation | ({"best": result.best} if result.best else {})})
    launch.together()
    return result


def refuse_no_start(work: Work) -> None:
    """Check that there is what the reward model starts from.

    Raises:
        ModelError: It starts from the SFT model, which is not there.
    """
    if work.recipe.reward.init_from == "sft" and not launch.of_first(lambda: work.run.finished("sft")):
        raise ModelError(
            "the reward model starts from the fine-tuned model, which is not there yet",
            where=str(work.run.sft),
            hint=f"Run {typed('rlhf sft', work.recipe)} first, or start from the base model: "
            "--set reward.init_from=base",
        )


def next_steps(work: Work, *commands: str) -> None:
    """Print what to type next for this run."""
    console.next_steps([typed(command, work.recipe) for command in commands])
