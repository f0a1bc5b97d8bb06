"""The counts and examples of prepared data: on the terminal, in a pipe, on the page."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from rlhfcli import cli
from rlhfcli.cli.views import data_page, data_view, preview_view, tables
from rlhfcli.console import Screen, screen
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.encoding.preview import Piece, PreviewDialogue, PreviewPreference
from rlhfcli.data.store.statistics import PartStatistics
from rlhfcli.recipe.schema import Recipe
from rlhfcli.words import has_control_characters

REASON = "the prompt ends with the assistant's turn: there is nothing to answer, so nobody can learn from it"
SCRIPT = "<script>alert('x')</script>"
ASIAN = "東京は日本の首都です。" * 12
DIALOGUE = preview_view.Shown(
    "rows.jsonl: line 3",
    PreviewDialogue((Piece("Human: ", template=True), Piece(SCRIPT), Piece(f" {ASIAN}</s>", trained=True))),
)
PAIR = preview_view.Shown(
    "rows.jsonl: line 4",
    PreviewPreference((Piece("What?"),), "The ", (f"cat.{ASIAN}</s>", "dog.\x1b[31m</s>"), ((0, 1),), (0.5,), "rude"),
)
RANKING = preview_view.Shown(
    "rows.jsonl: line 5",
    PreviewPreference((Piece("Why?"),), "", ("A</s>", "B</s>", "C</s>"), ((0, 1), (1, 2)), (0.0, 2.0), ""),
)


def statistics(*examples: EncodedDialogue | EncodedPreference) -> dict[str, Any]:
    found = PartStatistics()
    for example in examples:
        found.add(example, 2)
    return found.as_json(2, 512)


def manifest(scale: int = 1, **more: Any) -> dict[str, Any]:
    """As ``prepare`` writes it; ``scale`` makes its numbers large."""
    dialogues = [EncodedDialogue([7] * n, [(n // 2, n)]) for n in (10, 20, 40, 500)]
    pairs = [EncodedPreference.pair([7] * 30, [7] * n, [7] * 8) for n in (5, 90)]
    phase = {"train": 9, "validation": 1, "cut": 0, "merged": 0, "dropped": {}}
    source = {
        "path": "資料/" + "a-long-name" * 6 + ".jsonl",
        "shapes": ["messages"],
        "read": 20,
        "kept": 10,
        "cut": 3,
        "dropped": {REASON: 7, "duplicate": 3},
        "faults": 7,
        "sft": phase,
        "reward": phase | {"merged": 4, "dropped": {"the prompt alone fills 512 tokens": 2}},
    }
    tokens = {
        "sft_train": statistics(*dialogues),
        "sft_validation": statistics(dialogues[0]),
        "reward_train": statistics(*pairs),
        "reward_validation": statistics(pairs[0]),
    }
    whole = {"seed": 1, "data": {"max_length": 512}, "sources": [source, source | {"dropped": {}}], "tokens": tokens}
    return _scaled(whole, scale) | more


def _scaled(value: Any, scale: int) -> Any:
    if isinstance(value, dict):
        return {key: _scaled(each, scale) for key, each in value.items()}
    if isinstance(value, list):
        return [_scaled(each, scale) for each in value]
    return value * scale if isinstance(value, int) else value


def drawn(what: Any, width: int = 80, *, colour: bool = False) -> str:
    console = Screen(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="truecolor" if colour else None,
        legacy_windows=False,
    )  # fmt: skip
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def previews(*shown: preview_view.Shown, width: int = 80, colour: bool = False) -> str:
    console = Screen(force_terminal=colour, color_system="truecolor" if colour else None, file=io.StringIO())
    return drawn(preview_view.previews(shown, console), width, colour=colour)


def words(text: str) -> str:
    """Without line breaks, margins and rules, in which a folded cell differs from its text."""
    return re.sub(r"[\s─]+", "", text)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("scale", [1, 1_000, 500_000])
def test_no_table_is_wider_than_the_terminal_and_no_number_is_cut_off(width: int, scale: int) -> None:
    text = drawn(tables.data_tables(manifest(scale)), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    found = words(text)
    for table in data_view.tables(manifest(scale)):
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                if column.number:
                    assert words(cell) in found


def test_every_reason_is_shown_with_its_count() -> None:
    left_out = data_view.tables(manifest())[1]
    source = manifest()["sources"][0]["path"]
    assert left_out.title == "Left out"
    assert left_out.rows[:4] == (
        ("7", "all", REASON, source),
        ("3", "all", "duplicate", source),
        ("2", "reward", "the prompt alone fills 512 tokens", source),
        ("4", "reward", "comparisons of rankings whose answers cutting made the same", source),
    )
    assert "rejected_rows.jsonl" in str(left_out.note)


def test_one_source_is_not_named_again_and_nothing_left_out_is_no_table() -> None:
    one = manifest()
    one["sources"] = one["sources"][:1]
    assert [column.name for column in data_view.tables(one)[1].columns] == ["rows", "phase", "why"]
    clean = one["sources"][0]
    clean["dropped"], clean["reward"] = {}, clean["sft"]
    assert "Left out" not in [table.title for table in data_view.tables(one)]


def test_the_parts_and_what_padding_costs() -> None:
    by_title = {table.title: table for table in data_view.tables(manifest())}
    parts = by_title["What the phases learn from"].rows
    assert parts[0] == ("SFT, training", "4", "80.0 %", "", "570", "50.0 %", "500")
    assert parts[2] == ("reward, training", "2", "66.7 %", "2", "171", "64.9 %", "120")
    padding = by_title["What padding would cost"]
    assert padding.rows[0] == ("padded to max_length (512)", "2,048", "3.59", "2,048", "11.98")
    assert padding.rows[-1] == ("each token once (rlhf)", "570", "1.00", "171", "1.00")
    factor = manifest()["tokens"]["sft_train"]["padding"]["longest"]["factor"]
    assert f"SFT: padded to their longest, batches of 2 rows compute {factor:.2f} times the tokens." in str(
        padding.note
    )


def test_a_phase_without_rows_is_shown_as_empty() -> None:
    none = manifest()
    for name in ("reward_train", "reward_validation"):
        none["tokens"][name] = statistics()
    text = drawn(tables.data_tables(none))
    assert re.search(r"reward, training +0 +- +0 +0 +- +0", text)
    assert "reward: tokens" not in text
    for name in ("sft_train", "sft_validation"):
        none["tokens"][name] = statistics()
    assert "Lengths" not in drawn(tables.data_tables(none))


def test_evaluation_prompts_in_the_training_data_are_a_warning() -> None:
    overlap = {
        "eval.prompts": {"rows": 200, "found": 3, "examples": ["a.jsonl: line 3", "a.jsonl: line 9"]},
        "eval.pairs": {"rows": 50, "found": 0, "examples": []},
    }
    text = " ".join(drawn(tables.data_tables(manifest(overlap=overlap))).split())
    assert "warning: 3 of the 200 rows of eval.prompts have their prompts in the training data" in text
    assert "a.jsonl: line 3; a.jsonl: line 9" in text
    assert "eval.pairs" not in text
    assert "warning" not in drawn(tables.data_tables(manifest()))


def test_the_bars_of_a_histogram() -> None:
    histogram = data_view.histograms(manifest())[0]
    assert sum(rows for _, rows, _ in histogram.bins) == 4
    text = drawn(tables.data_tables(manifest()))
    assert "█" * 14 in text
    assert "█" * 15 not in text


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_previews_show_all_text_within_the_width(width: int, colour: bool) -> None:
    text = re.sub(r"\x1b\[[\d;]*m", "", previews(DIALOGUE, PAIR, RANKING, width=width, colour=colour))
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.count("東京は") >= 8
    assert "kind: rude · margin 0.5" in text
    assert "1 > 2, 2 > 3 (margin 2)" in text
    assert words(SCRIPT) in words(text)


def test_a_long_place_is_not_cut_off() -> None:
    place = "資料/" + "folder/" * 30 + "rows.jsonl: line 3"
    text = previews(preview_view.Shown(place, DIALOGUE.example))
    assert words(place) in words(text)


def test_a_row_cannot_drive_the_terminal() -> None:
    text = previews(PAIR)
    assert "\x1b" not in text
    assert "dog.␛[31m</s>" in text


def test_trained_text_is_green_and_marked_where_there_is_no_colour() -> None:
    short = preview_view.Shown("a: 1", PreviewDialogue((Piece("Q: ", template=True), Piece("yes</s>", trained=True))))
    assert "Q: ⟦yes</s>⟧" in previews(short)
    coloured = previews(short, colour=True)
    assert "\x1b[32myes</s>" in coloured
    assert "\x1b[2mQ: " in coloured
    assert "⟦" not in coloured


def test_no_color_is_obeyed() -> None:
    console = Screen(force_terminal=True, color_system="truecolor", no_color=True, file=io.StringIO())
    assert "⟦" in drawn(preview_view.previews([DIALOGUE], console))


def test_the_fork_is_marked() -> None:
    pair = PreviewPreference((Piece("What?"),), " The", (" cat.</s>", " dog.</s>"), ((0, 1),), (0.0,), "")
    text = previews(preview_view.Shown("a: 1", pair))
    assert re.search(r"chosen +rejected", text)
    assert re.search(r" The▸ cat.</s> + The▸ dog.</s>", text)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attributes if name in ("src", "href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def recipe(**more: Any) -> Recipe:
    data = {"sources": [{"path": "rows.jsonl"}]}
    return Recipe.model_validate({"output_dir": "runs/x", "model": {"name": "builtin:tiny"}, "data": data} | more)


def test_the_page_shows_rows_as_text_and_needs_nothing_else() -> None:
    overlap = {"eval.pairs": {"rows": 9, "found": 1, "examples": [SCRIPT]}}
    text = data_page.page(recipe(output_dir="runs/\x1b[2J"), manifest(overlap=overlap), [DIALOGUE, PAIR, RANKING])
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.addresses == []
    assert "url(" not in text
    assert "@import" not in text
    assert page.text.count(SCRIPT) == 2
    assert ASIAN in page.text
    assert REASON in page.text
    assert "1 of the 9 rows of eval.pairs has its prompt in the training data" in page.text
    assert not any(has_control_characters(line) for line in text.splitlines())
    assert '<span class="trained ">' in text
    assert "prefers-color-scheme: dark" in text
    for table in data_view.tables(manifest()):  # on a telephone every cell stands below its column's name
        for column in table.columns:
            assert text.count(f'<td data-name="{column.name}"') >= len(table.rows)
    assert all(table.title in page.text for table in data_view.tables(manifest()))


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """``rlhf prepare-data`` on a few rows in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"number {k}?", "chosen": f"it is {k}", "rejected": f"it is {k + 1}"} for k in range(30)]
    pairs[3]["prompt"] = f"{SCRIPT} 東京?"
    rows = [*pairs, {"prompt": "", "chosen": "a", "rejected": "b"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("data.sources=[{path: rows.jsonl}]", "data.validation=0.3", "eval.prompts=null", "eval.pairs=null")
    changes = [part for setting in settings for part in ("--set", setting)]

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf", "prepare-data", "--recipe", "tiny", *changes, *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_tables_and_previews(call) -> None:
    code, out, err = call("--preview", "2")
    assert code == 0, err
    assert "prompt is empty" in out
    assert out.count("SFT · ") == 2
    assert out.count("reward · ") == 2
    assert re.search(r"⟦ it is \d+</s>⟧", out)
    assert "it is" in out
    assert "SFT ·" not in call()[1]


def test_a_store_that_is_up_to_date_waits_for_no_large_library(call, tmp_path) -> None:
    questions = "".join(json.dumps({"prompt": f"number {k}?"}) + "\n" for k in (4, 5, 400))
    Path("questions.jsonl").write_text(questions)
    asked = ("--set", "eval.prompts=questions.jsonl")
    code, out, err = call(*asked)
    assert code == 0
    assert err.splitlines()[1] == "run: runs/tiny · model: builtin:tiny · data: rows.jsonl"
    program = (
        "import sys\nfrom rlhfcli import cli\n"
        "try: cli.main()\nfinally: print(sorted({'torch', 'transformers', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    wide = os.environ | {"COLUMNS": str(screen.results.width)}  # both processes draw their tables alike
    done = subprocess.run(
        [sys.executable, "-c", program, *sys.argv[1:]], capture_output=True, text=True, cwd=tmp_path, env=wide
    )
    *again, large = done.stdout.splitlines()
    assert large == "[]"
    assert "\n".join(again) == out.rstrip("\n")
    assert "of the 3 rows of eval.prompts" in out


def test_json_is_the_manifest_alone(call) -> None:
    code, out, _ = call("--json")
    found = json.loads(out)
    assert code == 0
    assert found["tokens"]["reward_train"]["padding"]["tree"]["factor"] == 1.0
    assert found["overlap"] == {}
    code, out, err = call("--json", "--preview", "2")
    assert (code, out) == (2, "")
    assert err == "error: --json prints no examples\nLeave out --json or --preview, or add --html FILE.\n"


def test_html_writes_a_page_and_replaces_only_its_own(call) -> None:
    code, _, err = call("--html", "data.html")
    assert code == 0, err
    assert "wrote data.html" in err
    page = Path("data.html").read_text(encoding="utf-8")
    assert page.count("<article>") > 20
    assert "<script" not in page
    assert call("--html", "data.html", "--preview", "1")[0] == 0
    assert Path("data.html").read_text(encoding="utf-8").count("<article>") == 2
    Path("notes.html").write_text("mine")
    code, _, err = call("--html", "notes.html")
    assert (code, err) == (
        2,
        "output error: notes.html: this file exists\nChoose another name, or add --overwrite.\n",
    )
    assert Path("notes.html").read_text() == "mine"


@pytest.mark.parametrize(("file", "what"), [(".", "this is a folder"), ("no/page.html", "the folder is not there")])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(call, file: str, what: str) -> None:
    code, _, err = call("--html", file)
    assert code == 2
    assert err.startswith(f"output error: {file}: {what}")
    assert not Path("runs").exists()


def test_strict_fails_with_the_unusable_rows(call) -> None:
    code, _, err = call("--strict")
    assert code == 2
    assert re.search(r"rows\.jsonl: (line )?31: prompt is empty\n", err)
