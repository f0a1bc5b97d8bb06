"""What a terminal, a pipe and the other ranks see."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from rlhfcli import console
from rlhfcli.errors import ModelError, Problem, RecipeError, UserError

ROOT = Path(__file__).parents[1]


def terminal(width=80, **more):
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        highlight=False,
        markup=False,
        color_system=None,
        **more,
    )


def text_of(shown):
    return shown.file.getvalue()


ERRORS = [
    UserError("wrong", where="here.yaml:3", hint="mend it"),
    ModelError("x" * 300, where="/very/long" * 30),
    UserError("奖励模型不能用作对话模型,请使用语言模型。" * 8, where="文件夹/模型", hint="换一个模型 " * 30),
    RecipeError(
        [Problem(f"r.yaml:{n}", "sft.epochs", "must be [bold]more[/bold] than " + "many " * 20) for n in range(9)]
    ),
]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("error", ERRORS, ids=["short", "long words", "Chinese", "problems"])
def test_panel_fits_its_width(monkeypatch, error, width):
    shown = terminal(width)
    monkeypatch.setattr(console, "messages", shown)
    console.show_error(error)
    lines = text_of(shown).splitlines()
    assert all(cell_len(line) == width for line in lines)
    assert lines[0].startswith(f"╭─ {error.title} ─")
    inside = "".join(line.strip("│ ") for line in lines[1:-1]).replace(" ", "")
    for part in (error.where, error.what, error.hint):
        assert (part or "").replace(" ", "").replace("\n", "") in inside


def test_error_in_a_pipe_is_plain(monkeypatch, capsys):
    console.show_error(UserError("no [red]markup[/red] " + "long " * 60, where="a", hint="b"))
    assert capsys.readouterr().err == f"error: a: no [red]markup[/red] {'long ' * 60}\nb\n"


def test_results_and_messages_have_their_own_streams(capsys):
    console.result("[1]")
    console.message("for people")
    console.next_steps(["rlhf sft", ("rlhf chat", "talk to it")])
    out, err = capsys.readouterr()
    assert out == "[1]\n"
    assert err == "for people\n\nnext:\n  rlhf sft\n  rlhf chat   talk to it\n"


def work(sink, steps=20):
    with sink.stage("loading [the] model"):
        pass
    sink.begin("sft", steps)
    for step in range(1, steps + 1):
        sink.advance(step, {"loss": 1 / step, "learning_rate": 1e-4, "tokens_per_second": 12345.6, "memory_gb": 1.25})
    with sink.stage("saving"):
        pass
    sink.note("a note with [markup] :smile:")
    sink.end()


def test_a_log_gets_few_plain_lines():
    log = Console(file=io.StringIO(), force_terminal=False, width=80)
    work(console.TerminalSink(log, line_every=60))
    lines = text_of(log).splitlines()
    assert "\x1b" not in text_of(log)
    assert "\r" not in text_of(log)
    assert lines[0] == "loading [the] model …"
    assert lines[1] == "loading [the] model  0.0 s"
    assert lines[2] == "sft 1/20 steps · loss 1.0000 · learning rate 1.0e-04 · 12,346 tokens/s · 1.2 GB · 0:00 left"
    assert lines[3:5] == ["saving  0.0 s", "a note with [markup] :smile:"]
    assert lines[5].startswith("sft: 20 of 20 steps in 0:00 · loss 0.0500 · learning rate")
    assert len(lines) == 6


def test_a_log_gets_a_line_per_interval():
    log = Console(file=io.StringIO(), force_terminal=False)
    sink = console.TerminalSink(log, line_every=0)
    sink.begin("sft", 5)
    for step in range(1, 6):
        sink.advance(step, {})
    sink.end()
    assert len(text_of(log).splitlines()) == 6


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_gets_a_bar_and_its_figures(width):
    shown = terminal(width)
    work(console.TerminalSink(shown))
    seen = text_of(shown)
    assert "━" in seen
    assert "20/20 steps" in seen
    assert "loading [the] model  0.0 s" in seen
    assert "a note with [markup] :smile:" in seen
    assert "sft: 20 of 20 steps in 0:00 · loss 0.0500" in seen


def test_work_inside_work():
    shown = terminal()
    sink = console.TerminalSink(shown)
    sink.begin("sft", 2)
    sink.begin("evaluation", 1, "batches")
    sink.advance(1, {})
    sink.end()
    sink.advance(2, {"loss": 1.0})
    sink.end()
    sink.end()  # once too often does no harm
    sink.advance(3, {})
    assert "evaluation: 1 of 1 batches" in text_of(shown)


def test_a_stage_that_fails_says_so():
    log = Console(file=io.StringIO(), force_terminal=False)
    with pytest.raises(ValueError, match="x"), console.TerminalSink(log).stage("loading"):
        raise ValueError("x")
    assert text_of(log).splitlines() == ["loading …", "loading  failed after 0.0 s"]


def test_other_ranks_are_silent():
    code = (
        "from rlhfcli import console\nfrom rlhfcli.errors import UserError\n"
        "console.result('a'); console.message('b'); console.show_error(UserError('c'))\n"
        "console.next_steps(['d'])\nsink = console.TerminalSink()\nsink.begin('e', 2)\n"
        "sink.advance(1, {'loss': 1}); sink.end(); sink.note('f')\n"
        "with sink.stage('g'): pass\n"
    )
    for rank, silent in (("1", True), ("0", False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"RANK": rank},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert (done.stdout + done.stderr == "") is silent


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds, shown):
    assert console.clock(seconds) == shown
