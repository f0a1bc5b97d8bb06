"""The head of a language model in parts: the same loss and gradients, with few logits at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GraniteConfig

from rlhfcli.core.families.backbone import head_is_apart
from rlhfcli.core.models import language_model
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.packing.strategy import choose_strategy, computing_with
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.training import phases
from rlhfcli.core.training.metrics_log import read_metrics
from rlhfcli.data.encoding.encoded import EncodedDialogue
from tests.core import families
from tests.core.training.test_phases import _project

DIALOGUES = [EncodedDialogue(ids, [(3, 8), (9, len(ids))]) for ids in families.token_ids([14, 11, 19], seed=2)]


def _loss_and_gradients(model: Any, *, bf16: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor], list[int]]:
    strategy, rows = choose_strategy(model), []
    task = SftTask(DIALOGUES, "assistant", packed=strategy.packed, pad_id=0)
    head = model.get_output_embeddings().register_forward_hook(lambda _, args, out: rows.append(out[..., 0].numel()))
    model.zero_grad()
    with computing_with(model, strategy):
        sums = task.step(
            CausalLM(model, bf16=bf16, head_apart=strategy.head_apart), task.collate(range(len(DIALOGUES)))
        )
        sums["loss"].backward()
    head.remove()
    return sums, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, rows


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_head_in_parts_gives_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.causal_lm(family)
    assert head_is_apart(model)
    expected, gradients, _ = _loss_and_gradients(model)
    monkeypatch.setattr(language_model, "WHOLE", 10 * families.VOCABULARY)
    monkeypatch.setattr(language_model, "CHUNK", 7 * families.VOCABULARY)
    sums, found, rows = _loss_and_gradients(model)
    assert max(rows) == 7  # and once more each, in the backward pass
    assert sum(rows) == 2 * sum(last - first for each in DIALOGUES for first, last in each.spans)
    assert sums["correct"] == expected["correct"]
    torch.testing.assert_close(sums["loss"], expected["loss"], rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        scale = gradients[name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (found[name] - gradient).abs().max() <= 1e-5 * scale, name


def test_the_head_in_parts_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.causal_lm("llama")
    expected, gradients, _ = _loss_and_gradients(model, bf16=True)
    monkeypatch.setattr(language_model, "WHOLE", 0)
    monkeypatch.setattr(language_model, "CHUNK", 5 * families.VOCABULARY)
    sums, found, _ = _loss_and_gradients(model, bf16=True)
    torch.testing.assert_close(sums["loss"], expected["loss"], rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 2e-2 * gradient.norm(), name


def test_a_family_that_scales_its_logits_computes_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GraniteConfig(**families.NEW, num_key_value_heads=2, logits_scaling=8.0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert not head_is_apart(model)
    expected, _, _ = _loss_and_gradients(model)
    monkeypatch.setattr(language_model, "WHOLE", 0)
    assert torch.equal(_loss_and_gradients(model)[0]["loss"], expected["loss"])


def test_a_reward_model_has_no_such_head() -> None:
    assert not head_is_apart(families.classifier("opt"))


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_trains_the_head_in_parts(
    tmp_path: Path, stage: int, lora: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(name: str) -> list[dict[str, float]]:
        deepspeed = {"zero_stage": stage, "config": families.DIVIDED} if stage == 2 else {"zero_stage": stage}
        project = _project(tmp_path / name, deepspeed=deepspeed, phase={"max_steps": 4, "lora": lora})
        phases.train_sft(project)
        return list(read_metrics(project.folder / "sft" / "metrics.jsonl"))

    whole = lines("whole")
    monkeypatch.setattr(language_model, "WHOLE", 0)
    monkeypatch.setattr(language_model, "CHUNK", 7 * families.VOCABULARY)
    for one, other in zip(whole, lines("parts"), strict=True):
        for figure in {"loss", "grad_norm", "eval_loss"} & one.keys():
            assert other[figure] == pytest.approx(one[figure], rel=1e-4, abs=1e-6), figure
