"""The score of a dialogue is the same for the maker of the model, for us, and with the code of the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.core.generation.score_position import Reader
from rlhfcli.core.models import any_format, tokenizers
from rlhfcli.core.models.reward_model import RewardModel as Network
from rlhfcli.core.models.reward_model import as_reward_model
from rlhfcli.core.publish import exporter
from rlhfcli.core.publish.conformance import MESSAGES
from rlhfcli.core.publish.saving import save_model
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.encoding.encode import end_token
from rlhfcli.data.templates.scored_template import ending_at_score, text_behind_end
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ChatSection
from tests.core import families, folders

TURNS = [Turn("user", "w7 w8"), Turn("assistant", "w9"), Turn("user", "w10"), Turn("assistant", "w11 w12")]
MESSAGES_OF = [{"role": turn.role, "content": turn.content} for turn in TURNS]


def classifier() -> Any:
    model = families.classifier("llama")
    model.resize_token_embeddings(len(folders.chatml()), mean_resizing=False)
    with torch.no_grad():
        model.score.weight.normal_()
        model.get_input_embeddings().weight.normal_()
    return model


def typed(folder: Path) -> float:
    """Return the score that the code of a model card prints."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    with torch.no_grad():
        return float(model(**tokenizer.apply_chat_template(MESSAGES_OF, return_tensors="pt", return_dict=True)).logits)


