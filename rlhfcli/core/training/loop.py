"""The training loop. It serves both phases and knows neither."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rlhfcli.core.checkpoints.best import best_by
from rlhfcli.core.checkpoints.checkpoint_files import Progress
from rlhfcli.core.checkpoints.manager import Checkpoints
from rlhfcli.core.engine.engine import Engine
from rlhfcli.core.hardware import process_peak_gb
from rlhfcli.core.parallel import out_of_memory
from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.core.parallel.ranks import from_first, highest, summed
from rlhfcli.core.result import Result, StepPlan, Window
from rlhfcli.core.training.measure import CutShort, sums
from rlhfcli.core.training.metrics_log import Journal
from rlhfcli.core.training.rank_batches import RankBatches, batches_of_rank, cut, divide, prefetch
from rlhfcli.core.training.step_plan import largest_micro_batch, plan_steps
from rlhfcli.errors import TrainingError
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import CheckpointSection, EvalSection, LoggingSection, PhaseSection


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of a recipe.

    Args:
        seed: Seed of the order of the examples, and of the choice of validation batches.
        phase: Section of the phase.
        eval: When to evaluate, and on how many batches.
        logging: How often a line of figures is written.
        checkpoint: Which evaluation counts as the best, and how long to wait for a better one.
        row_budget: Maximum number of tokens of a micro-batch.
    """

    seed: int
    phase: PhaseSection
    eval: EvalSection
    logging: LoggingSection
    checkpoint: CheckpointSection
    row_budget: int


