"""Output on a terminal, in a pipe, in a notebook, and on ranks other than the first."""

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from rlhfcli import console, words
from rlhfcli.errors import ModelError, Problem, RecipeError, UserError

ROOT = Path(__file__).parents[1]


def terminal(width=80, **more):
    return console.Screen(file=io.StringIO(), force_terminal=True, width=width, color_system=None, **more)


def text_of(shown):
    return shown.file.getvalue()


ERRORS = [
    UserError("wrong", where="here.yaml:3", hint="fix it"),
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
    log = console.Screen(file=io.StringIO(), force_terminal=False, width=80)
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


def test_a_warning_is_a_line_that_stands_out():
    log = console.Screen(file=io.StringIO(), force_terminal=False)
    console.TerminalSink(log).warn("a [secret]")
    colours = console.Screen(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    console.TerminalSink(colours).warn("a [secret]")
    assert text_of(log) == "a [secret]\n"
    assert text_of(colours) == "\x1b[33ma [secret]\x1b[0m\n"


def test_a_notebook_gets_lines_of_which_the_last_is_rewritten(capsys):
    sink = console.NotebookSink(line_every=60)
    work(sink)
    sink.warn("a secret\x1b[2J")
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    assert out.startswith("loading [the] model …\rloading [the] model  0.0 s\n")
    lines = [line.rpartition("\r")[2].rstrip() for line in out.strip().split("\n")]
    assert lines[:3] == ["loading [the] model  0.0 s", "saving  0.0 s", "a note with [markup] :smile:"]
    assert lines[3].startswith("sft: 20 of 20 steps in 0:00 · loss 0.0500 · learning rate")
    assert lines[4] == "warning: a secret␛[2J"
    assert len(lines) == 5


def test_a_shorter_line_of_a_notebook_covers_the_longer_one(capsys):
    sink = console.NotebookSink(line_every=0)
    sink.begin("sft", 3)
    sink.advance(1, {"loss": 1.0, "memory_gb": 1.0})
    sink.advance(3, {"loss": 1.0, "memory_gb": 1.0})
    with pytest.raises(ZeroDivisionError), sink.stage("loading"):
        raise ZeroDivisionError
    sink.end()
    sink.advance(1, {})  # nothing has begun
    parts = capsys.readouterr().out.partition("\n")[0].split("\r")
    assert all(len(later) >= len(earlier.rstrip()) for earlier, later in itertools.pairwise(parts))
    assert parts[-1].startswith("loading  failed after 0.0 s")


def test_a_log_gets_a_line_per_interval():
    log = console.Screen(file=io.StringIO(), force_terminal=False)
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
    log = console.Screen(file=io.StringIO(), force_terminal=False)
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
            env={"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert (done.stdout + done.stderr == "") is silent


EVIL = "\x1b]0;TITLE\x07\x1b[2J\x1b[H\x1b[32mAll checks passed.\x1b[0m\x9b\u202e\udcff"


def every_way(evil):
    """Everything that prints, with a text that would clear the screen."""
    console.message(evil, style="bold")
    console.next_steps([(evil, evil), evil])
    console.show_error(UserError(evil, where=evil, hint=evil))
    console.show_error(RecipeError([Problem(evil, evil, evil)]))
    sink = console.TerminalSink()
    with sink.stage(evil):
        pass
    sink.begin(evil, 2, evil)
    sink.advance(2, {"rows": 1})
    sink.end()
    sink.note(evil)
    table = Table(evil, title=Text(evil))
    table.add_column(Text(evil, style="green"))
    table.add_row(evil, Text(evil, style="red"))
    console.result(table)


@pytest.mark.parametrize(("is_terminal", "colours"), [(True, None), (True, "standard"), (False, None)])
def test_control_characters_are_never_printed(monkeypatch, capsys, is_terminal, colours):
    streams = {
        name: console.Screen(file=io.StringIO(), force_terminal=is_terminal, width=70, color_system=colours)
        for name in ("messages", "results")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(console, name, stream)
        monkeypatch.setattr(f"rlhfcli.console.screen.{name}", stream)
    every_way(EVIL)
    if is_terminal:
        console.result(EVIL)  # another program gets it as it is
    seen = text_of(streams["messages"]) + text_of(streams["results"]) + capsys.readouterr().out
    own = r"\x1b\[(\?25[hl]|[\d;]*[mAK])|\r"  # Rich's own colours, and how its bars move
    rest = re.sub(own, "", seen) if is_terminal else seen
    assert not any(words.has_control_characters(line) for line in rest.splitlines())
    assert "\u241b[2J\u241b[H" in rest
    assert rest.count("All checks passed.") >= 12


def test_styles_stay_where_they_are():
    shown = terminal()
    shown.print(Text("a\x9bb", style="").append("c\x1b", style="bold").append("d"))
    assert text_of(shown) == "a\\x9bbc\u241bd\n"
    text = console.screen.shown(Text("a\x9bb").append("c\x1b", style="bold").append("d"))
    assert [(span.start, span.end) for span in text.spans] == [(6, 8)]


CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("how", CLOSED)
def test_a_closed_stream_ends_nothing(how, tmp_path):
    command = f"exec {sys.executable} -m rlhfcli recipes list {how}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert ("next:" in done.stderr) is ("2>&-" not in how)
    assert ("tiny" in done.stdout) is (" >&-" not in f" {how}")


def test_a_closed_stream_is_not_given_to_the_next_file(tmp_path):
    code = (
        "from rlhfcli import console\nimport os\n"
        "with open('kept', 'w') as file:\n os.write(1, b'x'); os.write(2, b'x'); file.write('mine')\n"
    )
    command = f'exec {sys.executable} -c "$CODE" >&- 2>&-'
    env = {"CODE": code, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", command], env=env, cwd=tmp_path).returncode == 0
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["recipes", "list"], ["recipes", "list", "--json"], ["runs"]])
def test_stdout_on_a_full_disk_is_one_message(arguments, tmp_path):
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/recipe.yaml").write_text("seed: 1\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rlhfcli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
        )
    assert done.stderr == "output error: stdout: the results cannot be written: no space left on device\n"
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_ends_nothing():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rlhfcli", "recipes", "list"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 0
    assert "tiny" in done.stdout


def test_an_old_figure_says_when_it_was_measured():
    log = console.Screen(file=io.StringIO(), force_terminal=False)
    sink = console.TerminalSink(log, line_every=0)
    sink.begin("sft", 85, done=15)
    sink.advance(15, {"eval_loss": 1.5})
    sink.advance(16, {"loss": 2.0, "memory_gb": 1.0})
    sink.advance(20, {"loss": 1.0, "eval_loss": 1.25})
    sink.end()
    before, after, measured, summary = text_of(log).splitlines()
    assert before.startswith("sft 15/85 steps · validation loss 1.5000 · ")
    assert after.startswith("sft 16/85 steps · loss 2.0000 · validation loss 1.5000 (step 15) · 1.0 GB")
    assert measured.startswith("sft 20/85 steps · loss 1.0000 · validation loss 1.2500 · 1.0 GB")
    assert summary.startswith("sft: 20 of 85 steps (from step 16) in 0:00")


@pytest.mark.parametrize(
    "world",
    [
        {"RANK": "1"},
        {"RANK": "x"},
        {"RANK": "1", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
    ],
)
def test_a_process_alone_is_not_silent(world):
    command = [sys.executable, "-m", "rlhfcli", "sft", "--recipe", "none.yaml"]
    done = subprocess.run(command, env=world, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: none.yaml: there is no such recipe file")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds, shown):
    assert console.clock(seconds) == shown
