"""The estimates of ``--dry-run`` as rows of text, and the commands to type next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhfcli.evaluation.tables import Column, Table
from rlhfcli.words import counted, size

_LARGE = 2e9  # bytes from which the table is in gigabytes
_PARTS = {  # the rows, and the keys of their figures
    "parameters": "parameters",
    "+ gradients": "gradients",
    "+ optimizer": "optimizer",
    "+ activations": "activations",
    "+ other": "other",
    "= in all": "device",
}


def table(result: Mapping[str, Any]) -> Table:
    """Put the estimate of a phase into a table: one column per stage, which adds up from top to bottom.

    Args:
        result: As returned by ``dry_run``.
    """
    stages = result["stages"]
    unit = "GB" if max(stage["device"] for stage in stages) >= _LARGE else "MB"  # a small model would be all zeros
    columns = [Column(f"ZeRO stage, {unit}")]
    columns += [Column(_stage_name(stage["stage"], result["zero_stage"]), number=True) for stage in stages]
    rows = [(label, *(_amount(stage[part], unit) for stage in stages)) for label, part in _PARTS.items()]
    rows.append(("", *("fits" if stage["fits"] else "does not fit" for stage in stages)))
    title = f"{result['phase']}: memory of each {'GPU' if result['gpu'] else 'rank'}, estimated"
    return Table(title, tuple(columns), tuple(rows), " ".join(_notes(result)))


def _stage_name(stage: int, of_recipe: int) -> str:
    return f"{stage} (recipe)" if stage == of_recipe else str(stage)


def _amount(number: float, unit: str) -> str:
    return f"{number / 1e9:.2f}" if unit == "GB" else f"{number / 1e6:,.0f}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    batch, ranks = result["micro_batch"], result["ranks"]
    what = "label" if result["phase"] == "sft" else "score"
    computation = f"{result['precision']}, {result['layout']}"
    computation += ", recomputed" if result["gradient_checkpointing"] else ""
    source = "the largest of the data" if result["prepared"] else "assumed: the data is not prepared yet"
    frozen = result["parameters"] - result["trained"]
    where = "of the GPU" if result["gpu"] else "that is free" + (f" for each of {ranks} ranks" if ranks > 1 else "")
    return [
        f"{result['family']}: {result['parameters']:,} parameters = {result['trained']:,} trained + {frozen:,} frozen, "
        f"on {counted(ranks, 'rank')}.",
        f"Micro-batch: {counted(batch['tokens'], 'token')} of {counted(batch['examples'], 'example')}, "
        f"{counted(batch['read'], what)} ({computation}; {source}).",
        "Other: gradients on their way between ranks"
        + ("." if result["gpu"] else ", and the program itself with its libraries."),
        f"Memory {where}: {size(result['room'])}.",
        *_offloaded(result),
    ]


def _offloaded(result: Mapping[str, Any]) -> Iterator[str]:
    moved = [stage for stage in result["stages"] if stage["host"]]
    if moved:
        sizes = ", ".join(f"{size(stage['host'])} at stage {stage['stage']}" for stage in moved)
        yield f"Offloaded to the host's memory, for each rank besides: {sizes}."
    for stage in result["stages"]:
        if stage["files"]:
            yield f"Of stage {stage['stage']}, {size(stage['files'])} lie in files."


def next_steps(command: str, results: Sequence[Mapping[str, Any]]) -> list[str | tuple[str, str]]:
    """Suggest the stage that fits, or settings that need less memory.

    Args:
        command: The command, without ``--dry-run``.
        results: Estimates of its phases.

    Returns:
        Commands with their descriptions.
    """
    fitting = [
        stages[0]["stage"]
        for stages in zip(*(result["stages"] for result in results), strict=True)
        if all(stage["fits"] for stage in stages)
    ]
    if results[0]["zero_stage"] in fitting:
        return [(command, "the recipe's stage fits")]
    if fitting:
        return [(f"{command} --set deepspeed.zero_stage={fitting[0]}", "the first stage that fits")]
    steps: list[str | tuple[str, str]] = []
    for result in results:
        smaller = f"{result['phase']}.micro_batch_tokens={max(8, result['micro_batch']['tokens'] // 2)}"
        steps.append((f"{command} --dry-run --set {smaller}", "smaller micro-batches"))
        if result["trained"] == result["parameters"]:
            steps.append((f"{command} --dry-run --set {result['phase']}.lora.rank=16", "train adapters only"))
    if not results[0]["gradient_checkpointing"]:
        steps.append((f"{command} --dry-run --set model.gradient_checkpointing=true", "keep fewer activations"))
    return steps
