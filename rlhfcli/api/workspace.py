"""An opened run: its lock, its tokenizer and its prepared data. torch is imported only when a step needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rlhfcli import launch
from rlhfcli.errors import ModelError, OutputError
from rlhfcli.files import model_path, run_layout
from rlhfcli.files.run_layout import PHASES, SFT
from rlhfcli.progress import Sink

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhfcli.data.store.prepared import DataStore
    from rlhfcli.recipe.schema import Recipe
    from rlhfcli.runs.run_folder import Artifact, RunFolder


@dataclass(frozen=True)
class Workspace:
    """What one call works with.

    Args:
        recipe: All settings.
        run: The folder of the run.
        sink: Receives the progress.
        launch_options: Options that the command to resume a training needs again.
    """

    recipe: Recipe
    run: RunFolder
    sink: Sink
    launch_options: str = ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other command out of the run folder while a block writes in it; the first rank locks for all.

        Raises:
            OutputError: Another command is at work in it.
        """
        if not launch.first():
            yield
            return
        with self.run.locked(self.sink.note):
            yield

    def claim(self, artifact: Artifact, *, overwrite: bool = False, resume: bool = False) -> None:
        """Check that an artifact of the run may be written, before anything expensive.

        Args:
            artifact: The artifact that is going to be written.
            overwrite: Replace what an earlier command made.
            resume: Continue what an earlier command began.

        Raises:
            OutputError: It must not be written.
        """
        if launch.first():
            for key in self.run.claim(artifact, overwrite=overwrite, resume=resume):
                self.sink.warn(
                    f"{key} looks like a secret: {run_layout.recipe_file(self.run.path)} has *** in its place"
                )
        launch.together()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer with the recipe's template.

        Raises:
            ModelError: There is no such model, or its tokenizer cannot be used.
        """
        model = self.recipe.model
        model_path.check(model.name, adapters=True)
        with self.run.removed_on_failure():
            with self.sink.stage("starting torch and transformers"):
                from rlhfcli.core.families.config_checks import check_length
                from rlhfcli.core.models.loading import peek_config
                from rlhfcli.core.models.tokenizers import load_tokenizer
            tokenizer = load_tokenizer(model.name, self.recipe.data.template, trust_remote_code=model.trust_remote_code)
            config = peek_config(model.name, trust_remote_code=model.trust_remote_code)
            if config is not None and (beyond := check_length(config, self.recipe.data.max_length, model.name)):
                self.sink.note(beyond)
            return tokenizer

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer; it is loaded once."""
        return self.tokenizer

    def prepare(self, *, strict: bool = False, anew: bool = False, keep: bool = True) -> DataStore:
        """Read, check, split and encode the data, unless it is prepared already.

        Args:
            strict: Refuse data with a row that cannot be used.
            anew: Prepare it even if it is prepared already.
            keep: Refuse to replace data that a phase needs which was stopped.

        Raises:
            DataError: Nothing can be prepared, or there are such rows.
            OutputError: A phase that was stopped can only be resumed with the present data.
        """
        from rlhfcli.data.preparation import prepare as data
        from rlhfcli.runs import resumable

        def keep_present(new: data.Replacement) -> bool:
            if not keep:
                return False
            if new.present and any(resumable.needs_data(self.run.path, phase, new.present) for phase in PHASES):
                return True
            for phase in PHASES:
                resumable.refuse_new_data(self.run.path, phase, new.fingerprint, new.reason)
            return False

        tokenizer = self.tokenizer
        with self.run.removed_on_failure():
            prepared = launch.wait_for_first(
                lambda: data.prepare(
                    self.recipe, tokenizer, self.run.data, self.sink, anew=anew, keep_present=keep_present
                ),
                lambda: _prepared_by_first(self.run.data),
            )
        tokenizer.chat_template = prepared.manifest["template"]  # of data that was kept, perhaps an older version's
        if launch.first():
            self.run.record_done({"data": {"fingerprint": prepared.manifest["fingerprint"]}})
        if strict:
            prepared.refuse_invalid()
        return prepared

    def prepare_or_reuse(self, *, strict: bool, anew: bool) -> DataStore:
        """Return the prepared data, if possible without waiting for torch and transformers.

        Args:
            strict: Refuse data with a row that cannot be used.
            anew: Prepare it even if it is prepared already.

        Raises:
            DataError: Nothing can be prepared, or there are such rows.
            OutputError: A phase that was stopped can only be resumed with the present data.
        """
        from rlhfcli.data.preparation import prepare as data

        with self.run.removed_on_failure():
            ready = None if anew else data.ready(self.recipe, self.run.data)
        if ready is None:
            return self.prepare(strict=strict, anew=anew, keep=not anew)
        self.sink.note(f"prepared data: {self.run.data} is up to date")
        if strict:
            ready.refuse_invalid()
        return ready

    def check_start_of_reward(self) -> None:
        """Check that the model exists from which the reward model starts.

        Raises:
            ModelError: It starts from the fine-tuned model, which is not trained yet.
        """
        from rlhfcli.runs.commands import command_for

        if self.recipe.reward.init_from == SFT and not launch.of_first(lambda: self.run.finished(SFT)):
            raise ModelError(
                "the reward model starts from the fine-tuned model, which is not there yet",
                where=str(self.run.sft),
                hint=f"Run {command_for(self.recipe, 'rlhf sft')} first, or start from the base model: "
                "--set reward.init_from=base",
            )


def _prepared_by_first(folder: Path) -> DataStore:
    """Return the data that the first of several ranks has prepared."""
    from rlhfcli.data.store.prepared import DataStore

    try:
        return DataStore(folder)
    except FileNotFoundError:
        raise OutputError(
            "the first rank has prepared the data here, but this machine does not see it",
            where=str(folder),
            hint="Put output_dir on a disk that all machines share.",
        ) from None
