"""The counts of prepared data as rows of text, for the tables of the terminal and of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlhfcli.data.dialogues.column_use import column_notes
from rlhfcli.data.store.counts import WRITES_DATE, raised_share
from rlhfcli.evaluation.tables import Column, Table
from rlhfcli.words import counted, percent, span

PARTS = {
    "sft_train": "SFT, training",
    "sft_validation": "SFT, validation",
    "reward_train": "reward, training",
    "reward_validation": "reward, validation",
}
_TRAINING = {"sft_train": "SFT", "reward_train": "reward"}
_BATCHINGS = {
    "max_length": "padded to max_length ({max_length:,})",
    "longest": "padded to a batch's longest",
    "sorted": "the same, sorted by length",
    "packed": "packed, prompts repeated",
    "tree": "each token once (rlhf)",
}


@dataclass(frozen=True)
class Histogram:
    """The distribution of the lengths of rows.

    Args:
        title: Its heading.
        bins: Label, number of rows, and that number relative to the fullest bin.
    """

    title: str
    bins: tuple[tuple[str, int, float], ...]


def tables(manifest: Mapping[str, Any]) -> list[Table]:
    """Put the counts of prepared data into tables.

    Args:
        manifest: Manifest of the prepared data.

    Returns:
        Sources, rows left out (where there are some), parts, lengths, and what padding would cost.
    """
    found = [_sources(manifest), _left_out(manifest), _parts(manifest), _lengths(manifest), _padding(manifest)]
    return [table for table in found if table is not None]


def warnings(manifest: Mapping[str, Any]) -> list[str]:
    """Warn of evaluation sets whose prompts occur in the training data.

    Args:
        manifest: Manifest of the prepared data, with ``overlap`` where it was searched for.

    Returns:
        One text for each set.
    """
    found = []
    for name, overlap in manifest.get("overlap", {}).items():
        if overlap["found"]:
            rows = f"{overlap['found']:,} of the {counted(overlap['rows'], 'row')} of {name}"
            verb = "has its prompt" if overlap["found"] == 1 else "have their prompts"
            places = "; ".join(overlap["examples"])
            found.append(f"{rows} {verb} in the training data, and may be answered by heart. Training rows: {places}")
    return found


def histograms(manifest: Mapping[str, Any]) -> list[Histogram]:
    """Return the lengths of the training rows.

    Args:
        manifest: Manifest of the prepared data.

    Returns:
        One histogram for each phase that has rows.
    """
    found = []
    for name, phase in _training(manifest).items():
        edges, counts = (manifest["tokens"][name]["histogram"][key] for key in ("edges", "counts"))
        labels = [_range(start, end) for start, end in pairwise(edges)]
        bins = zip(labels, counts, (count / max(counts) for count in counts), strict=True)
        found.append(Histogram(f"{phase}: tokens of a training row", tuple(bins)))
    return found


def _sources(manifest: Mapping[str, Any]) -> Table:
    names = ("rows read", "kept", "cut", "left out")
    columns = (Column("source"), Column("shape"), *(Column(name, number=True) for name in names))
    rows = []
    for source in manifest["sources"]:
        counts = (source["read"], source["kept"], source["cut"], sum(source["dropped"].values()))
        rows.append((source["path"], ", ".join(source["shapes"]), *(f"{count:,}" for count in counts)))
    return Table("Data", columns, tuple(rows), "\n".join(_about_sources(manifest)) or None)


def _about_sources(manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines below the table of sources: the meaning of cut, and the columns that are not read."""
    limit, several = manifest["data"]["max_length"], len(manifest["sources"]) > 1
    cut = sum(source["cut"] for source in manifest["sources"])
    lines = [f"cut: shortened to {limit:,} tokens."] if cut else []
    for source in manifest["sources"]:
        about = column_notes(source.get("columns_not_read", {}), source.get("carried", {}), manifest.get("ignored", ()))
        about += _divided(source)
        lines += [f"{source['path']}: {line}" if several else line for line in about]
    return lines + ([WRITES_DATE] if manifest.get("date") else [])


def _divided(source: Mapping[str, Any]) -> list[str]:
    """Describe rows that became several examples."""
    rows = source["sft"].get("divided", 0)
    many = "1 row of several answers became an example for each of them" if rows == 1 else (
        f"{rows:,} rows of several answers became an example for each of them"
    )  # fmt: skip
    return [f"{many}: the chat template writes an answer otherwise once another turn follows it"] if rows else []


