"""The files of a reward model in DeepSpeed-Chat's own format: a pickle of tensors beside a language model's config.

``pytorch_model.bin`` has the body under ``rwtransformer.`` and the head as ``v_head.weight``.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rlhfcli.core.model_files.model_folder import read_pickle
from rlhfcli.errors import ModelError

WEIGHTS = "pytorch_model.bin"
HEAD = "v_head.weight"
BODY = "rwtransformer."


def is_checkpoint(folder: Path) -> bool:
    """Check whether a folder holds a reward model in this format, by the names of its tensors.

    Args:
        folder: Any folder.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / "config.json").is_file():
        return False
    return not any(folder.glob("*.safetensors")) and HEAD in read_weights(folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder.

    Args:
        folder: The folder of a model.

    Returns:
        The tensors under DeepSpeed-Chat's names, mapped from the file where its format allows it.

    Raises:
        ModelError: There are no weights, or the file holds something else.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"the folder has no {WEIGHTS}", where=str(folder))
    return read_pickle(folder / WEIGHTS)
