"""The figures of ``rlhf bench`` as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhfcli.evaluation.tables import Column, Table
from rlhfcli.words import percent, span

_PARTS = {"passes": "forward and backward", "optimizer": "optimizer", "batches": "building batches"}
_USEFUL = (
    "useful work: 2 operations per weight and token for the forward pass, 2 or 4 for the backward pass; each token "
    "once, no padding, no attention. peak: the fastest matrix multiplication of the model's own sizes on this machine."
)


def tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Put the figures of each phase into tables.

    Args:
        results: As returned by ``bench_phase``.

    Returns:
        The figures side by side, and the sizes of micro-batches that were tried.
    """
    columns = (Column(""), *(Column(f"{result['phase']}, {result['precision']}", number=True) for result in results))
    rows: list[tuple[str, ...]] = [
        ("tokens/s", *(f"{result['tokens_per_second']:,.0f}" for result in results)),
        ("  slowest and fastest step", *(_range(result["tokens_per_second_range"]) for result in results)),
        ("examples/s", *(f"{result['examples_per_second']:,.1f}" for result in results)),
        ("seconds per step", *(f"{result['seconds_per_step']:.2f}" for result in results)),
        *((f"  {name}", *(percent(r["shares"][part], 0) for r in results)) for part, name in _PARTS.items()),
        ("useful work, GFLOP/s", *(f"{result['useful_gflops']:,.0f}" for result in results)),
        ("peak, GFLOP/s", *(f"{result['peak_gflops']:,.0f}" for result in results)),
        ("share of the peak", *(percent(result["share_of_peak"], 0) for result in results)),
        ("most memory, GB", *(f"{result['memory_gb']:.2f}" for result in results)),
        ("layout", *(result["layout"] for result in results)),
    ]
    limits = " ".join(f"{result['phase']} is limited by: {result['limit']}." for result in results)
    tried = [_trials(result) for result in results if result["trials"]]
    return [Table("Training steps", columns, tuple(rows), f"{limits} {_USEFUL}"), *tried]


def _trials(result: Mapping[str, Any]) -> Table:
    names = ("micro_batch_tokens", "tokens in it", "tokens/s", "most memory, GB")
    rows = tuple((f"{trial['tokens']:,}", f"{trial['used']:,}", *_outcome(trial)) for trial in result["trials"])
    return Table(f"{result['phase']}: sizes of a micro-batch", tuple(Column(name, number=True) for name in names), rows)


def _outcome(trial: Mapping[str, Any]) -> tuple[str, str]:
    if trial["memory_gb"] is None:
        return "-", "does not fit"
    return f"{trial['tokens_per_second']:,.0f}", f"{trial['memory_gb']:.2f}"


def _range(values: Sequence[float]) -> str:
    return span(f"{values[0]:,.0f}", f"{values[1]:,.0f}")
