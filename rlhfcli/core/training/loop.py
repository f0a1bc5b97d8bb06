"""The training loop. It serves both phases and knows neither."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from pathlib import Path
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
from rlhfcli.core.training.journal import Journal
from rlhfcli.core.training.measure import CutShort, sums
from rlhfcli.core.training.rank_batches import Parts, RankBatches, batches_of_rank, cut, divide, prefetch
from rlhfcli.core.training.step_plan import largest_micro_batch, plan_steps
from rlhfcli.errors import TrainingError
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import PhaseSection, Recipe


class Loop:
    """Trains a task.

    Args:
        recipe: For the seed, evaluation and logging sections.
        phase: The phase's section.
        tasks: Training, and the same on the validation part.
        row_budget: Tokens that a micro-batch may have.
        folder: Where ``metrics.jsonl`` goes, and what else the recipe wants to be written.
        sink: Sees the progress.
    """

    def __init__(
        self, recipe: Recipe, phase: PhaseSection, tasks: tuple[Any, Any], row_budget: int, folder: Path, sink: Sink
    ) -> None:
        self.recipe = recipe
        self.phase = phase
        self.row_budget = row_budget
        self.task, self.validation_task = tasks
        self.sink = sink
        self.journal = Journal(recipe, folder)
        self.lengths: list[int] = self.task.lengths()
        self.steps = plan_steps(self.task, phase, recipe.seed)
        self.validation = self._validation_share()
        self._began = 0.0  # when this training did, earlier sittings counted
        self._ready: Iterator[RankBatches] = iter(())  # this rank's share of each step to come

    def schedule(self) -> StepPlan:
        """The arithmetic, for the run header."""
        tokens = [sum(self.lengths[row] for row in rows) for rows in self.steps]
        return StepPlan(len(self.lengths), len(self.steps), self.phase.batch_size, self._most[0], sum(tokens))

    @cached_property
    def _most(self) -> tuple[int, list[int]]:
        """The most passes of a step, and the largest micro-batch of all."""
        return largest_micro_batch(self.task, self.steps, self.row_budget, world_size())

    def in_memory(self, doing: str) -> AbstractContextManager[None]:
        """Let a block that finds too little memory end in words; see ``out_of_memory``."""
        return out_of_memory.in_words(self.task.name, doing, self.row_budget)

    def rehearse(self, module: torch.nn.Module, device: torch.device) -> None:
        """Run the largest micro-batch forward and backward before anything else, so that what cannot work fails now."""
        self.task.step(module, self.task.collate(self._most[1]).to(device))["loss"].backward()
        module.zero_grad(set_to_none=True)

    def rehearse_partitioned(self, engine: Engine) -> None:
        """The same with a model that only the engine can run; nothing is added to any gradient."""
        engine.train()
        engine.accumulate(self.task, self.task.collate(self._most[1]), 1, zero_weighted=True)

    def run(self, engine: Engine, checkpoints: Checkpoints | None = None) -> Result:
        """Make all steps, or those that an earlier sitting has left.

        Args:
            engine: Drives the model.
            checkpoints: Where to begin, and what is written on the way; without them nothing is.

        Returns:
            What came out.

        Raises:
            TrainingError: A loss or a gradient is not a finite number; the batch is named.
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
            self._ready = self._laid_out(engine.device, start.step)
            with checkpoints.handling_signals() if checkpoints else nullcontext():
                if self._evaluates_after(start.step) and not _evaluation_of(result):  # the last sitting ended meanwhile
                    self._evaluate_or_end(engine, checkpoints, window, result)
                for number, rows in enumerate(self.steps[start.step :], start=start.step + 1):
                    if self._patience_is_over(result):
                        break
                    window = self._one(engine, number, rows, window, result)
                    if self._evaluates_after(number):
                        self._evaluate_or_end(engine, checkpoints, window, result)
                    if checkpoints:
                        checkpoints.after_step(engine, self._progress(result, window), len(self.steps))
                result.evaluation = _evaluation_of(result) or self._evaluate_or_end(engine, checkpoints, window, result)
        result.seconds = self._seconds
        return result

    def _one(self, engine: Engine, number: int, rows: Sequence[int], window: Window, result: Result) -> Window:
        """One step, and its line where one is due."""
        with self.in_memory(f"at step {number:,}"):
            line = self._step(engine, number, rows, window)
        result.steps, result.loss = number, line["loss"]
        result.tokens += window.last_tokens
        line["tokens"] = result.tokens
        if number % self.recipe.logging.every == 0 or number == len(self.steps):
            self._record(result, line | {"seconds": self._seconds})
            window = Window()
        self.sink.advance(number, line)
        return window

    def _step(self, engine: Engine, number: int, rows: Sequence[int], window: Window) -> dict[str, float]:
        began = time.perf_counter()
        engine.train()
        learning_rate = engine.learning_rate
        share = next(self._ready)
        own = [sum(self.task.weight(batch) for batch in share.batches), sum(b.layout.tokens for b in share.batches)]
        weight, tokens = (round(total) for total in summed(own))
        loss = 0.0
        for batch in share.batches:
            part = float(engine.accumulate(self.task, batch, weight)["loss"])
            if not math.isfinite(part):
                raise self._not_finite("loss", part, number, batch.rows)
            loss += part
        for batch in share.padding_batches:
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
        """Whether an evaluation comes between this step and the next one."""
        return step % self.recipe.eval.every == 0 and 0 < step < len(self.steps)

    def _patience_is_over(self, result: Result) -> bool:
        """Whether the model was evaluated just now, and once more, or too often, without being better than before."""
        plan, best = self.recipe.checkpoint, best_by(self.recipe.checkpoint, self.task)
        if plan.patience is None or best is None or not self._evaluates_after(result.steps):
            return False
        if not from_first(best.evaluations_since(result.history) >= plan.patience):  # of which others may see less
            return False
        last = "evaluation" if plan.patience == 1 else f"{plan.patience:,} evaluations"
        self.sink.note(
            f"the last {last} did not have the {best.description}: the training ends after step {result.steps:,} of "
            f"{len(self.steps):,} (checkpoint.patience)"
        )
        return True

    def _evaluate_or_end(
        self, engine: Engine, checkpoints: Checkpoints | None, window: Window, result: Result
    ) -> dict[str, float]:
        """Evaluate; if the training is asked to end meanwhile, end it: the next sitting begins with this evaluation."""
        try:
            figures = self._evaluate(engine, checkpoints.stop_requested if checkpoints else None)
        except CutShort:
            assert checkpoints is not None
            checkpoints.after_step(engine, self._progress(result, window), len(self.steps))
            raise
        self._record(result, {"step": result.steps} | figures)
        return figures

    def _evaluate(self, engine: Engine, ends: Callable[[], bool] | None = None) -> dict[str, float]:
        engine.eval()
        with self.in_memory("in an evaluation"):
            totals, weight = sums(self.validation_task, engine.forward, self.validation, engine.device, ends)
        *values, all_weight = summed([*totals.values(), weight])
        figures = self.validation_task.summary(dict(zip(totals, values, strict=True)), round(all_weight))
        return {f"eval_{name}": value for name, value in figures.items()}

    def _validation_share(self) -> RankBatches:
        """Cut and laid out once; all evaluations use the same, and every example counts once over all ranks."""
        task, lengths = self.validation_task, self.validation_task.lengths()
        parts = task.cut(range(len(lengths)), self.row_budget)
        if self.recipe.eval.batches != "all":
            parts = random.Random(self.recipe.seed).sample(parts, min(self.recipe.eval.batches, len(parts)))
        return batches_of_rank(task, divide(parts, lengths, world_size()), rank())

    def _shares(self, rows: Sequence[int]) -> list[Parts]:
        """The micro-batches of a step, for each rank."""
        return cut(self.task, rows, self.row_budget, world_size())

    def _laid_out(self, device: torch.device, done: int) -> Iterator[RankBatches]:
        """What this rank computes in every step after the first ``done``."""

        def lay_out(rows: Sequence[int]) -> RankBatches:
            return batches_of_rank(self.task, self._shares(rows), rank()).to(device)

        steps = self.steps[done:]
        return prefetch(lay_out, steps) if device.type == "cuda" else map(lay_out, steps)

    @property
    def _seconds(self) -> float:
        """Time spent so far, over all sittings."""
        return time.perf_counter() - self._began

    def _progress(self, result: Result, window: Window) -> Progress:
        figures = next((line for line in reversed(result.history) if "eval_loss" in line), {})
        return Progress(result.steps, result.tokens, self._seconds, dict(vars(window)), len(result.history), figures)

    def _result_so_far(self, start: Progress) -> Result:
        """What the steps before this sitting gave, with the journal cut back to their lines."""
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
    """The figures of the model as it is now; empty where it was not evaluated since its last step."""
    found = [line for line in result.history if "eval_loss" in line and line["step"] == result.steps]
    return {name: value for line in found[-1:] for name, value in line.items() if name.startswith("eval_")}
