"""Language figures: perplexity by hand, exact match, samples, a base with a smaller vocabulary."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Turn
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.encoding.encoded import EncodedDialogue
from rlhfcli.data.sources.evaluation_rows import PromptRow
from rlhfcli.data.templates.template import HUMAN_ASSISTANT
from rlhfcli.errors import DataError
from rlhfcli.evaluation.language_model import LanguageData, evaluate_language, exact_match, spread
from rlhfcli.recipe.schema import Recipe

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    fast.chat_template = HUMAN_ASSISTANT
    return fast


def llama(vocabulary: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        eos_token_id=256,
        bos_token_id=None,
        pad_token_id=None,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def base() -> Any:
    return llama(257, seed=0)  # it has no row for the pad that the tokenizer has gained


@pytest.fixture(scope="module")
def dialogues(tokenizer: Any) -> list[EncodedDialogue]:
    said = [
        Dialogue((Turn("user", f"Capital of {country}?"), Turn("assistant", city)), Origin("test", f"row {row}"))
        for row, (country, city) in enumerate(CAPITALS.items())
    ]
    made = [outcome.example for outcome in Encoder(tokenizer, 128).dialogues(said)]
    return [example for example in made if example]


@pytest.fixture(scope="module")
def tuned(dialogues: list[EncodedDialogue]) -> Any:
    """Learns four capitals by heart in a second or two."""
    model = llama(258, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        for dialogue in dialogues:
            ids = torch.tensor([dialogue.ids])
            labels = torch.full_like(ids, -100)
            for first, last in dialogue.spans:
                labels[:, first:last] = ids[:, first:last]
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "output_dir": "runs/x",
            "model": {"name": "x"},
            "data": {"sources": [{"path": "x"}], "max_length": 128},
        }
        | sections
    )


PROMPTS = [
    PromptRow((Turn("user", f"Capital of {country}?"),), (f" {city} ", city.lower()), "easy" if i < 2 else "hard")
    for i, (country, city) in enumerate(CAPITALS.items())
]


@pytest.fixture(scope="module")
def result(base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]) -> dict[str, Any]:
    return evaluate_language(recipe(eval={"samples": 3}), base, tuned, LanguageData(tokenizer, dialogues, PROMPTS))


def by_hand(model: Any, dialogues: list[EncodedDialogue]) -> tuple[float, float]:
    nll, right, count = 0.0, 0, 0
    for dialogue in dialogues:
        with torch.no_grad():
            logits = model(torch.tensor([dialogue.ids])).logits[0].log_softmax(-1)
        for first, last in dialogue.spans:
            for place in range(first, last):
                nll -= float(logits[place - 1, dialogue.ids[place]])
                right += int(logits[place - 1].argmax()) == dialogue.ids[place]
                count += 1
    return math.exp(nll / count), right / count


def test_figures_are_those_computed_by_hand(
    result: dict[str, Any], base: Any, tuned: Any, dialogues: list[EncodedDialogue]
) -> None:
    assert (result["base_perplexity"], result["base_token_accuracy"]) == pytest.approx(by_hand(base, dialogues))
    assert (result["perplexity"], result["token_accuracy"]) == pytest.approx(by_hand(tuned, dialogues))
    assert result["tokens"] == sum(len(f" {city}") + 1 for city in CAPITALS.values())
    assert result["perplexity"] < 1.5 < result["base_perplexity"]


def test_exact_match_of_base_and_tuned(result: dict[str, Any]) -> None:
    assert result["exact_match"] == {"macro": 1.0, "by_skill": {"easy": 1.0, "hard": 1.0}, "prompts": 4}
    assert result["base_exact_match"] == {"macro": 0.0, "by_skill": {"easy": 0.0, "hard": 0.0}, "prompts": 4}


def test_what_a_base_model_lacks_is_distinguished(tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]) -> None:
    """A model that knows the answer and cannot stop is right in its first line, and nowhere else."""
    goes_on = llama(258, seed=1)
    goes_on.load_state_dict(tuned.state_dict())
    end = tokenizer.eos_token_id
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    row = goes_on.lm_head.weight.data
    row[[line_break, end]] = row[[end, line_break]]  # where it would end, it begins another line
    found = evaluate_language(recipe(eval={"samples": 1}), goes_on, tuned, LanguageData(tokenizer, dialogues, PROMPTS))
    assert (found["base_exact_match"]["macro"], found["exact_match"]["macro"]) == (0.0, 1.0)
    assert (found["base_first_line_match"]["macro"], found["first_line_match"]["macro"]) == (1.0, 1.0)
    assert (found["base_stops"], found["stops"]) == (0.0, 1.0)


def test_samples_stand_side_by_side(result: dict[str, Any]) -> None:
    assert len(result["samples"]) == 3
    first = result["samples"][0]
    assert first["prompt"] == "Capital of France?"
    assert (first["tuned"], first["reference"].strip(), first["skill"]) == ("Paris", "Paris", "easy")
    assert first["base"] != "Paris"
    assert len(first["base"]) <= len(" Madrid ") + 8, "an answer that is too long to be right is not finished"


def test_results_are_json(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result)) == result


def test_batching_changes_nothing(
    result: dict[str, Any], base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]
) -> None:
    small = recipe(eval={"samples": 3}, sft={"micro_batch_tokens": 40})
    again = evaluate_language(small, base, tuned, LanguageData(tokenizer, dialogues[::-1], PROMPTS))
    assert again["perplexity"] == pytest.approx(result["perplexity"], rel=1e-5)
    assert again["samples"] == result["samples"]


def test_loss_on_all_measures_all_tokens(
    base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]
) -> None:
    found = evaluate_language(recipe(sft={"loss_on": "all"}), base, tuned, LanguageData(tokenizer, dialogues, PROMPTS))
    assert found["tokens"] == sum(len(dialogue.ids) - 1 for dialogue in dialogues)


def test_without_prompts_the_samples_are_validation_dialogues(
    base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]
) -> None:
    short = recipe(eval={"samples": 2}, chat={"max_new_tokens": 12})
    found = evaluate_language(short, base, tuned, LanguageData(tokenizer, dialogues))
    assert found["exact_match"] is found["base_exact_match"] is None
    assert [(sample["tuned"], sample["reference"]) for sample in found["samples"]] == [
        ("Paris", "Paris"),
        ("Madrid", "Madrid"),
    ]
    assert "Capital of France?" in found["samples"][0]["prompt"]


def test_prompts_without_accepted_answers_are_only_samples(
    base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue]
) -> None:
    bare = [PromptRow(prompt.turns) for prompt in PROMPTS]
    short = recipe(eval={"samples": 2}, chat={"max_new_tokens": 12})
    found = evaluate_language(short, base, tuned, LanguageData(tokenizer, dialogues, bare))
    assert found["exact_match"] is None
    assert [sample["tuned"] for sample in found["samples"]] == ["Paris", "Rome"]


def test_named_sets_have_an_exact_match_of_their_own(
    base: Any, tuned: Any, tokenizer: Any, dialogues: list[EncodedDialogue], result: dict[str, Any]
) -> None:
    grouped = [replace(prompt, group="all" if i else "first") for i, prompt in enumerate(PROMPTS)]
    wrong = replace(grouped[1], accepted=("Oslo",))
    data = LanguageData(tokenizer, dialogues, [grouped[0], wrong, *grouped[2:]])
    found = evaluate_language(recipe(eval={"samples": 1}), base, tuned, data)
    assert {name: match["macro"] for name, match in found["exact_match_by_set"].items()} == {"first": 1.0, "all": 0.5}
    assert [match["prompts"] for match in found["base_exact_match_by_set"].values()] == [1, 3]
    assert "exact_match_by_set" not in result


def test_nothing_to_predict_is_an_error(base: Any, tuned: Any, tokenizer: Any) -> None:
    nothing = LanguageData(tokenizer, [EncodedDialogue([5, 6], [])], PROMPTS)
    with pytest.raises(DataError, match="no answer to predict"):
        evaluate_language(recipe(), base, tuned, nothing)


def test_exact_match_by_skill() -> None:
    found = exact_match(
        ["Paris", " paris\n", "Rome", "x", "y"],
        [["Paris"], ["Paris", "paris"], ["Madrid"], [], ["y "]],
        ["a", "a", "a", "b", ""],
    )
    assert found is not None
    assert found["by_skill"] == {"a": pytest.approx(2 / 3), "all": 1.0}
    assert found["macro"] == pytest.approx(5 / 6)
    assert found["prompts"] == 4
    assert exact_match(["x"], [[]], ["a"]) is None


def test_samples_are_spread_over_the_skills() -> None:
    assert spread(["a", "a", "a", "b", "b", "c"], 4) == [0, 1, 3, 5]
    assert spread(["a"], 5) == [0]
    assert spread([], 5) == []
