"""Prompts of the evaluation sets that stand in the training data: what is measured with must not be learnt.

Prompts are compared as ``split.prompt_key`` writes them, so upper case and white space do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhfcli.data.dialogue import Origin
from rlhfcli.data.evaluation_rows import read_pairs, read_prompts
from rlhfcli.data.split import normalised, prompt_key
from rlhfcli.data.store import RowWriter
from rlhfcli.recipe.schema import Eval

PROMPTS = "training_prompts.arrow"
_SCHEMA = pa.schema([("key", pa.uint64()), ("origin", pa.string())])
_SHOWN = 10  # rows that are named


class PromptWriter(RowWriter):
    """Writes down a hash of every training prompt with its place.

    Args:
        folder: Exists.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / PROMPTS, _SCHEMA)

    def write(self, key: str, origin: Origin) -> None:
        """Add a prompt.

        Args:
            key: From ``prompt_key``.
            origin: Where its row stands.
        """
        self.add((_hash(key), str(origin)))


def find_overlap(folder: Path, evaluation: Eval, seed: int) -> dict[str, Any]:
    """Look for the prompts of ``eval.prompts`` and ``eval.pairs`` in the training data of a store.

    Args:
        folder: The store.
        evaluation: The recipe's section.
        seed: Of the generated sets.

    Returns:
        For each set that the recipe names: ``rows``, ``found`` (how many of their prompts are trained on), and
        ``examples``, the places of some training rows with such a prompt.

    Raises:
        DataError: A set cannot be read.
    """
    sets: dict[str, list[str]] = {}
    if evaluation.prompts:
        sets["eval.prompts"] = [normalised(row.turns) for row in read_prompts(evaluation.prompts, seed)]
    if evaluation.pairs:
        sets["eval.pairs"] = [prompt_key(pair) for pair in read_pairs(evaluation.pairs, seed)]
    if not sets:
        return {}
    with pa.memory_map(str(folder / PROMPTS)) as source:
        trained = pa.ipc.open_file(source).read_all()
        keys = trained.column("key").to_numpy()
        return {name: _compare(prompts, keys, trained.column("origin")) for name, prompts in sets.items()}


def _compare(prompts: Iterable[str], keys: Any, origins: Any) -> dict[str, Any]:
    wanted = np.array([_hash(prompt) for prompt in prompts], dtype=np.uint64)
    places = np.flatnonzero(np.isin(keys, wanted))
    return {
        "rows": len(wanted),
        "found": int(np.isin(wanted, keys[places]).sum()),
        "examples": [origins[int(place)].as_py() for place in places[:_SHOWN]],
    }


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
