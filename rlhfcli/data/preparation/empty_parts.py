"""Parts of the prepared data without a row: raise the validation share where that helps, and report them if not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlhfcli.data.store.counts import DUPLICATES, SourceCount
from rlhfcli.data.store.split import PARTS, Part
from rlhfcli.data.store.statistics import PartStatistics
from rlhfcli.errors import DataError
from rlhfcli.files.run_layout import PHASES
from rlhfcli.recipe.schema import DataSection

_ONE_CONVERSATION = (
    "All of them begin with the same question, so they are one conversation, which must not stand on two sides"
)
_ONE_CONVERSATION_HINT = (
    "Give rows of other conversations. Or --set data.split_by=row: validation then measures unseen answers to a "
    "question that is trained on."
)


def missing_share(statistics: Mapping[str, PartStatistics]) -> float | None:
    """Return the validation share that gives every phase a validation part.

    Args:
        statistics: The statistics of each phase and part, such as ``sft_train``.

    Returns:
        The share; ``None`` if each phase has a validation part, or has fewer than two conversations to divide.
    """
    trained = [
        statistics[f"{phase}_train"].conversations
        for phase in PHASES
        if not statistics[f"{phase}_validation"].conversations
    ]
    lowest = [min(places) for places in trained if len(places) > 1]
    return math.nextafter(max(lowest), 1) if lowest else None


def check_parts(data: DataSection, counts: Sequence[SourceCount], statistics: Mapping[str, PartStatistics]) -> None:
    """Check that no part of a phase that was given rows is empty.

    Args:
        data: The recipe's section.
        counts: The counts of each source.
        statistics: The statistics of each phase and part.

    Raises:
        DataError: A part is empty.
    """
    for phase in PHASES:
        sizes = {part: sum(count.phases[phase].parts[part] for count in counts) for part in PARTS}
        lost = sum(count.phases[phase].lost + count.phases[phase].dropped.total() for count in counts)
        if not any(sizes.values()) and not lost:
            continue  # nobody gave this phase anything; it says so when it is asked for
        for part, size in sizes.items():
            if size == 0:
                lost += sum(count.dropped[reason] for count in counts for reason in DUPLICATES)
                conversations = sum(len(statistics[f"{phase}_{each}"].conversations) for each in PARTS)
                what = f"the {part} part of the {phase} phase is empty: {{}} can be used, {lost} cannot"
                raise _empty(what, sizes, conversations, data.validation)
    if not any(count.kept for count in counts):
        raise DataError("no row is left for any phase", where="data.sources", hint="Check weight, limit and phase.")


def _empty(what: str, sizes: Mapping[Part, int], conversations: int, share: float) -> DataError:
    usable = sum(sizes.values())
    what = what.format("1 row" if usable == 1 else f"{usable} rows")
    if not usable:
        hint = "Give other rows, or another data.max_length or data.truncation."
        return DataError(what, where="data.sources", hint=hint)
    if usable == 1:
        what += "; one row cannot be learnt and measured with"
        return DataError(what, where="data.sources", hint="Give more rows.")
    if conversations == 1:
        return DataError(f"{what}. {_ONE_CONVERSATION}", where="data.sources", hint=_ONE_CONVERSATION_HINT)
    better = share / 2 if sizes["train"] == 0 else min(0.5, max(2 * share, 5 / usable))
    return DataError(
        f"{what}, and a share of {share} of the conversations is for validation",
        where="data.validation",
        hint=f"Give more rows, or another share: --set data.validation={better:.2g}",
    )
