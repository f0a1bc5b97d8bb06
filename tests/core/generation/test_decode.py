"""Decoding: independent of batching, reproducible by seed, and within the limits of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from rlhfcli.core.generation.decode import (
    BATCH_TOKENS,
    Decoding,
    context_limit,
    end_ids_of,
    generate,
    pick_tokens,
    stream,
)
from rlhfcli.errors import ModelError

VOCABULARY, CONTEXT = 97, 48
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG = {"max_position_embeddings": CONTEXT}
CONFIGS: dict[str, Any] = {
    "opt": lambda: transformers.OPTConfig(**SMALL, **WIDE, **LONG, ffn_dim=64, word_embed_proj_dim=16),
    "llama": lambda: transformers.LlamaConfig(**SMALL, **WIDE, **LONG, intermediate_size=64, num_key_value_heads=2),
    "gpt2": lambda: transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SMALL, **WIDE, **LONG, intermediate_size=64),
    "qwen3": lambda: transformers.Qwen3Config(
        **SMALL, **WIDE, **LONG, intermediate_size=64, num_key_value_heads=2, head_dim=8
    ),
    "bloom": lambda: transformers.BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=4),
}
END, PAD = frozenset({2}), 1
SAMPLING = {"temperature": 1.3, "top_k": 40, "top_p": 0.95}


def build(family: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():  # random models of the usual scale are nearly constant: make them opinionated
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return build("llama")


def prompts(count: int = 12, longest: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def slow_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """Reference implementation without cache and padding, which computes everything again for each token."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in END:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["greedy", "sampled"])
def test_a_batch_of_different_lengths_gives_what_each_prompt_gets_alone(model: Any, sampling: Any) -> None:
    settings = Decoding(12, **sampling, seed=3)
    together = generate(model, prompts(), settings, END, PAD)
    if not sampling:
        assert together == [slow_greedy(model, prompt, 12) for prompt in prompts()]
    first = prompts()[0]
    assert together[0] == generate(model, [first], settings, END, PAD)[0]
    assert together[0] == list(stream(model, first, settings, END))
    assert len({tuple(answer) for answer in together}) > 6, "the models must say different things"


def test_progress_is_reported_after_each_batch(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATCH_TOKENS, "cpu", 20)
    progress: list[int] = []
    generate(llama, [[5, 6], [7, 8, 9], [5]], Decoding(6), END, PAD, progress.append)
    assert progress == sorted(progress) and progress[-1] == 3 and len(progress) > 1


def test_small_batches_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Decoding(10, **SAMPLING)
    expected = generate(model, prompts(), settings, END, PAD)
    monkeypatch.setitem(BATCH_TOKENS, "cpu", 60)
    assert generate(model, prompts(), settings, END, PAD) == expected


def test_rows_that_end_early_do_not_change_the_others(llama: Any) -> None:
    """With any set of end tokens an answer is the unlimited one, cut before its first end token."""
    endless = generate(llama, prompts(), Decoding(12), frozenset(), PAD)
    ends = frozenset(answer[3] for answer in endless[:6])
    expected = []
    for answer in endless:
        cut = next((i for i, token in enumerate(answer) if token in ends), len(answer))
        expected.append(answer[:cut])
    assert generate(llama, prompts(), Decoding(12), ends, PAD) == expected
    assert [list(stream(llama, p, Decoding(12), ends)) for p in prompts()] == expected


def test_answers_depend_on_the_seed_alone(llama: Any) -> None:
    def answers(seed: int) -> list[list[int]]:
        return generate(llama, prompts(), Decoding(12, **SAMPLING, seed=seed), END, PAD)

    state = torch.get_rng_state()
    assert answers(1) == answers(1) != answers(2)
    assert torch.equal(state, torch.get_rng_state()), "the global generator must not be used"


def test_answers_end_where_the_context_ends(llama: Any) -> None:
    assert context_limit(llama) == CONTEXT
    long = [list(range(3, 3 + CONTEXT - 5)), [5, 6, 7]]
    answers = generate(llama, long, Decoding(20), frozenset(), PAD)
    assert [len(answer) for answer in answers] == [5, 20]
    assert list(stream(llama, long[0], Decoding(20), frozenset())) == answers[0]
    with pytest.raises(ModelError, match="a prompt of 48 tokens leaves no room"):
        generate(llama, [[3] * CONTEXT], Decoding(5), END, PAD)
    with pytest.raises(ModelError):
        next(stream(llama, [3] * CONTEXT, Decoding(5), END))


def test_models_without_positions_have_no_limit() -> None:
    bloom = build("bloom")
    assert context_limit(bloom) is None
    assert len(generate(bloom, [[4] * 60], Decoding(3), frozenset(), PAD)[0]) == 3


def test_an_empty_prompt_is_an_error(llama: Any) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(llama, [[]], Decoding(5), END, PAD)
    assert generate(llama, [], Decoding(5), END, PAD) == []


def test_streaming_leaves_no_inference_mode_behind(llama: Any) -> None:
    tokens = stream(llama, [3, 4], Decoding(4), frozenset())
    next(tokens)
    assert not torch.is_inference_mode_enabled()


def test_pick_tokens_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = (torch.arange(1000) + 0.5) / 1000
    rows = logits.expand(1000, 4)

    def shares(**settings: Any) -> list[float]:
        chosen = pick_tokens(rows, Decoding(**{"max_new_tokens": 1, "temperature": 1.0, **settings}), draws)
        return (torch.bincount(chosen, minlength=4) / 1000).tolist()

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=2e-3)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=2e-3)
    assert shares(top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=2e-3)
    assert shares(top_p=0.81) == pytest.approx([0.526, 0.316, 0.158, 0], abs=2e-3)
    assert shares(top_p=0.01) == shares(top_k=1) == shares(temperature=0.0) == [1, 0, 0, 0]
    quarter = torch.tensor([0.5, 0.3, 0.15, 0.05]) ** 0.5
    assert shares(temperature=2.0) == pytest.approx((quarter / quarter.sum()).tolist(), abs=2e-3)


def test_pick_tokens_survives_a_draw_that_rounds_to_one() -> None:
    logits = torch.zeros(1, 50)
    assert int(pick_tokens(logits, Decoding(1, temperature=1.0, top_k=3), torch.ones(1))) == 2


def test_end_tokens_come_from_tokenizer_template_and_generation_settings(llama: Any) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<|end|>": 2}, "a")), eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    llama.generation_config.eos_token_id = [7, 8]
    assert end_ids_of(llama, tokenizer) == {1, 2, 7, 8}
    llama.generation_config.eos_token_id = None
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} ends {% endfor %}"
    assert end_ids_of(llama, tokenizer) == {1}