def _left_out(manifest: Mapping[str, Any]) -> Table | None:
    """Count the rows that no phase uses, and those that one phase cannot use, by reason."""
    several = len(manifest["sources"]) > 1
    columns = [Column("rows", number=True), Column("phase"), Column("why", share=2)]
    rows: list[tuple[str, ...]] = []
    for source in manifest["sources"]:
        merged = source["reward"].get("merged", 0)
        same = {"comparisons of rankings whose answers cutting made the same": merged} if merged else {}
        reasons = {"all": source["dropped"], "SFT": source["sft"]["dropped"]}
        reasons["reward"] = source["reward"]["dropped"] | same
        for phase, counts in reasons.items():
            for reason, count in counts.items():
                rows.append((f"{count:,}", phase, reason, *((source["path"],) if several else ())))
    if several:
        columns.append(Column("source", share=1))
    note = "data/rejected_rows.jsonl names rows that cannot be used, with file, row and reason."
    return Table("Left out", tuple(columns), tuple(rows), note) if rows else None


def _parts(manifest: Mapping[str, Any]) -> Table:
    names = ("rows", "split", "pairs", "tokens", "answers", "longest")
    columns = (Column("part"), *(Column(name, number=True) for name in names))
    rows = []
    tokens = manifest["tokens"]
    for name, title in PARTS.items():
        part, phase = tokens[name], name.partition("_")[0]
        whole = sum(tokens[f"{phase}_{each}"]["rows"] for each in ("train", "validation"))
        figures = [f"{part['rows']:,}", _percent(part["rows"], whole)]
        figures += [f"{part['comparisons']:,}" if phase == "reward" else "", _short(part["tokens"])]
        figures += [_percent(part["answer"], part["tokens"]), f"{part['longest']:,}"]
        rows.append((title, *figures))
    note = (
        "tokens: of a preference, the prompt once and all answers; answers: the share of the tokens that the "
        "assistant says; longest: tokens of the longest row, of a preference with its longest answer."
    )
    note += _conversations(manifest)
    return Table("What the phases learn from", columns, tuple(rows), note)


def _conversations(manifest: Mapping[str, Any]) -> str:
    """Count the conversations for training and for validation; none is in both."""
    sides = []
    for phase in ("SFT", "reward"):
        train, held_out = (manifest["tokens"][f"{phase.lower()}_{part}"] for part in ("train", "validation"))
        if train["conversations"] + held_out["conversations"]:
            learnt = counted(train["conversations"], "conversation")
            sides.append(f"{phase} {learnt} to train on, {held_out['conversations']:,} to measure with")
    text = f" Rows that begin with the same question stay together: {'; '.join(sides)}." if sides else ""
    raised = manifest.get("raised_validation")
    return text + (f" {raised_share(manifest['data']['validation'], raised)}." if raised else "")


def _lengths(manifest: Mapping[str, Any]) -> Table | None:
    rows: list[tuple[str, ...]] = []
    columns: tuple[Column, ...] = ()
    for name, phase in _training(manifest).items():
        part = manifest["tokens"][name]
        of_phase = {"tokens": part["lengths"]["sequence"], "turns": part["turns"]["quantiles"]}
        of_phase |= {
            f"{each} tokens": part["lengths"][each] for each in ("prompt", "answer") if each in part["lengths"]
        }
        for what, quantiles in of_phase.items():
            columns = (Column("training rows"), *(Column(_quantile(key), number=True) for key in quantiles))
            rows.append((f"{phase}: {what}", *(_short(value, 10_000) for value in quantiles.values())))
    note = "50 %: half of the rows have at most this many. A preference is its prompt with the longest answer."
    return Table("Lengths", columns, tuple(rows), note) if rows else None


def _padding(manifest: Mapping[str, Any]) -> Table | None:
    phases = _training(manifest)
    if not phases:
        return None
    padding = {name: manifest["tokens"][name]["padding"] for name in phases}
    columns = [Column("training batches")]
    for phase in phases.values():
        columns += [Column(f"{phase} tokens", number=True), Column("factor", number=True)]
    rows = []
    for batching, title in _BATCHINGS.items():
        figures = [(_short(each[batching]["tokens"]), f"{each[batching]['factor']:.2f}") for each in padding.values()]
        name = title.format(max_length=manifest["data"]["max_length"])
        rows.append((name, *(figure for pair in figures for figure in pair)))
    says = [
        f"{phases[name]}: padded to their longest, batches of {each['batch_size']:,} rows compute "
        f"{each['longest']['factor']:.2f} times the tokens."
        for name, each in padding.items()
    ]
    return Table("What padding would cost", tuple(columns), tuple(rows), " ".join(says))


def _training(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {name: phase for name, phase in _TRAINING.items() if manifest["tokens"][name]["rows"]}


def _range(start: int, end: int) -> str:
    return span(f"{start:,}", f"{end - 1:,}")


def _quantile(key: str) -> str:
    return f"{key[1:]} %" if key.startswith("p") else key


def _short(number: int, exact_below: int = 10_000_000) -> str:
    """Format a number for a narrow table: a large one in thousands or millions."""
    if number < exact_below:
        return f"{number:,}"
    return f"{number / 1e3:,.1f} k" if number < 1_000_000 else f"{number / 1e6:,.1f} M"


def _percent(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"
