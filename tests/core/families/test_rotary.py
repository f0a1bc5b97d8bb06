"""LongRoPE and dynamic NTK: the result of a sequence does not depend on its batch, or on earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, Phi3Config

from rlhfcli.core.families.rotary import rotating_by_own_length, rotation_limit
from rlhfcli.core.generation.decode import Decoding, generate
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing.strategy import choose_strategy
from rlhfcli.core.training.measure import measure_dialogues
from rlhfcli.data.encoding.encoded import EncodedDialogue
from tests.core import families

BORDER = 24
_LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
CONFIGS: dict[str, Callable[[], Any]] = {
    "phi3": lambda: Phi3Config(
        **families.NEW, num_key_value_heads=2, original_max_position_embeddings=BORDER, rope_parameters=dict(_LONG)
    ),
    "dynamic": lambda: LlamaConfig(
        **families.NEW | {"max_position_embeddings": BORDER},
        num_key_value_heads=2,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    ),
}
LENGTHS = [10, 40, 24, 60, 33, 7]


def _made(family: str, kind: Any = AutoModelForCausalLM) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[family]()
    config.num_labels = 1
    model = kind.from_config(config, dtype=torch.float32).eval()
    families._spread(model)
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_losses_do_not_depend_on_the_batch(family: str) -> None:
    dialogues = [EncodedDialogue([2, *ids], [(1, len(ids) + 1)]) for ids in families.token_ids(LENGTHS)]

    def losses(tokens: int) -> list[float]:
        return [measure_dialogues(_made(family), part, "all", tokens).nll for part in ([d] for d in dialogues)]

    whole = measure_dialogues(_made(family), dialogues, "all", 4096).nll
    fresh = [_alone(family, dialogue.ids) for dialogue in dialogues]
    assert losses(64) == pytest.approx(fresh, rel=1e-5)
    assert whole == pytest.approx(sum(fresh), rel=1e-5)
    assert measure_dialogues(_made(family), dialogues, "all", 128).nll == pytest.approx(whole, rel=1e-5)


def _alone(family: str, ids: list[int]) -> float:
    """As transformers computes it when it has never seen another sequence."""
    model = _made(family)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))


@pytest.mark.parametrize("family", CONFIGS)
def test_rewards_and_answers_do_not_depend_on_the_batch(family: str) -> None:
    sequences = families.token_ids(LENGTHS)
    model = RewardModel(_made(family, AutoModelForSequenceClassification)).eval()
    alone = torch.cat([model.rewards([ids]) for ids in sequences])
    assert (model.rewards(sequences) - alone).abs().max() <= 1e-5
    limit = 8 if family == "phi3" else 4
    prompts = [ids for ids in sequences if family == "phi3" or len(ids) < BORDER]
    talker = _made(family)
    together = generate(talker, prompts, Decoding(limit), (), 1)
    assert together == [generate(_made(family), [ids], Decoding(limit), (), 1)[0] for ids in prompts]


def test_only_long_sequences_are_padded() -> None:
    for family in CONFIGS:
        model = _made(family)
        assert rotation_limit(model.config) == BORDER
        assert choose_strategy(model, BORDER).packed
        strategy = choose_strategy(model, BORDER + 1)
        assert not strategy.packed
        assert f"rotates sequences of more than {BORDER} tokens by their length" in strategy.reason
    assert rotation_limit(families.config("llama")) is None


def test_the_model_is_restored() -> None:
    model = _made("phi3")
    before = {name: vars(module).keys() for name, module in model.named_modules()}
    with rotating_by_own_length(model), torch.no_grad():
        model(torch.tensor(families.token_ids([40])), attention_mask=torch.ones(1, 40))
    assert {name: vars(module).keys() for name, module in model.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in model.modules())
