"""An adapter's folder in the place of a model's gives the same outputs as the merged model beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlhfcli.chat.session import ChatOptions, ChatSession
from rlhfcli.core.model_files.reward_metadata import FILE as REWARDS
from rlhfcli.core.models import any_format, lora
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.errors import ModelError
from rlhfcli.files import checksums
from rlhfcli.recipe.schema import ChatSection
from tests.core import families, folders

IDS = [[2, 5, 9, 17], [2, 40, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("family", families.SIX)
def test_as_a_language_model(family: str, tmp_path: Path) -> None:
    final = folders.save(family, tmp_path, reward=False)[0]
    merged, found = load_causal_lm(str(final)), any_format.load_language_model(str(final / "adapter"))
    assert not list(lora.adapted_layers(found))
    with torch.no_grad():
        for ids in IDS:
            theirs, ours = (model(torch.tensor([ids])).logits for model in (merged, found))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", families.SIX)
def test_as_a_reward_model(family: str, tmp_path: Path) -> None:
    final = folders.save(family, tmp_path, reward=True)[0]
    merged, found = load_reward_model(final), any_format.load_reward_model(str(final / "adapter"))
    torch.testing.assert_close(found.rewards(IDS), merged.rewards(IDS), rtol=1e-4, atol=1e-4)
    assert (found.config.mean, found.config.std) == (merged.config.mean, merged.config.std) == (0.25, 1.5)


def test_whole_models_are_loaded_as_well(tmp_path: Path) -> None:
    language, scored = (folders.save("opt", tmp_path / str(reward), reward=reward)[0] for reward in (False, True))
    assert torch.equal(any_format.load_reward_model(str(scored)).rewards(IDS), load_reward_model(scored).rewards(IDS))
    assert any_format.load_language_model(str(language)).lm_head.weight.shape == (families.VOCABULARY, 32)


def test_an_adapter_has_the_metadata_of_its_rewards(tmp_path: Path) -> None:
    folder = folders.save("llama", tmp_path, reward=True)[0] / "adapter"
    last = any_format.load_reward_model(str(folder)).rewards(IDS, [2, 2])
    metadata = json.loads((folder / REWARDS).read_text())
    assert metadata == {"mean": 0.25, "std": 1.5, "pooling": "last"}
    (folder / REWARDS).write_text(json.dumps(metadata | {"pooling": "mean"}))
    checksums.write(folder)
    mean = any_format.load_reward_model(str(folder)).rewards(IDS, [2, 2])
    assert (last - mean).abs().min() > 1e-3
    for broken in ("{", "[]", '{"pooling": "first", "mean": 0.0, "std": 1.0}', '{"pooling": "last", "mean": "0"}'):
        (folder / REWARDS).write_text(broken)
        checksums.write(folder)
        with pytest.raises(ModelError, match="it does not say how rewards are read"):
            any_format.load_reward_model(str(folder))
    (folder / REWARDS).unlink()  # as in PEFT's own
    checksums.write(folder)
    assert torch.equal(any_format.load_reward_model(str(folder)).rewards(IDS), last)


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    language, scored = (folders.save("opt", tmp_path / str(reward), reward=reward)[0] for reward in (False, True))
    with pytest.raises(ModelError, match="this is the adapter of a reward model: it gives scores, it cannot talk"):
        any_format.load_language_model(str(scored / "adapter"))
    with pytest.raises(ModelError, match="this is the adapter of a language model"):
        any_format.load_reward_model(str(language / "adapter"))


def test_a_missing_base_model_is_named(tmp_path: Path) -> None:
    final, base = folders.save("opt", tmp_path, reward=False)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="there is no such folder") as caught:
        any_format.load_language_model(str(final / "adapter"))
    assert caught.value.where == str(base)


def test_a_chat_with_two_adapters(tmp_path: Path) -> None:
    language, scored = (folders.save("llama", tmp_path / str(reward), reward=reward)[0] for reward in (False, True))
    results = []
    for name in ("", "adapter"):
        options = ChatOptions(ChatSection(temperature=0, max_new_tokens=5))
        session = ChatSession.open(language / name, scored / name, options)
        results.append("".join(session.reply("w5 w9")))
        results.append(f"{session.score():.3f}")
    assert results[:2] == results[2:]
