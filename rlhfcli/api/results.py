"""What the methods of ``Project`` return: figures and folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli.files.run_layout import REWARD, SFT, Phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhfcli.core.publish.conformance import ConformanceReport
    from rlhfcli.data.store.prepared import DataStore


@dataclass(frozen=True)
class PreparedData:
    """The data that a run trains and validates on.

    Args:
        folder: Token ids, ``manifest.json`` and ``rejected_rows.jsonl``.
        manifest: All counts, by source and part; ``overlap`` counts evaluation prompts that occur in the training data.
        store: The examples, by part.
        load_tokenizer: Loads, once, the tokenizer that the examples were encoded with.
    """

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)
    store: DataStore = field(repr=False)
    load_tokenizer: Callable[[], PreTrainedTokenizerBase] = field(repr=False)


@dataclass(frozen=True)
class PhaseResult:
    """A trained model and how its training went.

    Args:
        phase: ``sft`` or ``reward``.
        folder: The model, a plain transformers folder.
        steps: Optimizer steps made.
        tokens: Tokens trained on.
        seconds: Wall time of all steps and evaluations.
        validation: Figures on the validation data, such as ``eval_loss`` and ``eval_accuracy``: after the last step, or
            after the best one where the recipe saves that.
        best: Where the recipe saves the best step: ``step``, and ``by``, the criterion.
        history: The lines of ``metrics.jsonl``.
        trained: Whether this call trained; false if the phase was finished before.
    """

    phase: Phase
    folder: Path
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    validation: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = field(default=(), repr=False)
    trained: bool = True

    def summary(self) -> str:
        """Return steps, seconds, figures and folder as one line."""
        name = "nll" if self.phase == REWARD else "loss"  # a reward model's loss holds more, see RewardTask
        figures = f"validation {name} {self._change(f'eval_{name}')}"
        if self.phase == REWARD:
            figures += f", ranking accuracy {self._change('eval_accuracy')}"
        if self.best:
            figures += f" (after step {self.best['step']:,}: {self.best['by']})"
        return f"{self.phase}: {self.steps:,} steps in {self.seconds:.0f} s, {figures}. Saved: {self.folder}"

    def _change(self, name: str) -> str:
        """Return a figure before and after training; a history, or a best step, of an older version may lack it."""
        complete = bool(self.history) and self.history[0].get("step") == 0  # else its first lines were lost
        before, after = self.history[0].get(name) if complete else None, self.validation.get(name)
        if after is None:
            return "not known"
        return f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}"


@dataclass(frozen=True)
class Evaluation:
    """Figures of the models that a run has trained.

    Args:
        folder: Holds them as ``sft.json`` and ``reward.json``.
        sft: Perplexity, exact match, samples … of the base and the fine-tuned model; ``None`` if it is not trained.
        reward: Ranking accuracy, its interval and baselines, the verdict …; ``None`` if it is not trained.
    """

    folder: Path
    sft: Mapping[str, Any] | None = field(default=None, repr=False)
    reward: Mapping[str, Any] | None = field(default=None, repr=False)

    def by_phase(self) -> dict[str, Mapping[str, Any]]:
        """Return the figures of each model that is trained."""
        found = {SFT: self.sft, REWARD: self.reward}
        return {phase: figures for phase, figures in found.items() if figures is not None}


@dataclass(frozen=True)
class RunResult:
    """Both phases of a run and their evaluation.

    Args:
        sft: Phase 1.
        reward: Phase 2.
        evaluation: Figures of both models; ``None`` on all ranks but the first.
    """

    sft: PhaseResult
    reward: PhaseResult
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Exported:
    """A model that other programs can load.

    Args:
        folder: The export.
        report: What other programs compute from it, beside ours; ``None`` if that was not checked.
    """

    folder: Path
    report: ConformanceReport | None = field(default=None, repr=False)