def judged(folder: Path) -> float:
    found = RewardModel.load(folder).reward_of(TURNS)
    assert found is not None
    return found


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Save a reward model of ours with an unchanged template."""
    model = classifier()
    as_reward_model(model.config, "last", (0.0, 1.0))
    save_model(model, folders.chatml(), tmp_path / "ours", None, "")
    return tmp_path / "ours"


def test_a_reward_model_and_its_export_are_read_at_the_end_token(ours: Path, tmp_path: Path) -> None:
    ids = ending_at_score(folders.chatml()).apply_chat_template(MESSAGES_OF)["input_ids"]
    assert ids[-1] == end_token(folders.chatml())
    expected = float(any_format.load_reward_model(str(ours)).rewards([ids])[0])
    assert judged(ours) == pytest.approx(expected, abs=1e-4)
    assert abs(typed(ours) - expected) > 1e-2
    outcomes = {outcome.client: outcome.agrees for outcome in exporter.check(ours).results}
    assert outcomes.pop(MESSAGES) is False and all(outcomes.values())
    report = exporter.export(exporter.of_folder(ours), tmp_path / "out")
    assert report and report.agrees
    assert typed(tmp_path / "out") == pytest.approx(expected, abs=1e-4)
    assert judged(tmp_path / "out") == pytest.approx(expected, abs=1e-4)


def test_an_export_that_others_would_tokenise_differently_is_refused(tmp_path: Path) -> None:
    words = folders.chatml()  # as DeepSeek R1: its prompt begins a thought, which it leaves out of earlier answers
    words.chat_template = folders.CHATML.replace("assistant ' }}", "assistant <think> ' }}")
    model = classifier()
    as_reward_model(model.config, "last", (0.0, 1.0))
    save_model(model, words, tmp_path / "ours", None, "")
    with pytest.raises(exporter.ExportMismatch) as caught:
        exporter.export(exporter.of_folder(tmp_path / "ours"), tmp_path / "out")
    agrees = {outcome.client: outcome.agrees for outcome in caught.value.report.results}
    assert agrees.pop(MESSAGES) is False and all(agrees.values())
    assert not (tmp_path / "out").exists()


def test_other_reward_models_are_read_where_their_maker_reads_them(tmp_path: Path) -> None:
    save_model(classifier(), folders.chatml(), tmp_path / "theirs", None, "")
    assert judged(tmp_path / "theirs") == pytest.approx(typed(tmp_path / "theirs"), abs=1e-4)
    report = exporter.export(exporter.of_folder(tmp_path / "theirs"), tmp_path / "out")
    assert report and report.agrees
    assert typed(tmp_path / "out") == pytest.approx(typed(tmp_path / "theirs"), abs=1e-4)


def test_typed_special_tokens_stay_text(tmp_path: Path) -> None:
    save_model(classifier(), folders.chatml(), tmp_path / "theirs", None, "")
    model, words = (
        any_format.load_reward_model(str(tmp_path / "theirs")),
        tokenizers.reward_tokenizer(str(tmp_path / "theirs")),
    )
    found = Reader(model, words).read([Turn("user", "w7 <|im_end|> w8"), Turn("assistant", "w9")])
    assert found is not None and found[0].count(129) == 2


def test_models_of_openrlhf_are_read_at_the_end_token_that_it_appends(tmp_path: Path) -> None:
    model = classifier()
    model.config.value_head_prefix = "score"
    save_model(model, folders.chatml(), tmp_path / "theirs", None, "")
    ids = folders.chatml().apply_chat_template(MESSAGES_OF)["input_ids"] + [2]
    expected = float(Network(model).eval().rewards([ids])[0])
    assert judged(tmp_path / "theirs") == pytest.approx(expected, abs=1e-4)
    report = exporter.export(exporter.of_folder(tmp_path / "theirs"), tmp_path / "out")
    assert report and report.agrees
    assert typed(tmp_path / "out") == pytest.approx(expected, abs=1e-4)


def test_a_change_of_the_template_is_reported(tmp_path: Path) -> None:
    save_model(classifier(), folders.chatml(), tmp_path / "theirs", None, "")
    save_model(classifier(), ending_at_score(folders.chatml()), tmp_path / "ours", None, "")
    change = tokenizers.template_change(str(tmp_path / "theirs"), folders.chatml(), "model")
    assert "scores the last token of its own chat template" in change and "data.template: model" in change
    assert tokenizers.template_change(str(tmp_path / "ours"), folders.chatml(), "model") == ""
    assert tokenizers.template_change(str(tmp_path / "ours"), folders.tokenizer(), "model") != ""


def test_a_chat_reports_which_output_it_reads(tmp_path: Path) -> None:
    from rlhfcli.chat.session import ChatOptions, ChatSession
    from rlhfcli.chat.terminal import header

    save_model(families.causal_lm("llama"), folders.tokenizer(), tmp_path / "lm", None, "")
    config = families.config("llama")
    config.num_labels = 2
    torch.manual_seed(1)
    both = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    save_model(both, folders.tokenizer(), tmp_path / "rm", None, "")
    names = (str(tmp_path / "lm"), str(tmp_path / "rm"))
    with pytest.raises(ModelError, match="has 2 outputs"):
        ChatSession.open(*names, ChatOptions(ChatSection(max_new_tokens=5)))
    session = ChatSession.open(*names, ChatOptions(ChatSection(max_new_tokens=5), label="LABEL_1"))
    assert "output 1 (LABEL_1) of the 2" in header(session)
    session.turns = list(TURNS)
    ids = torch.tensor([folders.tokenizer().apply_chat_template(MESSAGES_OF)["input_ids"]])
    with torch.no_grad():
        assert session.score() == pytest.approx(float(both(ids).logits[0, 1]), abs=1e-4)


TEMPLATES = {
    "ours": (None, ""),
    "words behind": (folders.CHATML, " w5"),
    "a line break of its own at the end": (folders.CHATML + "\n", " w5"),
    "text around": (f"  \n{folders.CHATML}\n   \n  ", " w5   \n  "),  # trim_blocks
    "variables and macros": (
        "{%- macro said(m) %}{{ m['role'] + ' ' + m['content'] + ' <|im_end|>\n' }}{%- endmacro %}"
        "{%- if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}"
        "{%- set state = namespace(first=true) %}{%- for m in messages %}{{ said(m) }}{% set state.first = false %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{ 'assistant ' }}{% endif %}",
        "\n",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_behind_the_scored_token_is_left_out_of_the_template(name: str) -> None:
    template, rest = TEMPLATES[name]
    before = folders.chatml() if template else folders.tokenizer()
    before.chat_template = template or before.chat_template
    assert text_behind_end(before) == rest
    after = ending_at_score(before)
    assert (after is before) == (rest == "")
    assert ending_at_score(after) is after  # once is enough
    for count in (2, 4):
        whole = before.apply_chat_template(MESSAGES_OF[:count], tokenize=False)
        assert whole.endswith(rest)
        assert after.apply_chat_template(MESSAGES_OF[:count], tokenize=False) == whole.removesuffix(rest)
    for prompt in (True, False):
        texts = [each.apply_chat_template(MESSAGES_OF[:3], tokenize=False, add_generation_prompt=prompt)
                 for each in (before, after)]  # fmt: skip
        assert texts[0] == texts[1]
