"""DeepSpeed-Chat's own format: written as its third phase reads it, and read back."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from rlhfcli.core.models import deepspeed_chat
from rlhfcli.core.models.reward_model import RewardModel, load_reward_model
from rlhfcli.core.publish import exporter, model_card
from rlhfcli.core.publish.saving import save_model
from rlhfcli.errors import ModelError
from tests.core import families, folders

SEQUENCES = families.token_ids([5, 19, 2, 33, 12])


class Critic(nn.Module):
    """DeepSpeed-Chat's reward model: a body, and a head of its own."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.rwtransformer = body
        width = getattr(body.config, "word_embed_proj_dim", body.config.hidden_size)
        self.v_head = nn.Linear(width, 1, bias=False)

    def score(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.v_head(self.rwtransformer(torch.tensor([ids])).last_hidden_state)[0, -1, 0]  # type: ignore[no-any-return]


def their_critic(folder: Path) -> Critic:
    """Load a folder as the third phase does: config, embedding resized to a multiple of eight, then weights."""
    body = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    body.resize_token_embeddings(8 * math.ceil(len(tokenizer) / 8), mean_resizing=False)
    critic = Critic(body).eval()
    critic.load_state_dict(torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True))
    return critic


@pytest.mark.parametrize("family", families.SIX)
def test_the_third_phase_computes_our_scores(family: str, tmp_path: Path) -> None:
    final, _ = folders.save(family, tmp_path, reward=True)
    ours = load_reward_model(final)
    before = ours.rewards(SEQUENCES)
    (tmp_path / "theirs").mkdir()
    deepspeed_chat.save(ours, folders.tokenizer(), tmp_path / "theirs", "card")
    theirs = torch.stack([their_critic(tmp_path / "theirs").score(ids) for ids in SEQUENCES])
    assert (theirs - before).abs().max() <= 1e-4
    back, tokenizer = deepspeed_chat.load(tmp_path / "theirs")
    assert (back.rewards(SEQUENCES) - before).abs().max() <= 1e-4
    assert tokenizer.chat_template == folders.tokenizer().chat_template
    assert (back.config.mean, back.config.std) == (0.25, 1.5)
    assert exporter.check(tmp_path / "theirs").agrees


@pytest.mark.parametrize("words", [128, 129])
def test_the_embedding_has_the_rows_that_the_third_phase_expects(tmp_path: Path, words: int) -> None:
    model = RewardModel(families.classifier("llama"))
    tokenizer = folders.tokenizer()
    if words > 128:
        tokenizer.add_tokens(["<more>"])
    before = model.rewards(SEQUENCES)
    (tmp_path / "theirs").mkdir()
    deepspeed_chat.save(model, tokenizer, tmp_path / "theirs", "")
    critic = their_critic(tmp_path / "theirs")
    assert critic.rwtransformer.get_input_embeddings().num_embeddings == (136 if words > 128 else 128)
    assert (torch.stack([critic.score(ids) for ids in SEQUENCES]) - before).abs().max() <= 1e-4


def upstream(folder: Path, family: str = "opt", **config: Any) -> Critic:
    """Save a folder as the second phase does: with the language model's config, and constants of older transformers."""
    folder.mkdir()
    language = families.causal_lm(family)
    critic = Critic(getattr(language, language.base_model_prefix)).eval()
    nn.init.normal_(critic.v_head.weight)
    critic.rwtransformer.resize_token_embeddings(136, mean_resizing=False)
    state = critic.state_dict() | {"rwtransformer.decoder.layers.0.attn.masked_bias": torch.tensor(-1e9)}
    torch.save(state, folder / "pytorch_model.bin")
    content = language.config.to_dict() | {"vocab_size": 136, "pad_token_id": 2} | config
    (folder / "config.json").write_text(json.dumps(content))
    return critic


