"""Rows of the embedding for every id: drawn by seed, reported, and never looked up where there are none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from rlhfcli import tiny
from rlhfcli.core.families.embeddings import fit_embeddings, num_ids
from rlhfcli.core.generation.decode import Decoding, generate, stream
from rlhfcli.core.models.lora import adapted_layers
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.training import parts
from rlhfcli.errors import ModelError
from tests.core import families
from tests.core.training.test_phases import Listening, _project


def tokenizer(words: int, *added: str, highest: int | None = None) -> PreTrainedTokenizerFast:
    vocabulary = {"</s>": 0, **{f"w{i}": i for i in range(1, words)}}
    if highest is not None:
        vocabulary["last"] = highest
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "w1")), eos_token="</s>")
    made.add_tokens(list(added))
    made.pad_token = added[0] if added else "w1"
    return made


def test_rows_are_drawn_by_seed_and_leave_other_draws_alone() -> None:
    made = tokenizer(families.VOCABULARY, "<|pad|>")
    rows = []
    for before, seed in ((1, 7), (2, 7), (1, 8)):
        model = families.causal_lm("gpt2")
        torch.manual_seed(before)
        state = torch.get_rng_state()
        fit_embeddings(model, made, seed)
        assert torch.equal(state, torch.get_rng_state())
        rows.append(model.get_input_embeddings().weight[-1])
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_a_gap_between_ids_gets_rows_too() -> None:
    made = tokenizer(100, highest=140)
    assert len(made) < num_ids(made) == 141
    model = families.causal_lm("opt")
    fit_embeddings(model, made)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 141


REPORTS = {
    "the pad token alone": (
        tokenizer(128, "<|pad|>"),
        "the model has 128 rows for tokens, the tokenizer's ids need 129: 1 new row ('<|pad|>')",
    ),
    "another model's tokenizer": (
        tokenizer(200),
        "the model has 128 rows for tokens, the tokenizer's ids need 200: 72 new rows "
        "('w128', 'w129', 'w130' …). Its vocabulary is larger than the model's: "
        "does this tokenizer belong to this model?",
    ),
    "as many": (tokenizer(128), ""),
    "fewer": (tokenizer(90), ""),
}


@pytest.mark.parametrize("case", REPORTS)
def test_new_rows_are_reported(case: str) -> None:
    made, report = REPORTS[case]
    assert fit_embeddings(families.causal_lm("llama"), made) == report


def test_the_same_seed_gives_the_same_model_however_much_was_drawn_before(tmp_path: Path) -> None:
    """With a base without a pad token, and again for a training that begins anew: a frozen row is in no checkpoint."""
    project = _project(tmp_path, "gpt2", phase={"lora": {"rank": 2}})
    listening = Listening()
    made = [_parts(project, listening, drawn) for drawn in (0, 5)]
    for one, two in zip(*(each.module.parameters() for each in made), strict=True):
        assert torch.equal(one, two)
    assert len(list(adapted_layers(made[0].module))) == 8
    assert any("1 new row ('<|pad|>')" in note for note in listening.notes)


def _parts(project: parts.PhaseInputs, sink: Listening, drawn: int) -> parts.Parts:
    torch.manual_seed(drawn)
    made: Any = tokenizer(families.VOCABULARY, "<|pad|>")
    return parts.sft_parts(parts.PhaseInputs(project.recipe, project.prepared, made, project.folder, sink))


def test_an_id_without_a_row_is_one_error() -> None:
    model, reward = families.causal_lm("opt"), RewardModel(families.classifier("opt"))
    report = "the tokenizer gives the id 128, and the model has 128 rows, from 0 to 127"
    for ask in (
        lambda: generate(model, [[3], [4, 128]], Decoding(2), (), 1),
        lambda: next(stream(model, [128], Decoding(2), ())),
        lambda: reward.rewards([[3], [5, 128, 4]]),
    ):
        with pytest.raises(ModelError, match=report):
            ask()


def test_a_folder_that_lost_its_tokenizer_config_is_refused(tmp_path: Path) -> None:
    """transformers would make up the family's usual end token, with an id beyond the model's last row."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.model_folder(), folder)
    for name in ("tokenizer_config.json", "B2SUMS"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no tokenizer_config\.json, and the end token .* is not in tokenizer\.json"):
        load_tokenizer(str(folder))
