"""A reward model of ours in TRL, as its GRPO trainer loads and asks one: the same scores. Needs TRL.

pip install -r benchmarks/requirements.txt
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.core.models.reward_model import as_reward_model, load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.publish import exporter
from rlhfcli.core.publish.saving import save_model
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.templates.scored_template import ending_at_score
from rlhfcli.files import checksums
from tests.core import families, folders
from tests.core.parallel.test_ranks import on_two_ranks
from tests.core.rank_worker import settings
from tests.core.training.test_phases import _project

DIALOGUES = [
    [{"role": "user", "content": "w5 w9 w17"}, {"role": "assistant", "content": "w30 w31"}],
    [{"role": "user", "content": "w40"}, {"role": "assistant", "content": "w7 w8 w9 w10 w11 w12 w13"}],
]
trl = pytest.importorskip("trl")


def in_trl(folder: Path, tmp_path: Path) -> Tensor:
    """The rewards that TRL's GRPO trainer gives ``DIALOGUES``; it pads on the right, and does so in one batch."""
    data = [{"prompt": each[:1]} for each in DIALOGUES]
    import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer: Any = trl.GRPOTrainer(
            families.causal_lm("opt"),
            reward_funcs=str(folder),
            args=trl.GRPOConfig(
                output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to="none", num_generations=2,
                per_device_train_batch_size=2, max_completion_length=4,
            ),
            train_dataset=datasets.Dataset.from_list(data),
            processing_class=folders.tokenizer(),
            reward_processing_classes=transformers.AutoTokenizer.from_pretrained(folder),
        )  # fmt: skip
        prompts, completions = [each[:1] for each in DIALOGUES], [each[1:] for each in DIALOGUES]
        found: Tensor = trainer._calculate_rewards(data, prompts, completions, [[3]] * len(DIALOGUES))
    return found[:, 0].cpu()


def ours(folder: Path) -> Tensor:
    ids = [folders.tokenizer().apply_chat_template(each, return_dict=True)["input_ids"] for each in DIALOGUES]
    return load_reward_model(folder).rewards(ids)


@pytest.mark.parametrize("family", families.SIX)
def test_a_merged_reward_model_and_its_adapter(family: str, tmp_path: Path) -> None:
    final = folders.save(family, tmp_path, reward=True)[0]
    expected = ours(final)
    assert (expected[0] - expected[1]).abs() > 1e-3
    for folder in (final, final / "adapter"):
        torch.testing.assert_close(in_trl(folder, tmp_path), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own", [True, False])
def test_templates_that_write_text_behind_the_end_token(own: bool, tmp_path: Path) -> None:
    """TRL and a chat of ours read the same score, from our models and from others."""
    model = families.classifier("llama")
    model.resize_token_embeddings(len(folders.chatml()), mean_resizing=False)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    model.config.pad_token_id = 1
    words = folders.chatml()
    if own:
        as_reward_model(model.config, "last", (0.0, 1.0))
        words = ending_at_score(words)
    save_model(model, words, tmp_path / "m", None, "")
    scorer = RewardModel(load_reward_model(tmp_path / "m"), load_tokenizer(str(tmp_path / "m")))
    found = [scorer.reward_of([Turn(each["role"], each["content"]) for each in turns]) for turns in DIALOGUES]
    torch.testing.assert_close(in_trl(tmp_path / "m", tmp_path), torch.tensor(found), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_reward_models_that_two_ranks_have_trained_partitioned(kind: str, tmp_path: Path) -> None:
    """Six families, ZeRO stage 3; in our loader, in transformers and in TRL."""
    cases = [f"{family}-3-{kind}" for family in families.SIX]
    on_two_ranks(tmp_path, 3, cases)
    for case in cases:
        final = _project(tmp_path / case, **settings(case, 3, tmp_path)).folder / "reward" / "final"
        expected = ours(final)
        for folder in (final, final / "adapter")[: 1 + (kind == "lora")]:
            torch.testing.assert_close(in_trl(folder, tmp_path), expected, rtol=1e-4, atol=1e-4)
            if folder != final:
                folders.tokenizer().save_pretrained(folder)
                checksums.write(folder)
                assert exporter.check(folder).agrees  # PEFT, and our loader
