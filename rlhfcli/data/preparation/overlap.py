"""Find evaluation prompts that occur in the training data: a model must not be evaluated on what it was trained on.

Every turn of a trained dialogue counts as a prompt: with all turns before it, and alone. System turns, upper case and
white space do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.sources.evaluation_rows import read_pairs, read_prompts
from rlhfcli.data.store.split import normalise
from rlhfcli.data.store.writers import RowWriter
from rlhfcli.recipe.schema import EvalSection

PROMPTS = "training_prompts.arrow"
_SCHEMA = pa.schema([("key", pa.uint64()), ("origin", pa.string())])
_SHOWN = 10  # rows that are named


class PromptWriter(RowWriter):
    """Writes hashes of all prompts of the training data with their places.

    Args:
        folder: An existing folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / PROMPTS, _SCHEMA)

    def write(self, example: Dialogue | Preference, origin: Origin) -> None:
        """Add the prompts of a row.

        Args:
            example: A dialogue or a preference.
            origin: The place of its row.
        """
        for key in _questions(example):
            self.add((key, str(origin)))


def find_overlap(folder: Path, evaluation: EvalSection, seed: int) -> dict[str, Any]:
    """Look for the prompts of ``eval.prompts`` and ``eval.pairs`` in the training data of a store.

    Args:
        folder: The folder of the store.
        evaluation: The recipe's section.
        seed: The seed of generated sets.

    Returns:
        For each set that the recipe names: ``rows``, ``found`` (the number of its prompts that are trained on), and
        ``examples``, the places of some training rows with such a prompt.

    Raises:
        DataError: A set cannot be read.
    """
    sets: dict[str, list[Sequence[Turn]]] = {}
    for name, file in evaluation.prompt_sets.items():
        sets[f"eval.prompts.{name}".rstrip(".")] = [row.turns for row in read_prompts(file, seed)]
    for name, file in evaluation.pair_sets.items():
        sets[f"eval.pairs.{name}".rstrip(".")] = [pair.prompt for pair in read_pairs(file, seed)]
    return count_prompts(folder, sets)


def count_prompts(folder: Path, sets: Mapping[str, Sequence[Sequence[Turn]]]) -> dict[str, Any]:
    """Count the prompts of some sets that stand in the training data of a store.

    Args:
        folder: The store; without prepared data nothing is counted.
        sets: Prompts by the name of their set, at least one in each.

    Returns:
        As ``find_overlap``.
    """
    if not sets or not (folder / PROMPTS).is_file():
        return {}
    with pa.memory_map(str(folder / PROMPTS)) as source:
        trained = pa.ipc.open_file(source).read_all()
        keys = _numbers(trained.column("key"))
        return {name: _compare(prompts, keys, trained.column("origin")) for name, prompts in sets.items()}


def _numbers(column: Any) -> Any:
    """Return a column of ``uint64`` as an array; pyarrow's own conversion would import pandas, a third of a second."""
    chunks = [np.frombuffer(each.buffers()[1], np.uint64)[each.offset :][: len(each)] for each in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.uint64)


def _compare(prompts: Sequence[Sequence[Turn]], keys: Any, origins: Any) -> dict[str, Any]:
    wanted = np.array([list(_beginnings(prompt))[-1] for prompt in prompts], dtype=np.uint64)
    places = np.flatnonzero(np.isin(keys, wanted))
    named = dict.fromkeys(origins[int(place)].as_py() for place in places)
    return {
        "rows": len(wanted),
        "found": int(np.isin(wanted, keys[places]).sum()),
        "examples": list(islice(named, _SHOWN)),
    }


def _questions(example: Dialogue | Preference) -> list[int]:
    """Return a hash for each turn that was answered: with all turns before it, and for a user's turn also alone."""
    turns = example.prompt if isinstance(example, Preference) else example.turns[: example.last_answer]
    spoken = _spoken(turns)
    alone = [next(_beginnings([turn])) for turn in spoken if turn.role == "user"]
    whole = [key for key, turn in zip(_beginnings(spoken), spoken, strict=True) if turn.role != "assistant"]
    return list(dict.fromkeys(whole + alone))


def _beginnings(turns: Sequence[Turn]) -> Iterator[int]:
    """Yield a hash for each beginning of a conversation, in time linear in its length."""
    running = blake2b(digest_size=8)
    for turn in _spoken(turns) or turns:
        running.update(f"{normalise((turn,))}\x1e".encode("utf-8", "surrogatepass"))
        yield int.from_bytes(running.digest(), "little")


def _spoken(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.role != "system"]
