"""``rlhf.json`` beside the adapter of a reward model: settings of the model's config that PEFT's format lacks.

It says how the reward is read (pooling), and the mean and the standard deviation of the validation answers' rewards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfcli.core.model_files.model_folder import json_or_empty
from rlhfcli.errors import ModelError

FILE = "rlhf.json"


@dataclass(frozen=True)
class RewardMetadata:
    """How the rewards of a model are read, and their distribution.

    Args:
        pooling: ``last``, ``mean`` or ``tokenwise``.
        mean: Mean reward of the validation answers.
        std: Standard deviation of these rewards.
    """

    pooling: str
    mean: float
    std: float


def write(config: Any, folder: Path) -> None:
    """Write the metadata of a reward model beside its adapter.

    Args:
        config: The config of the reward model.
        folder: The folder of the adapter.
    """
    metadata = {"mean": config.mean, "std": config.std, **config.rlhf}
    (folder / FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> RewardMetadata | None:
    """Read the metadata beside an adapter.

    Args:
        folder: The folder of the adapter.

    Returns:
        The metadata; ``None`` where there is none, as beside PEFT's own adapters.

    Raises:
        ModelError: The file is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    match json_or_empty(folder / FILE):
        case {"pooling": "last" | "mean" | "tokenwise" as pooling, "mean": float(mean), "std": float(std)}:
            return RewardMetadata(pooling, mean, std)
    raise ModelError(
        "it does not say how rewards are read",
        where=str(folder / FILE),
        hint="Export the adapter again: rlhf export reward FOLDER --format adapter.",
    )