def test_a_reward_model_in_this_format_becomes_a_plain_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tokenizer = folders.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    critic = upstream(tmp_path / "theirs", _name_or_path=str(base))
    source = exporter.of_folder(tmp_path / "theirs")
    report = exporter.export(source, tmp_path / "plain")
    assert report and report.agrees and len(report.results) == 5
    plain = load_reward_model(tmp_path / "plain")
    expected = torch.stack([critic.score(ids) for ids in SEQUENCES])
    assert (plain.rewards(SEQUENCES) - expected).abs().max() <= 1e-4
    assert plain.config.problem_type == "regression" and plain.config.pad_token_id == 1
    text = AutoTokenizer.from_pretrained(tmp_path / "plain").apply_chat_template(
        [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}], tokenize=False
    )
    assert text == "\n\nHuman: w5\n\nAssistant: w6<|endoftext|>"  # what theirs was trained on
    assert (tmp_path / "plain" / "README.md").read_text() == model_card.converted_card("theirs")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


BROKEN = [
    (lambda f: (f / "pytorch_model.bin").unlink(), "the folder has no pytorch_model.bin|has no weights"),
    (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK"), "more than tensors|cannot be read"),
    (lambda f: (f / "config.json").write_text("[NaN]"), "config.json is not JSON|a value is NaN"),
    (lambda f: torch.save([1], f / "pytorch_model.bin"), "holds no tensors by name"),
    (lambda f: torch.save({"a": torch.ones(1)}, f / "pytorch_model.bin"), "no v_head.weight"),
    (lambda f: torch.save({"v_head.weight": torch.ones(1, 32)}, f / "pytorch_model.bin"), "tensors missing"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN)
def test_a_broken_folder_is_one_error(tmp_path: Path, break_it: Any, message: str) -> None:
    upstream(tmp_path / "theirs")
    folders.tokenizer().save_pretrained(tmp_path / "theirs")
    deepspeed_chat.load(tmp_path / "theirs")
    break_it(tmp_path / "theirs")
    with pytest.raises(ModelError, match=message):
        deepspeed_chat.load(tmp_path / "theirs")


def test_wrong_shapes_and_numbers_are_errors(tmp_path: Path) -> None:
    critic = upstream(tmp_path / "theirs")
    folders.tokenizer().save_pretrained(tmp_path / "theirs")
    whole = critic.state_dict()
    for head, message in (
        (torch.ones(1, 31), "has shape"),
        (torch.full((1, 32), math.nan), "contains NaN or infinite values"),
    ):
        torch.save(whole | {"v_head.weight": head}, tmp_path / "theirs" / "pytorch_model.bin")
        with pytest.raises(ModelError, match=message):
            deepspeed_chat.load(tmp_path / "theirs")


def test_a_tokenizer_without_its_special_tokens_is_not_guessed(tmp_path: Path) -> None:
    upstream(tmp_path / "theirs")
    with pytest.raises(ModelError, match="no complete tokenizer"):
        deepspeed_chat.load(tmp_path / "theirs")


@pytest.mark.parametrize("write", [torch.save, lambda what, file: file.write_bytes(pickle.dumps(what))])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, write: Any) -> None:
    upstream(tmp_path / "theirs")
    folders.tokenizer().save_pretrained(tmp_path / "theirs")
    write({"v_head.weight": Evil(tmp_path / "ran")}, tmp_path / "theirs" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="more than tensors"):
        deepspeed_chat.load(tmp_path / "theirs")
    assert not (tmp_path / "ran").exists()


def test_only_reward_models_have_this_format(tmp_path: Path) -> None:
    save_model(families.causal_lm("opt"), folders.tokenizer(), tmp_path / "lm", None, "")
    with pytest.raises(ModelError, match="only reward models"):
        exporter.export(
            exporter.of_folder(tmp_path / "lm"), tmp_path / "out", exporter.ExportSettings("deepspeed-chat")
        )
    assert not (tmp_path / "out").exists()
