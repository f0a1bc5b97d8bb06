"""Out of memory, the most common failure there is, in words: where it was, and which setting to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.errors import OutOfMemory, is_out_of_memory


@contextmanager
def in_words(phase: str, doing: str, micro_batch_tokens: int) -> Iterator[None]:
    """Turn an error of torch that says so into one for the user; every other error passes.

    Args:
        phase: ``sft`` or ``reward``.
        doing: What is being done, as ``at step 3``.
        micro_batch_tokens: What is held at once.

    Raises:
        OutOfMemory: In place of torch's.
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
            hint=f"Lower {phase}.micro_batch_tokens (now {micro_batch_tokens:,}): rlhf bench --phase {phase} "
            "--find-size looks for the largest that fits. data.max_length cuts single long rows. Less is needed, too, "
            f"with {phase}.lora, model.gradient_checkpointing=true or {more}.",
        ) from error
