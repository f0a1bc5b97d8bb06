"""Tables of results: narrow and wide terminals, wide characters, words that look like markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from rlhfcli.cli.views.tables import language_tables, reward_tables
from rlhfcli.evaluation.tables import language_rows, reward_rows

MATCH = {"macro": 0.925, "by_skill": {"capital": 1.0, "recall_name": 0.85}, "prompts": 40}
BASE_MATCH = {"macro": 0.05, "by_skill": {"capital": 0.1, "recall_name": 0.0}, "prompts": 40}
SAMPLE = {
    "skill": "capital",
    "prompt": "What is the capital of France?",
    "reference": "Paris",
    "base": "[bold]Lyon[/bold] " + "and so on " * 80,
    "tuned": "巴黎是法国的首都，也是它最大的城市，位于塞纳河畔。" * 2,
}
LANGUAGE: dict[str, Any] = {
    "loss_on": "assistant",
    "perplexity": 1.234,
    "base_perplexity": 12345.6,
    "token_accuracy": 0.9,
    "base_token_accuracy": 0.3,
    "tokens": 12345,
    "exact_match": MATCH,
    "base_exact_match": BASE_MATCH,
    "first_line_match": {**MATCH, "macro": 0.966},
    "base_first_line_match": {**MATCH, "macro": 0.777},
    "stops": 0.988,
    "base_stops": 0.011,
    "samples": [SAMPLE, {**SAMPLE, "reference": "", "base": "", "tuned": "👩‍🚀 ok"}],
}
PART = {"accuracy": 0.8125, "accuracy_ci95": [0.79, 0.83], "pairs": 1000, "ties": 0.01}
REWARD: dict[str, Any] = {
    **PART,
    "preferences": 1000,
    "by_kind": {"wrong": PART, "ignores an earlier turn": PART},
    "baselines": {"longer": 0.51, "shorter": 0.49, "bag_of_words": None},
    "chosen_mean": 1.0,
    "chosen_std": 0.5,
    "rejected_mean": -1.0,
    "rejected_std": 0.5,
    "nll": 0.42,
    "verdict": "alive",
    "reason": "its nll 0.4200 is below guessing, ln 2 = 0.6931",
}


def drawn(what: Any, width: int, **settings: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **settings).print(what)
    return out.getvalue()


def test_named_sets_have_tables_of_their_own() -> None:
    part = {**PART, "nll": 0.5123, "verdict": "alive"}
    *_, sets, _ = reward_rows({**REWARD, "by_set": {"easy": part, "hard": {**part, "verdict": "unclear"}}})
    assert sets.title == "Ranking accuracy by set"
    assert sets.rows[1] == ("hard", "1,000", "81.2 %  [79.0, 83.0]", "0.5123", "unclear")
    named = {"exact_match_by_set": {"easy": MATCH, "bare": None}, "base_exact_match_by_set": {"easy": BASE_MATCH}}
    (table,) = [table for table in language_rows({**LANGUAGE, **named}) if "by set" in table.title]
    assert table.rows == (("easy", "40", "5.0 %", "92.5 %"),)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_and_keep_every_figure(width: int) -> None:
    text = drawn(language_tables(LANGUAGE), width)
    assert max(map(cell_len, text.splitlines())) <= width
    for figure in (
        "12,345.60",
        "1.23",
        "90.0 %",
        "92.5 %",
        "85.0 %",
        "96.6 %",
        "77.7 %",
        "98.8 %",
        "1.1 %",
        "12,345 tokens",
        "40 prompts",
    ):
        assert figure in text
    text = drawn(reward_tables(REWARD), width)
    assert max(map(cell_len, text.splitlines())) <= width
    for figure in ("81.2 %  [79.0, 83.0]", "51.0 %", "0.4200", "+1.00 ± 0.50", "-1.00 ± 0.50", "1,000 pairs"):
        assert figure in text
    assert "bag of words" not in text, "a baseline that was not measured is not shown"


def test_columns_of_wide_characters_stay_in_line() -> None:
    lines = drawn(language_tables(LANGUAGE), 80).splitlines()
    chinese = [line for line in lines if "巴" in line or "塞" in line]
    assert chinese
    assert {cell_len(line) for line in chinese} == {80}


def test_what_a_model_says_is_no_markup() -> None:
    assert "[bold]Lyon[/bold]" in drawn(language_tables(LANGUAGE), 120)


def test_long_answers_are_cut_in_tables() -> None:
    (samples,) = [table for table in language_rows(LANGUAGE) if "side by side" in table.title]
    assert samples.rows[0][1].endswith(" …")
    assert len(samples.rows[0][1]) < 210


def test_a_dead_reward_model_is_called_dead_in_red() -> None:
    dead = {**REWARD, "verdict": "dead", "reason": "every answer gets the same score"}
    text = drawn(reward_tables(dead), 80, force_terminal=True)
    assert "Verdict: dead: every answer gets the same score." in text
    assert "\x1b[1;31m" in text


def test_rankings_say_how_many_preferences_their_pairs_come_from() -> None:
    (first, *_) = reward_rows({**REWARD, "preferences": 167})
    assert first.note is not None and first.note.startswith("1,000 pairs of 167 preferences. Verdict: alive")


def test_what_was_not_measured_has_no_table() -> None:
    bare = {**LANGUAGE, "exact_match": None, "base_exact_match": None, "samples": []}
    assert [table.title for table in language_rows(bare)] == ["Language model"]
    assert [table.title for table in reward_rows({**REWARD, "by_kind": {}})] == ["Reward model"]


def test_samples_without_a_known_answer_have_no_such_column() -> None:
    bare = {**LANGUAGE, "samples": [{**SAMPLE, "reference": ""}]}
    (samples,) = [table for table in language_rows(bare) if "side by side" in table.title]
    assert [column.name for column in samples.columns] == ["prompt", "base", "fine-tuned"]
