"""The command ``rlhf``: its verbs, and how errors end. Loads no torch: ``rlhf --help`` answers at once."""

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
    """Run the command line and exit: 0 done, 1 failed, 2 the user can mend it, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _terminated)
    sys.excepthook = _show_bug
    if getattr(sys.stdout, "errors", "") == "strict" and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal and file name knows every sign
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
        if end.code == 130:  # typer turns Ctrl-C into this without a word, and we SIGTERM
            _interrupted()
        raise


def _debugging() -> bool:
    return os.environ.get("RLHF_DEBUG", "0") not in ("", "0")


def _run() -> int:
    """Run the verb; typer's own errors take the form of all others.

    Returns:
        Exit code.
    """
    try:
        return int(app(prog_name="rlhf", standalone_mode=False) or 0)
    except Exception as error:
        if usage.no_arguments(error):
            return 2
        if is_out_of_memory(error) and not _debugging():
            raise OutOfMemory(
                next(iter(str(error).strip().splitlines()), type(error).__name__),
                hint=f"{_room()}Close other programs, or take a smaller model. RLHF_DEBUG=1 shows where it was.",
            ) from error
        found = usage.usage_error(error)
        if found is None:
            raise
        raise found from None


def _room() -> str:
    """What the shell allows a process, where it limits it: few know of it, and machines of many users do."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if limit == resource.RLIM_INFINITY else f"ulimit -v allows this process {size(limit)}. "


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug keeps its ordinary traceback, in which text of a stranger's file does nothing, either."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


def _terminated(*_: object) -> None:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, so that nothing half-made is left; in a chat, too."""
    raise SystemExit(130)


def _interrupted() -> None:
    console.message("interrupted")
    sys.exit(130)
