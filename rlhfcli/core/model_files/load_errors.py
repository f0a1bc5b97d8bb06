"""Errors of loading with transformers, translated: its own messages say neither where nor what to do."""

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
    """Refuse a model whose weights have other shapes than its config says.

    Args:
        name: Folder or hub name.
        report: The loading info of transformers, with ``ignore_mismatched_sizes``; without it the names are lost.

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
    """Refuse a model in which transformers initialised weights at random because the folder lacks them.

    Args:
        name: Folder or hub name.
        missing: Names of the tensors that the folder lacks.

    Raises:
        ModelError: A tensor is missing.
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
    """Silence warnings within a ``with`` block, and the log of transformers from then on."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class explained:
    """Context manager that turns exceptions of transformers and of the Hub client into one clear error.

    Args:
        name: Folder or hub name, as the user gave it.
        what: The part that is loaded: ``model`` or ``tokenizer``.
    """

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        self.quiet = silenced()

    def __enter__(self) -> None:
        self.quiet.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.quiet.__exit__(kind, error, trace)
        if isinstance(error, Exception) and not is_out_of_memory(error):
            # with arbitrary files transformers raises arbitrary exceptions
            raise self.explain(error) from error

    def explain(self, error: Exception) -> ModelError:
        """Translate an exception.

        Args:
            error: Raised by transformers or the Hub client.

        Returns:
            The error to raise, which says what went wrong and what to do.
        """
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            return ModelError(PICKLE, where=self.name, hint=PICKLE_HINT)
        if self.name.startswith(PREFIX) or os.path.isdir(os.path.expanduser(self.name)):
            return ModelError(f"the {self.what} cannot be loaded: {first}", where=self.name)
        return ModelError(
            f"the {self.what} was not found locally or on the Hub",
            where=self.name,
            hint="Without a network, name a local folder: --set model.name=path/to/folder. "
            f"The Hub client reports: {first}",
        )