class Loop:
    """Trains a task.

    Args:
        settings: What the loop needs of the recipe.
        tasks: The task on the training part, and on the validation part.
        journal: Takes the figures.
        sink: Shows the progress.
    """

    def __init__(self, settings: LoopSettings, tasks: tuple[Any, Any], journal: Journal, sink: Sink) -> None:
        self.settings = settings
        self.task, self.validation_task = tasks
        self.sink = sink
        self.journal = journal
        self.lengths: list[int] = self.task.lengths()
        self.steps = plan_steps(self.task, settings.phase, settings.seed)
        self.validation = self._validation_batches()
        self._began = 0.0  # of the monotonic clock; as if earlier sessions had come just before this one
        self._ready: Iterator[RankBatches] = iter(())  # this rank's micro-batches of each step to come

    def plan(self) -> StepPlan:
        """Return the arithmetic of the phase, for the header of the run."""
        tokens = [sum(self.lengths[row] for row in rows) for rows in self.steps]
        batch_size = self.settings.phase.batch_size
        return StepPlan(len(self.lengths), len(self.steps), batch_size, self._largest[0], sum(tokens))

    @cached_property
    def _largest(self) -> tuple[int, list[int]]:
        """The largest number of passes in a step, and the rows of the largest micro-batch of all."""
        return largest_micro_batch(self.task, self.steps, self.settings.row_budget, world_size())

    def explaining_memory(self, doing: str) -> AbstractContextManager[None]:
        """Explain an out-of-memory error of a block to the user; see ``out_of_memory``.

        Args:
            doing: What the block does, such as ``at step 3``.
        """
        return out_of_memory.explained(self.task.name, doing, self.settings.row_budget)

    def rehearse(self, module: torch.nn.Module, device: torch.device) -> None:
        """Run the largest micro-batch forward and backward before the training, so that what cannot work fails now.

        Args:
            module: The model, not partitioned.
            device: Where the model is.
        """
        self.task.step(module, self.task.collate(self._largest[1]).to(device))["loss"].backward()
        module.zero_grad(set_to_none=True)

    def rehearse_partitioned(self, engine: Engine) -> None:
        """Rehearse a model that only the engine can run; nothing is added to any gradient.

        Args:
            engine: Drives the model.
        """
        engine.train()
        engine.accumulate(self.task, self.task.collate(self._largest[1]), 1, zero_weighted=True)

    def run(self, engine: Engine, checkpoints: Checkpoints | None = None) -> Result:
        """Make all steps, or those that earlier sessions have left.

        Args:
            engine: Drives the model.
            checkpoints: Where to begin, and where to save; without them training begins at step 1 and saves nothing.

        Returns:
            The result of the training.

        Raises:
            TrainingError: A loss or a gradient is not finite; the error names the batch.
            OutputError: Metrics or a checkpoint cannot be written.
            Interrupted: The training ends early, after a step or in an evaluation.
        """
        start = (checkpoints.start if checkpoints else None) or Progress(0)
        self._began = time.perf_counter() - start.seconds
        with ExitStack() as stack:
            stack.enter_context(self.journal)
            result, window = self._result_so_far(start), Window(**start.window)  # type: ignore[arg-type]
            stack.callback(self.sink.end)
            self.sink.begin(self.task.name, len(self.steps), "steps", start.step)
            if not result.history:
                self._record(result, {"step": start.step} | self._evaluate(engine))
            self._ready = self._batches_of_steps(engine.device, start.step)
            with checkpoints.handling_signals() if checkpoints else nullcontext():
                self._make_steps(engine, checkpoints, window, result)
        result.seconds = self._seconds
        return result

    def _make_steps(self, engine: Engine, checkpoints: Checkpoints | None, window: Window, result: Result) -> None:
        """Make the steps after ``result.steps``, with evaluations and checkpoints, and evaluate at the end."""
        begun = result.steps
        if self._evaluates_after(begun) and not _evaluation_of(result):  # the last session was stopped meanwhile
            self._evaluate_or_end(engine, checkpoints, window, result)
        for number, rows in enumerate(self.steps[begun:], start=begun + 1):
            if self._patience_is_over(result):
                break
            window = self._one_step(engine, number, rows, window, result)
            if self._evaluates_after(number):
                self._evaluate_or_end(engine, checkpoints, window, result)
            if checkpoints:
                checkpoints.after_step(engine, self._progress(result, window), len(self.steps))
        result.evaluation = _evaluation_of(result) or self._evaluate_or_end(engine, checkpoints, window, result)

    def _one_step(self, engine: Engine, number: int, rows: Sequence[int], window: Window, result: Result) -> Window:
        """Make a step, and write its line where one is due; return the logging window to continue with."""
        with self.explaining_memory(f"at step {number:,}"):
            line = self._step(engine, number, rows, window)
        result.steps, result.loss = number, line["loss"]
        result.tokens += window.last_tokens
        line["tokens"] = result.tokens
        if number % self.settings.logging.every == 0 or number == len(self.steps):
            self._record(result, line | {"seconds": self._seconds})
            window = Window()
        self.sink.advance(number, line)
        return window

    def _step(self, engine: Engine, number: int, rows: Sequence[int], window: Window) -> dict[str, float]:
        began = time.perf_counter()
        engine.train()
        learning_rate = engine.learning_rate
        ready = next(self._ready)
        own = [sum(self.task.weight(batch) for batch in ready.batches), sum(b.layout.tokens for b in ready.batches)]
        weight, tokens = (round(total) for total in summed(own))
        loss = 0.0
        for batch in ready.batches:
            part = float(engine.accumulate(self.task, batch, weight)["loss"])
            if not math.isfinite(part):
                raise self._not_finite("loss", part, number, batch.rows)
            loss += part
        for batch in ready.padding_batches:
            engine.accumulate(self.task, batch, weight, zero_weighted=True)
        norm = engine.step()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, number, rows)
        window.add(summed([loss])[0], weight, tokens, time.perf_counter() - began)
        return {
            "step": number,
            "loss": window.loss / window.weight,
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "tokens_per_second": window.tokens / window.seconds,
            "memory_gb": highest([process_peak_gb()])[0],
        }

    def _not_finite(self, what: str, value: float, number: int, rows: Sequence[int]) -> TrainingError:
        shown = "; ".join(self.task.origin(row) for row in list(rows)[:8]) + (" …" if len(rows) > 8 else "")
        return TrainingError(
            f"the {what} is {value} at step {number}",
            where=f"{self.task.name}, in a batch of {len(rows)}: {shown}",
            hint="Lower the learning rate; where the computation is in bf16, try model.dtype=fp32. Nothing was saved.",
        )

    def _evaluates_after(self, step: int) -> bool:
        """Return whether an evaluation comes between this step and the next one."""
        return step % self.settings.eval.every == 0 and 0 < step < len(self.steps)

    def _patience_is_over(self, result: Result) -> bool:
        """Return whether an evaluation has just come and too many in a row were no better than the best one."""
        patience, criterion = self.settings.checkpoint.patience, best_by(self.settings.checkpoint, self.task)
        if patience is None or criterion is None or not self._evaluates_after(result.steps):
            return False
        if not from_first(criterion.evaluations_since(result.history) >= patience):  # others may see fewer lines
            return False
        last = "evaluation" if patience == 1 else f"{patience:,} evaluations"
        self.sink.note(
            f"the last {last} did not have the {criterion.description}: the training ends after step "
            f"{result.steps:,} of {len(self.steps):,} (checkpoint.patience)"
        )
        return True

    def _evaluate_or_end(
        self, engine: Engine, checkpoints: Checkpoints | None, window: Window, result: Result
    ) -> dict[str, float]:
        """Evaluate; a stop that is requested meanwhile ends the training; the next session begins with it."""
        try:
            figures = self._evaluate(engine, checkpoints.stop_requested if checkpoints else None)
        except CutShort:
            assert checkpoints is not None
            checkpoints.after_step(engine, self._progress(result, window), len(self.steps))
            raise
        self._record(result, {"step": result.steps} | figures)
        return figures

    def _evaluate(self, engine: Engine, stop_requested: Callable[[], bool] | None = None) -> dict[str, float]:
        engine.eval()
        with self.explaining_memory("in an evaluation"):
            totals, weight = sums(self.validation_task, engine.forward, self.validation, engine.device, stop_requested)
        *values, all_weight = summed([*totals.values(), weight])
        figures = self.validation_task.summary(dict(zip(totals, values, strict=True)), round(all_weight))
        return {f"eval_{name}": value for name, value in figures.items()}

    def _validation_batches(self) -> RankBatches:
        """Cut and lay out this rank's validation batches, once for all evaluations; no example counts twice."""
        task, lengths, settings = self.validation_task, self.validation_task.lengths(), self.settings
        parts = task.cut(range(len(lengths)), settings.row_budget)
        if settings.eval.batches != "all":
            parts = random.Random(settings.seed).sample(parts, min(settings.eval.batches, len(parts)))
        return batches_of_rank(task, divide(parts, lengths, world_size()), rank())

    def _batches_of_steps(self, device: torch.device, done: int) -> Iterator[RankBatches]:
        """Lay out this rank's micro-batches of each step after the first ``done``; for a GPU, in the background."""

        def lay_out(rows: Sequence[int]) -> RankBatches:
            shares = cut(self.task, rows, self.settings.row_budget, world_size())
            return batches_of_rank(self.task, shares, rank()).to(device)

        steps = self.steps[done:]
        return prefetch(lay_out, steps) if device.type == "cuda" else map(lay_out, steps)

    @property
    def _seconds(self) -> float:
        """Time spent so far, over all sessions."""
        return time.perf_counter() - self._began

    def _progress(self, result: Result, window: Window) -> Progress:
        figures = next((line for line in reversed(result.history) if "eval_loss" in line), {})
        return Progress(result.steps, result.tokens, self._seconds, dict(vars(window)), len(result.history), figures)

    def _result_so_far(self, start: Progress) -> Result:
        """Return the result of earlier sessions, with the journal truncated to their lines."""
        history = self.journal.begin(start.metrics, start.seconds)
        if len(history) < start.metrics:
            self.sink.note(f"{self.journal.file} has lost {start.metrics - len(history)} of its {start.metrics} lines")
        losses = [line["loss"] for line in history if "loss" in line]
        return Result(start.step, losses[-1] if losses else float("nan"), tokens=start.tokens, history=history)

    def _record(self, result: Result, line: dict[str, float]) -> None:
        result.history.append(line)
        self.journal.add(line)
        self.sink.advance(int(line["step"]), line)


def _evaluation_of(result: Result) -> dict[str, float]:
    """Return the figures of the model as it is now; none where it was not evaluated since its last step."""
    found = [line for line in result.history if "eval_loss" in line and line["step"] == result.steps]
    return {name: value for line in found[-1:] for name, value in line.items() if name.startswith("eval_")}
