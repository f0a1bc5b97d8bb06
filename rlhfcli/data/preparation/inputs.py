"""The inputs of prepared data: their fingerprint, and which of them differ from those of the data that is there.

Data whose fingerprint differs is prepared again. The code that prepares it is one of the inputs, so every new version
of rlhf has another fingerprint. For a training that was stopped the data may stay if nothing else differs: it resumes
with the data that it began with, whatever the version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli.data.sources.sources import Stream, code_identity
from rlhfcli.data.store.manifest import damage, read_manifest
from rlhfcli.data.store.unsealed import damage_of_unsealed
from rlhfcli.data.templates.template import BUILT_IN
from rlhfcli.errors import DataError
from rlhfcli.files.checksums import text_hash
from rlhfcli.files.redact import without_secrets
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.settings import differences, flatten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RECORD = "inputs"  # key of the manifest


@dataclass(frozen=True)
class Inputs:
    """Everything that prepared data is made from.

    Args:
        recipe: Its ``data`` and ``seed`` are used, and what of ``sft.loss_on`` matters here.
        tokenizer: The tokenizer, with its chat template.
        streams: The opened files of each source.
    """

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    streams: list[list[Stream]]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all inputs."""
        inputs = {
            "code": code_identity("rlhfcli.data"),
            "data": self.recipe.data.model_dump(),
            "seed": self.recipe.seed,
            "last_only": last_only(self.recipe),
            "template": self.tokenizer.chat_template,
            "tokenizer": self._tokenizer_identity,
            "contents": self._contents,
        }
        return text_hash(json.dumps(inputs, sort_keys=True))

    def manifest_entries(self) -> dict[str, Any]:
        """Return the entries of the manifest that say what the data was made from."""
        return {
            "fingerprint": self.fingerprint,
            "seed": self.recipe.seed,
            "data": without_secrets(self.recipe.data.model_dump()),
            "template": self.tokenizer.chat_template,
            _RECORD: {
                "last_only": last_only(self.recipe),
                "tokenizer": self._tokenizer_identity,
                "contents": self._contents,
            },
        }

    def differ_only_in_code(self, manifest: Mapping[str, Any]) -> bool:
        """Return whether data was made from the same inputs by other code, as far as its manifest records them.

        Args:
            manifest: The manifest of the data.
        """
        now = json.loads(json.dumps(self.manifest_entries()))  # as JSON reads it
        recorded = manifest.get(_RECORD, {})
        before, after = (flatten({"seed": of.get("seed"), "data": of.get("data") or {}}) for of in (manifest, now))
        return (
            not differences(before, after, "data")
            and (self.recipe.data.template == BUILT_IN or manifest.get("template") == now["template"])
            and all(recorded.get(key, now[_RECORD][key]) == now[_RECORD][key] for key in ("last_only", "tokenizer"))
            and ("contents" not in recorded or _files(recorded["contents"]) == _files(now[_RECORD]["contents"]))
        )

    @property
    def _contents(self) -> list[list[tuple[str, str]]]:
        """The name and identity of the files of each source."""
        return [[(stream.name, stream.identity) for stream in found] for found in self.streams]

    @cached_property
    def _tokenizer_identity(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return json.dumps([type(self.tokenizer).__name__, self.tokenizer.get_vocab()], sort_keys=True)
        # What was encoded last may have left these behind; they say nothing about the tokens.
        backend.no_truncation()
        backend.no_padding()
        return text_hash(backend.to_str())


@dataclass(frozen=True)
class Replacement:
    """Data that is about to be prepared in the place of other data.

    Args:
        fingerprint: The fingerprint of the data to be prepared.
        reason: Why the present data is not used, such as ``was made of other inputs``.
        present: The fingerprint of the present data if it is whole and differs only in the code that made it; else
            empty.
    """

    fingerprint: str
    reason: str
    present: str = ""


def last_only(recipe: Recipe) -> bool:
    """Return whether SFT learns one answer of each dialogue; other choices are made where the loss is computed.

    Args:
        recipe: The recipe.
    """
    return recipe.sft.loss_on == "last"


def present_fingerprint(folder: Path, inputs: Inputs) -> str:
    """Return the fingerprint of whole data that was made from the same inputs by another version; empty if it was not.

    Args:
        folder: The folder of the prepared data.
        inputs: The inputs as they are now.
    """
    try:
        manifest = read_manifest(folder, sealed=False)
    except (OSError, DataError):
        return ""
    broken = damage(folder) if "sum" in manifest else damage_of_unsealed(folder, manifest)
    return "" if broken or not inputs.differ_only_in_code(manifest) else str(manifest["fingerprint"])


def records_sources(folder: Path) -> bool:
    """Return whether the manifest of data records the content of its sources; that of older versions does not.

    Args:
        folder: The folder of the prepared data.
    """
    return _RECORD in read_manifest(folder, sealed=False)


def _files(contents: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """Return the identities of all files; generated rows are left out, since theirs is that of the code."""
    return [identity for found in contents for name, identity in found if not name.startswith(builtin.PREFIX)]
