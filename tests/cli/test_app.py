"""The command as a user types it: stdout, stderr and exit code."""

import errno
import io
import itertools
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhfcli import cli, console
from rlhfcli.errors import RlhfError, TrainingError, UserError
from rlhfcli.recipe import builtin

ROOT = Path(__file__).parents[2]
runner = CliRunner()
VERBS = ["prepare-data", "sft", "reward", "eval", "chat", "run", "runs", "export", "bench", "recipes", "doctor"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rlhf(*arguments, monkeypatch, capsys):
    """Exit code, stdout and stderr of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


@pytest.fixture
def call(monkeypatch, capsys):
    return lambda *arguments: rlhf(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_help_names_the_verbs_in_their_order(call):
    code, out, _ = call("--help")
    places = [out.index(f"│ {verb} ") for verb in VERBS]
    assert code == 0
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(call, verb):
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert f"rlhf {verb}" in out


def test_version(call):
    assert call("--version") == (0, "rlhf 0.1.0\n", "")


MISTYPED = [  # what is typed → what is said
    (["trian"], "usage error: rlhf: there is no command trian\nDid you mean rlhf sft?\n"),
    (["train"], "usage error: rlhf: there is no command train\nDid you mean rlhf sft?\n"),
    (["evaluate"], "usage error: rlhf: there is no command evaluate\nDid you mean rlhf eval?\n"),
    (["prepare_data"], "usage error: rlhf: there is no command prepare_data\nDid you mean rlhf prepare-data?\n"),
    (["chta"], "usage error: rlhf: there is no command chta\nDid you mean rlhf chat?\n"),
    (["merge"], "usage error: rlhf: there is no command merge\nDid you mean rlhf export?\n"),
    (["serve"], "usage error: rlhf: there is no command serve\nrlhf serves no models. rlhf chat talks to one; "),
    (["qqqq"], "usage error: rlhf: there is no command qqqq\nThere is prepare-data, sft, reward, eval, chat, run, "),
    (["sft", "--recipes", "x"], "usage error: rlhf sft: no such option: --recipes"),
    (["sft", "--ranks", "x"], "usage error: rlhf sft: invalid value for --ranks: "),
    (["recipes", "lst"], "usage error: rlhf recipes: no such command lst. Did you mean list?\n"),
    (["recipes", "show"], "usage error: rlhf recipes show: missing argument "),
    (["export", "sft"], "usage error: rlhf export sft: TO is missing: where the export goes\nName a folder that is "),
]


@pytest.mark.parametrize(("arguments", "said"), MISTYPED, ids=[" ".join(arguments) for arguments, _ in MISTYPED])
def test_a_mistyped_word_exits_with_2_and_a_suggestion(call, arguments, said):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert "╭" not in err  # no box in a pipe


@pytest.mark.parametrize("arguments", [["help"], ["help", "sft"], ["version"]])
def test_help_and_version_work_as_words(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert {"help": "Around them", "sft": "--max-time", "version": "rlhf 0.1.0"}[arguments[-1]] in out


@pytest.mark.parametrize("width", ["60", "80", "100", "120"])
@pytest.mark.parametrize("verb", VERBS)
def test_help_is_wrapped_at_the_width_of_the_terminal(call, monkeypatch, verb, width):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    _, out, _ = call(verb, "--help")
    assert not re.search(r"<(bool|str|int|path|file)\b", out)
    prose = out.partition("╭")[0].splitlines()[3:]
    for line, after in itertools.pairwise(prose):
        if line.strip() and after.strip():
            first = after.split()[0]
            assert len(line.rstrip()) + 1 + len(first) > int(width) - 2, f"{line!r} had room for {first!r}"


def test_recipes_are_wrapped_between_words_on_a_terminal(call, monkeypatch):
    narrow = console.Screen(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr(console, "results", narrow)
    assert call("recipes", "list")[0] == 0
    words = {word for name in builtin.names() for word in f"{name} {builtin.summary(name)}".split()}
    assert set(narrow.file.getvalue().split()) == words


def test_python_m():
    done = subprocess.run([sys.executable, "-m", "rlhfcli", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "rlhf 0.1.0\n")


def test_recipes_list(call):
    code, out, err = call("recipes", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()][:2] == ["tiny", "opt125m"]
    assert "rlhf recipes show tiny" in err


def test_recipes_list_as_json(call):
    code, out, err = call("recipes", "list", "--json")
    assert code == 0
    assert {"tiny", "opt125m"} <= set(json.loads(out))
    assert err == ""


def test_recipes_show_is_the_file(call):
    code, out, _ = call("recipes", "show", "tiny")
    assert code == 0
    assert out == (ROOT / "recipes/tiny.yaml").read_text()


def test_recipes_show_unknown(call):
    code, out, err = call("recipes", "show", "small")
    assert (code, out) == (2, "")
    assert err.startswith("error: small: there is no built-in recipe of this name\nBuilt in: tiny, opt125m.")


def test_recipes_copy_then_validate(call):
    code, _, err = call("recipes", "copy", "tiny", "my.yaml")
    assert code == 0
    assert "rlhf recipes validate my.yaml" in err
    assert Path("my.yaml").read_text() == (ROOT / "recipes/tiny.yaml").read_text()
    code, out, err = call("recipes", "validate", "my.yaml")
    assert (code, out, err) == (0, "", "my.yaml: this recipe is valid\n")


def test_recipes_copy_replaces_nothing_silently(call):
    Path("tiny.yaml").write_text("mine")
    code, _, err = call("recipes", "copy", "tiny")
    assert code == 2
    assert err == "output error: tiny.yaml: this file exists\nChoose another name, or add --overwrite.\n"
    assert Path("tiny.yaml").read_text() == "mine"
    assert call("recipes", "copy", "tiny", "--overwrite")[0] == 0
    assert Path("tiny.yaml").read_text() != "mine"


@pytest.mark.parametrize("there", [None, "the old one"])
def test_a_failed_write_keeps_the_file(call, tmp_path, there):
    place = tmp_path / "my.yaml"
    if there:
        place.write_text(there)
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))  # a disk with room for ten bytes
    try:
        code, _, err = call("recipes", "copy", "tiny", "my.yaml", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert (code, err) == (2, "output error: my.yaml: the file cannot be written: file too large\n")
    assert [file.read_text() for file in tmp_path.iterdir()] == ([there] if there else [])


def test_a_link_is_followed(call, tmp_path):
    (tmp_path / "real.yaml").write_text("old")
    (tmp_path / "my.yaml").symlink_to("real.yaml")
    assert call("recipes", "copy", "tiny", "my.yaml", "--overwrite")[0] == 0
    assert (tmp_path / "my.yaml").is_symlink()
    assert (tmp_path / "real.yaml").read_text() == (ROOT / "recipes/tiny.yaml").read_text()


def test_recipes_copy_into_a_missing_folder(call):
    code, _, err = call("recipes", "copy", "tiny", "no/where.yaml")
    assert code == 2
    assert err == "output error: no/where.yaml: the file cannot be written: no such file or directory\n"


def test_recipes_validate_reports_every_problem(call):
    Path("r.yaml").write_text("seed: x\nlr: 3\n")
    code, out, err = call("recipes", "validate", "r.yaml", "--set", "chat.top_k=-1")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "recipe error: r.yaml: output_dir: must be given",
        "r.yaml: model: must be given",
        "r.yaml: data: must be given",
        'r.yaml:1: seed: must be a whole number, got the text "x"',
        "r.yaml:2: lr: unknown key; did you mean sft.learning_rate or reward.learning_rate?",
        "--set #1: chat.top_k: must be at least 0, got -1",
        "see: rlhf recipes show tiny",
    ]


def test_recipes_validate_resolved_is_a_recipe(call):
    code, out, _ = call("recipes", "validate", "tiny", "--resolved", "--set", "seed=7")
    assert code == 0
    Path("r.yaml").write_text(out)
    assert "seed: 7" in out
    assert call("recipes", "validate", "r.yaml")[0] == 0


@pytest.mark.parametrize("verb", ["prepare-data", "sft", "reward", "eval", "chat", "run"])
def test_a_missing_recipe_is_one_message(call, verb):
    code, out, err = call(verb, "--recipe", "nothing.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: nothing.yaml: there is no such recipe file, and no built-in recipe of this name\n")
    assert "Traceback" not in err


LESS = "Close other programs, or take a smaller model. RLHF_DEBUG=1 shows where it was."
ENDINGS = [
    (UserError("wrong", where="here", hint="fix it"), 2, "error: here: wrong\nfix it\n"),
    (TrainingError("the loss is nan"), 1, "training stopped: the loss is nan\n"),
    (RlhfError("no"), 1, "error: no\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (MemoryError(), 2, f"out of memory: MemoryError\n{LESS}\n"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, f"out of memory: [Errno 12] Cannot allocate memory\n{LESS}\n"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory\nat c.cpp"), 2,
     f"out of memory: DefaultCPUAllocator: can't allocate memory\n{LESS}\n"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 2,
     f"out of memory: libtorch_cpu.so: failed to map segment from shared object\n{LESS}\n"),
    (RuntimeError("std::bad_alloc"), 2, f"out of memory: std::bad_alloc\n{LESS}\n"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "shown"), ENDINGS, ids=[repr(error) for error, _, _ in ENDINGS])
def test_exit_codes_of_errors(call, monkeypatch, error, code, shown):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert call() == (code, "", shown)


def test_out_of_memory_names_the_limit_of_the_shell(call, monkeypatch):
    def fail(**_):
        raise MemoryError

    monkeypatch.setattr(cli, "app", fail)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (10**15, limits[1]))
    try:
        _, _, err = call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert err.splitlines()[1] == f"ulimit -v allows this process 1000 TB. {LESS}"


def test_a_library_that_may_not_be_run_is_not_a_lack_of_memory(call, monkeypatch):
    def fail(**_):
        raise ImportError("x.so: failed to map segment from shared object: Operation not permitted")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ImportError):
        call()


def test_ctrl_c_inside_a_verb(call, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhfcli.runs.opening.open_recipe", fail)
    assert call("recipes", "validate", "tiny") == (130, "", "interrupted\n")


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("RLHF_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["rlhf", "recipes", "show", "small"])
    with pytest.raises(UserError):
        cli.main()


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("rlhfcli.runs.opening.open_recipe", fail)
    monkeypatch.setattr(sys, "argv", ["rlhf", "recipes", "validate", "tiny"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_the_options_of_a_verb():
    # an option more needs a line here: the recipe is the place for settings
    from typer.main import get_command

    group = get_command(cli.app)
    found = {
        name: sorted(option for parameter in group.commands[name].params for option in parameter.opts)
        for name in ("prepare-data", "sft", "reward", "eval", "chat", "run", "runs", "export", "bench")
    }
    shared = ["--offline", "--recipe", "--set", "-r"]
    ranks = ["--gpus", "--ranks", "--nnodes", "--node-rank", "--main-address", "--hostfile"]
    trains = sorted([*shared, "--resume", "--max-time", "--overwrite", "--dry-run", "--json", *ranks])
    assert found == {
        "prepare-data": sorted([*shared, "--overwrite", "--json", "--strict", "--preview", "--html"]),
        "sft": trains,
        "reward": trains,
        "eval": sorted([*shared, "--json", "--benchmark", "--reward", "--label"]),
        "chat": sorted([*shared, "--label", "--model", "-m", "--reward", "--prompt", "-p"]),
        "run": trains,
        "runs": ["--json", "--root"],
        "bench": sorted([*shared, "--phase", "--steps", "--find-size", "--json"]),
        "export": sorted(
            ["source", "to", "--format", "--shard-size", "--check", "--label", "--no-check", "--overwrite", *shared]
        ),
    }


def test_a_signal_while_the_interpreter_ends_leaves_no_traceback():
    """As where a rank has lost another one, reported that, and is told to end while Python waits for its threads."""
    code = (
        "import os, signal, threading, time\n"
        "from rlhfcli import cli\n"
        "def end():\n"
        "    while threading.main_thread().is_alive(): time.sleep(0.01)\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "threading.Thread(target=end).start()\n"
        "import sys; sys.argv = ['rlhf', 'version']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
    assert done.returncode == -signal.SIGTERM
