"""Adapters and exported folders with truncated, changed or missing files: a clear error, never a wrong result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from rlhfcli.core.models import deepspeed_chat, lora_files
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.errors import RlhfError
from rlhfcli.files.run_layout import SUMS
from tests.core import families, folders

SEQUENCES = families.token_ids([5, 12])
_IDS = torch.tensor(SEQUENCES[:1])


def _model(folder: Path) -> Tensor:
    load_tokenizer(str(folder))
    return load_reward_model(folder).rewards(SEQUENCES)


def _adapter(folder: Path) -> Tensor:
    model = families.classifier("opt")
    lora_files.load_adapter(model, folder)
    with torch.no_grad():
        return model(_IDS).logits  # type: ignore[no-any-return]


def _deepspeed_chat(folder: Path) -> Tensor:
    return deepspeed_chat.load(folder)[0].rewards(SEQUENCES)


LOADERS: dict[str, Callable[[Path], Tensor]] = {
    "model": _model,
    "adapter": _adapter,
    "deepspeed-chat": _deepspeed_chat,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """Save a complete folder of each kind, with its outputs."""
    made = tmp_path_factory.mktemp("whole")
    final, _ = folders.save("opt", made, reward=True, shard_size="40KB")
    shutil.move(final / "adapter", made / "adapter")
    (made / "deepspeed-chat").mkdir()
    deepspeed_chat.save(load_reward_model(final), folders.tokenizer(), made / "deepspeed-chat", "")
    places = {"model": final, "adapter": made / "adapter", "deepspeed-chat": made / "deepspeed-chat"}
    return {kind: (place, LOADERS[kind](place)) for kind, place in places.items()}


@contextmanager
def copy(folder: Path, *, sums: bool) -> Iterator[Path]:
    """Copy a folder to damage it; without checksums it looks like one of another program."""
    with TemporaryDirectory() as place:
        target = Path(place) / "copy"
        shutil.copytree(folder, target)
        if not sums:
            (target / SUMS).unlink()
        yield target


def break_bytes(file: Path, how: str, where: float, what: int) -> None:
    content = file.read_bytes()
    at = int(where * (len(content) - 1))
    if not content and how == "change":  # an empty file has no byte to change
        how = "insert"
    if how == "remove":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:at])
    elif how == "change":
        file.write_bytes(content[:at] + bytes([content[at] ^ what]) + content[at + 1 :])
    elif how == "insert":
        file.write_bytes(content[:at] + bytes([what]) + content[at:])
    else:
        file.write_bytes(bytes([what]) * 100)


BREAKS = st.tuples(
    st.sampled_from(["remove", "cut", "change", "insert", "replace"]), st.floats(0, 1), st.integers(1, 255)
)


def changed_bytes(whole: dict[str, tuple[Path, Tensor]], kind: str, file: int, how: tuple[str, float, int]) -> None:
    """With checksums the result is the one that was saved, or there is an error."""
    folder, expected = whole[kind]
    with copy(folder, sums=True) as broken:
        files = sorted(path for path in broken.iterdir() if path.name != "README.md")
        break_bytes(files[file % len(files)], *how)
        try:
            found = LOADERS[kind](broken)
        except RlhfError as error:
            assert error.where and error.what
            return
        assert torch.equal(found, expected)


def strangers_bytes(whole: dict[str, tuple[Path, Tensor]], kind: str, file: int, how: tuple[str, float, int]) -> None:
    """Without checksums the right result is unknown, but there is a result or one clear error."""
    folder, expected = whole[kind]
    with copy(folder, sums=False) as broken:
        files = sorted(path for path in broken.iterdir() if path.name != "README.md")
        break_bytes(files[file % len(files)], *how)
        try:
            assert LOADERS[kind](broken).shape == expected.shape
        except RlhfError as error:
            assert error.where and error.what


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**20), st.floats(), st.text(max_size=5))
VALUES = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3), st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2))
KEYS = ["r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "modules_to_save", "bias", "peft_type"]
KEYS += ["init_lora_weights", "rank_pattern", "use_dora", "fan_in_fan_out", "task_type", "base_model_name_or_path"]


def strange_config(whole: dict[str, tuple[Path, Tensor]], key: str, value: Any) -> None:
    """An invalid value in an adapter's configuration is refused, or does not change the scores."""
    folder, expected = whole["adapter"]
    scale = {"lora_alpha", "use_rslora"}  # these are meant to change the scores
    with copy(folder, sums=False) as broken:
        config = json.loads((broken / ADAPTER_CONFIG).read_text()) | {key: value}
        (broken / ADAPTER_CONFIG).write_text(json.dumps(config))
        try:
            found = _adapter(broken)
        except RlhfError as error:
            assert error.where and error.what
            return
        assert torch.equal(found, expected) or (key in scale and found.isfinite().all()), (key, value)


SHAPES = st.lists(st.integers(0, 40), max_size=3)


def strange_tensor(whole: dict[str, tuple[Path, Tensor]], number: int, shape: list[int], fill: float | None) -> None:
    """A tensor of another shape or with NaN, or a missing one, is an error."""
    with copy(whole["adapter"][0], sums=False) as broken:
        tensors = load_file(broken / ADAPTER_WEIGHTS)
        key = sorted(tensors)[number % len(tensors)]
        if fill is None:
            del tensors[key]
        else:
            same = tensors[key].shape == torch.Size(shape)
            tensors[key] = torch.full(shape, fill)
        save_file(tensors, broken / ADAPTER_WEIGHTS)
        if fill is not None and same and torch.isfinite(torch.tensor(fill)):
            return
        with pytest.raises(RlhfError):
            _adapter(broken)


FILLS = st.one_of(st.none(), st.sampled_from([0.0, 1.0, float("nan"), float("inf")]))
CASES: list[tuple[Callable[..., None], dict[str, Any], int]] = [
    (changed_bytes, {"kind": st.sampled_from(list(LOADERS)), "file": st.integers(0, 20), "how": BREAKS}, 40),
    (strangers_bytes, {"kind": st.sampled_from(list(LOADERS)), "file": st.integers(0, 20), "how": BREAKS}, 30),
    (strange_config, {"key": st.sampled_from(KEYS), "value": VALUES}, 30),
    (strange_tensor, {"number": st.integers(0, 40), "shape": SHAPES, "fill": FILLS}, 20),
]
IDS = [case[0].__name__ for case in CASES]


def hunt(whole: dict[str, tuple[Path, Tensor]], case: int, times: int) -> None:
    look, strategies, share = CASES[case]
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    often = settings(
        max_examples=share * times,
        deadline=None,
        suppress_health_check=checks,
        database=None,
        derandomize=times == 1,  # the default suite is the same every time
    )
    given(**strategies)(often(lambda **drawn: look(whole, **drawn)))()


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_broken_folders(whole: dict[str, tuple[Path, Tensor]], case: int) -> None:
    hunt(whole, case, 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_many_broken_folders(whole: dict[str, tuple[Path, Tensor]], case: int) -> None:
    hunt(whole, case, 10)
