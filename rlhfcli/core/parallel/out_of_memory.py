"""Explain out-of-memory errors, the most common failure there is: where it was, and which setting to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.errors import OutOfMemory, is_out_of_memory


@contextmanager
def explained(phase: str, doing: str, row_budget: int) -> Iterator[None]:
    """Turn an out-of-memory error of torch into one for the user while this block runs; other errors pass.

    Args:
        phase: ``sft`` or ``reward``.
        doing: What the block does, such as ``at step 3``.
        row_budget: Maximum number of tokens of a micro-batch.

    Raises:
        OutOfMemory: In place of torch's error.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        more = "deepspeed.zero_stage=3" if world_size() > 1 else "deepspeed.offload=all"
        raise OutOfMemory(
            f"{doing}: {next(iter(str(error).strip().splitlines()), type(error).__name__)}",
            where=f"rank {rank()}, {phase}" if world_size() > 1 else phase,
            hint=f"Lower {phase}.micro_batch_tokens (now {row_budget:,}): rlhf bench --phase {phase} "
            "--find-size looks for the largest that fits. data.max_length cuts single long rows. Less is needed, too, "
            f"with {phase}.lora, model.gradient_checkpointing=true or {more}.",
        ) from error
