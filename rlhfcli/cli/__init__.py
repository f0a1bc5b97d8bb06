"""The command ``rlhf``: its verbs, and how it exits after an error. Loads no torch: ``rlhf --help`` answers at once.

May import every other package.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import traceback
from types import TracebackType
from typing import Annotated

import typer

from rlhfcli import __version__, console
from rlhfcli.cli.inspect import recipes
from rlhfcli.cli.inspect.doctor import doctor
from rlhfcli.cli.inspect.runs import runs
from rlhfcli.cli.shared import usage
from rlhfcli.cli.verbs.bench import bench
from rlhfcli.cli.verbs.chat import chat
from rlhfcli.cli.verbs.eval import evaluate
from rlhfcli.cli.verbs.export import export
from rlhfcli.cli.verbs.prepare_data import prepare_data
from rlhfcli.cli.verbs.reward import reward
from rlhfcli.cli.verbs.run import run
from rlhfcli.cli.verbs.sft import sft
from rlhfcli.errors import Interrupted, OutOfMemory, RlhfError, is_out_of_memory
from rlhfcli.words import size, visible

_FIVE, _HELPERS = "The five verbs, in their order", "Around them"


app = typer.Typer(
    name="rlhf",
    cls=usage.Verbs,
    help="Fine-tune a language model on dialogues, train a reward model on preferences, measure both, chat.",
    epilog="No recipe, no network, no GPU needed to begin: rlhf run · then: rlhf chat",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug keeps its ordinary traceback
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

# No file of a verb imports torch before the verb runs.
app.command("prepare-data", cls=usage.Verb, rich_help_panel=_FIVE)(prepare_data)
app.command("sft", cls=usage.Verb, rich_help_panel=_FIVE)(sft)
app.command("reward", cls=usage.Verb, rich_help_panel=_FIVE)(reward)
app.command("eval", cls=usage.Verb, rich_help_panel=_FIVE)(evaluate)
app.command("chat", cls=usage.Verb, rich_help_panel=_FIVE)(chat)
app.command("run", cls=usage.Verb, rich_help_panel=_HELPERS)(run)
app.command("runs", cls=usage.Verb, rich_help_panel=_HELPERS)(runs)
app.command("export", cls=usage.Verb, rich_help_panel=_HELPERS)(export)
app.command("bench", cls=usage.Verb, rich_help_panel=_HELPERS)(bench)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_HELPERS)
app.command("doctor", cls=usage.Verb, rich_help_panel=_HELPERS)(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"rlhf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 an error that the user can fix, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _terminated)
    sys.excepthook = _show_bug
    if getattr(sys.stdout, "errors", "") == "strict" and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every character
    try:
        sys.exit(_run())
    except Interrupted as end:
        console.message(f"interrupted: {end}")
        sys.exit(end.exit_code)
    except RlhfError as error:
        if _debugging():
            raise
        console.show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == 130:  # typer turns Ctrl-C into this silently, and we do so with SIGTERM
            _interrupted()
        raise
    finally:  # nothing is left to tidy up: a signal from here on ends the process without a traceback
        _restore_signals()


def _debugging() -> bool:
    return os.environ.get("RLHF_DEBUG", "0") not in ("", "0")


def _run() -> int:
    """Run the verb and return the exit code; errors of typer's become ours."""
    try:
        return int(app(prog_name="rlhf", standalone_mode=False) or 0)
    except Exception as error:
        if usage.no_arguments(error):
            return 2
        if is_out_of_memory(error) and not _debugging():
            advice = "Close other programs, or take a smaller model. RLHF_DEBUG=1 shows where it was."
            first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise OutOfMemory(first_line, hint=f"{_memory_limit()}{advice}") from error
        usage_error = usage.usage_error(error)
        if usage_error is None:
            raise
        raise usage_error from None


def _memory_limit() -> str:
    """Return the memory limit of the shell in words, where there is one, as on machines with many users."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if limit == resource.RLIM_INFINITY else f"ulimit -v allows this process {size(limit)}. "


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the ordinary traceback of a bug; control characters in it, perhaps of a foreign file, become signs."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


def _terminated(*_: object) -> None:
    """Exit on SIGTERM and SIGHUP as on Ctrl-C, so that nothing unfinished is left; also in a chat."""
    raise SystemExit(130)


def _restore_signals() -> None:
    for name in ("SIGTERM", "SIGHUP"):
        kind = getattr(signal, name, None)
        if kind is not None and signal.getsignal(kind) is _terminated:
            signal.signal(kind, signal.SIG_DFL)


def _interrupted() -> None:
    console.message("interrupted")
    sys.exit(130)
