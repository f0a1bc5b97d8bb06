"""What goes wrong when transformers loads a folder, in words of ours: its own say neither where nor what to do."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from rlhfcli.core.model_files.model_folder import PICKLE, PICKLE_HINT
from rlhfcli.errors import ModelError, is_out_of_memory
from rlhfcli.recipe.builtin import PREFIX
from rlhfcli.words import shortened


def check_shapes(name: str, report: dict[str, Any]) -> None:
    """Refuse a model some of whose weights have other shapes than its config says.

    Args:
        name: Folder or hub name.
        report: What transformers says of the loading, with ``ignore_mismatched_sizes``: else it hides which.

    Raises:
        ModelError: There are such weights.
    """
    differ = sorted((key, tuple(found), tuple(wanted)) for key, found, wanted in report["mismatched_keys"])
    if differ:
        key, found, wanted = differ[0]
        tensors = "1 tensor has" if len(differ) == 1 else f"{len(differ)} tensors have"
        raise ModelError(
            f"{tensors} another shape than config.json says: {key} is {found}, not {wanted}",
            where=name,
            hint="Does config.json belong to these weights?",
        )


def check_filled(name: str, missing: Iterable[str]) -> None:
    """Refuse a model that transformers filled up with random numbers where the folder has no weights.

    Raises:
        ModelError: Something is missing.
    """
    names = sorted(missing)
    if names:
        tensors = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
        shown = shortened(names)
        raise ModelError(
            f"the weights do not fill the model: {tensors} missing: {shown}",
            where=name,
            hint="Does config.json belong to these weights, and is this a causal language model (or a reward model)?",
        )


@contextmanager
def silenced() -> Iterator[None]:
    """Silence warnings inside the block, and remarks of transformers from here on."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class explained:
    """Turns what transformers and the hub client raise into one clear error.

    Args:
        name: Folder or hub name, as the user gave it.
        what: What is loaded from there.
    """

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        self.quiet = silenced()

    def __enter__(self) -> None:
        self.quiet.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.quiet.__exit__(kind, error, trace)
        if isinstance(error, Exception) and not is_out_of_memory(error):
            # a file with anything in it makes transformers raise anything
            raise self.explain(error) from error

    def explain(self, error: Exception) -> ModelError:
        """What went wrong, and what to do."""
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            return ModelError(PICKLE, where=self.name, hint=PICKLE_HINT)
        if self.name.startswith(PREFIX) or os.path.isdir(os.path.expanduser(self.name)):
            return ModelError(f"the {self.what} cannot be loaded: {first}", where=self.name)
        return ModelError(
            f"the {self.what} is neither a local folder nor to be had from the hub",
            where=self.name,
            hint="Without a network, name a local folder: --set model.name=path/to/folder. "
            f"What the hub client said: {first}",
        )
