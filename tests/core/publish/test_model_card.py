"""Model cards: correct, complete, without local paths, and with code that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhfcli.core.models import deepspeed_chat
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.publish import model_card, saving
from rlhfcli.core.result import Result
from rlhfcli.recipe.schema import Recipe
from tests.core import folders

SOURCES = [
    {
        "path": "/home/somebody/secret-project/pairs.jsonl",
        "shapes": ["pairs"],
        "read": 1200,
        "dropped": {"no answer": 3},
        "sft": {"train": 0, "validation": 0, "dropped": {}},
        "reward": {"train": 1100, "validation": 90, "dropped": {"both answers are the same": 7}},
    }
]
MEASURED = {
    "accuracy": 0.712,
    "accuracy_ci95": [0.68, 0.74],
    "pairs": 90,
    "nll": 0.5512,
    "baselines": {"longer": 0.55, "bag_of_words": None},
    "verdict": "alive",
    "reason": "better than guessing",
}


def recipe(**more: Any) -> Recipe:
    sections = {
        "output_dir": "/home/somebody/runs/x",
        "model": {"name": "facebook/opt-125m"},
        "data": {"sources": [{"path": SOURCES[0]["path"]}], "template": "/home/somebody/t.jinja"},
        "deepspeed": {"zero_stage": 3, "offload": "optimizer", "nvme": "/home/somebody/fast"},
    }
    return Recipe.model_validate(sections | more)


def trained(phase: Any, **more: Any) -> model_card.Trained:
    return model_card.Trained(
        recipe(**more), phase, 300, 123456, {"eval_loss": 0.5, "eval_accuracy": 0.7}, SOURCES, MEASURED
    )


def test_a_card_has_the_data_and_the_figures() -> None:
    text = model_card.card(trained("reward"))
    header = yaml.safe_load(text.split("---")[1])
    assert header["base_model"] == "facebook/opt-125m" and header["pipeline_tag"] == "text-classification"
    assert "0.712, 95 % interval 0.680 to 0.740, 90 pairs" in text
    assert "| `pairs.jsonl` | pairs | 1,200 | 1,100 | 90 | 3: no answer; 7: both answers are the same |" in text
    assert "alive: better than guessing" in text and "longer | 0.550" in text
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    assert settings["reward"]["learning_rate"] == 1e-5 and settings["model"]["name"] == "facebook/opt-125m"


@pytest.mark.parametrize(("form", "library"), [("merged", "transformers"), ("adapter", "peft")])
def test_the_metadata_are_those_that_the_hub_reads(form: Any, library: str) -> None:
    text = model_card.card(trained("sft"), form, "facebook/opt-125m")
    assert yaml.safe_load(text.split("---\n")[1]) == {
        "base_model": "facebook/opt-125m",
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "sft"],
    }
    assert yaml.safe_load(model_card.converted_card("x").split("---\n")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["rlhf", "reward-model"],
    }


@pytest.mark.parametrize("form", ["merged", "adapter", "deepspeed-chat"])
def test_no_card_contains_a_local_path(form: Any) -> None:
    local = trained("reward", model={"name": "/home/somebody/models/opt"})
    assert "somebody" not in model_card.card(local, form, "facebook/opt-125m")
    assert "base_model" not in model_card.card(local, form)


LINK = "x](javascript:alert(1)) <img src=x onerror=alert(1)> | `code` *b*\n# Heading\x1b[2J"
SHOWN = r"x\](javascript:alert(1)) \<img src=x onerror=alert(1)\> \| \`code\` \*b\* \# Heading" + "\u241b" + r"\[2J"


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_untrusted_names_are_escaped(phase: Any) -> None:
    sources = [SOURCES[0] | {"path": f"/a/b`` {LINK}".replace("</", ""), "shapes": [LINK], "dropped": {LINK: 3}}]
    made = model_card.Trained(
        recipe(model={"name": f"hub/{LINK}"}), phase, 1, 1, {}, sources, MEASURED | {"reason": LINK}
    )
    text = model_card.card(made)
    assert yaml.safe_load(text.split("\n---\n")[0])["base_model"] == f"hub/{LINK}"
    prose, blocks = re.sub(r"(?s)^---.*?\n---\n|^```.*?^```$", "", text, flags=re.M), text.count("\n```")
    assert f" {SHOWN}" in prose or f"/{SHOWN}" in prose
    (row,) = [line for line in prose.splitlines() if "1,200" in line]
    assert row.startswith("| ```b`` x](javascript:alert(1)) <img")  # as code, which is never read as markup
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    outside = re.sub(r"```b``.*?```", "", prose)
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(|^# Heading", outside, re.M)
    assert "\x1b" not in text
    assert blocks % 2 == 0


def test_a_name_cannot_end_a_block_of_code() -> None:
    made = model_card.Trained(recipe(reward={"init_from": "base"}, eval={"prompts": "a\n```\n# x"}), "reward", 1, 1, {})
    assert model_card.converted_card("a`b").count("DeepSpeed-Chat's a\\`b") == 1
    assert "# x" not in re.sub(r"(?s)(`{3,})\w*\n.*?\n\1", "", model_card.card(made, "adapter", "a\n```\n# x"))


def test_a_card_of_training_has_the_figures_of_training() -> None:
    result = Result(steps=3, tokens=99, evaluation={"eval_loss": 0.25, "eval_accuracy": 0.625})
    assert "0.2500 nats per token" in model_card.sft_card(recipe(), result)
    assert "| 0.625 |" in model_card.reward_card(recipe(), result)
    assert "Trained on `pairs.jsonl`." in model_card.reward_card(recipe(), result)


def test_missing_figures_are_reported() -> None:
    assert "Not measured." in model_card.card(model_card.Trained(recipe(), "sft", 0, 0, {}))


@pytest.mark.parametrize("broken", [{"accuracy": "high"}, {"baselines": 3}, {"accuracy": 0.5, "accuracy_ci95": []}])
def test_invalid_results_are_left_out(broken: Any) -> None:
    made = model_card.Trained(recipe(), "reward", 0, 0, {"eval_accuracy": 0.7}, (), broken)
    assert "| 0.700 |" in model_card.card(made)


def test_a_card_warns_of_mean_pooling() -> None:
    assert "other programs the last token's score" in model_card.card(trained("reward", reward={"pooling": "mean"}))


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return str(code)


@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_the_code_of_a_card_works(
    form: Any,
    reward: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    final, base = folders.save("opt", tmp_path, reward=reward)
    text = model_card.card(trained("reward" if reward else "sft"), form, str(base))
    folder = tmp_path / "exported"
    if form == "adapter":
        folder.mkdir()
        merged = load_reward_model(final).model if reward else load_causal_lm(str(final))
        saving.copy_adapter(saving.AdapterCopy(final / "adapter", str(base), merged, folders.tokenizer()), folder, text)
    else:
        folder = final
        (folder / "README.md").write_text(text)
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})
    printed = capsys.readouterr().out.strip().splitlines()[-1]  # DeepSpeed may print something before
    if reward:
        ids = folders.tokenizer().apply_chat_template(
            [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello! How can I help you?"}],
            return_dict=False,
        )
        assert float(printed) == pytest.approx(float(load_reward_model(final).rewards([ids])), abs=1e-4)
    else:
        assert printed


def test_the_converted_card_has_working_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    final, _ = folders.save("opt", tmp_path, reward=True)
    (tmp_path / "theirs").mkdir()
    deepspeed_chat.save(load_reward_model(final), folders.tokenizer(), tmp_path / "theirs", "")
    model, tokenizer = deepspeed_chat.load(tmp_path / "theirs")
    saving.save_model(model.model, tokenizer, tmp_path / "plain", None, model_card.converted_card("theirs"))
    monkeypatch.chdir(tmp_path / "plain")
    exec(code_of(tmp_path / "plain"), {})
    assert float(capsys.readouterr().out)
