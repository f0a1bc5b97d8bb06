"""The chat on a terminal: a prompt, the streamed reply, its reward, the commands.

Where standard input or output is not a terminal, each line of input is one turn and only the replies are written,
without prompts, colours or control characters: ``rlhf chat < questions.txt``.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING

from rich.text import Text

from rlhfcli import console
from rlhfcli.chat.commands import is_command, run_command
from rlhfcli.errors import DataError, UserError
from rlhfcli.words import counted

if TYPE_CHECKING:  # so that no torch is needed to draw a prompt
    from rlhfcli.chat.session import ChatSession

# A model may write the sequences that move a terminal's cursor: of all control characters only these two stay.
_CONTROLS = dict.fromkeys([*range(32), 127, *range(128, 160)])
for _kept in map(ord, "\n\t"):
    del _CONTROLS[_kept]


def run_terminal(session: ChatSession) -> None:
    """Hold the conversation until the user leaves or the input ends.

    Args:
        session: The conversation.

    Raises:
        KeyboardInterrupt: Ctrl-C while the input is not a terminal.
        DataError: The chat template refuses the conversation, while the input is not a terminal.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that an error can name the line that is not text
    if sys.stdin.isatty() and sys.stdout.isatty():
        _talk(session)
    else:
        _answer_lines(session)


def answer_once(session: ChatSession, prompt: str) -> None:
    """Write the reply to one message, and its reward if there is a reward model.

    Args:
        session: The conversation.
        prompt: The message.
    """
    _send(session, prompt)
    _show_reward(session)


def reward_line(score: float, scale: tuple[float, float] | None) -> str:
    """Write a reward in words: ``reward +1.23 (0.4 standard deviations above the mean)``.

    Args:
        score: The reward.
        scale: Mean and standard deviation of the rewards on validation data, where known.
    """
    line = f"reward {score:+.2f}"
    if scale is None:
        return line
    mean, deviation = scale
    distance = (score - mean) / deviation
    side = "above" if distance >= 0 else "below"
    return f"{line} ({abs(distance):.1f} standard deviations {side} the mean)"


def header(session: ChatSession) -> str:
    """Describe the models and how answers are drawn.

    Args:
        session: The conversation.
    """
    record, settings = session.record, session.settings
    drawing = f"temperature {settings.temperature:g}" if settings.temperature else "always the likeliest word"
    context = "" if session.context is None else f"\ncontext        {session.context:,} tokens"
    head = session.reward.network.head if session.reward else ""
    source = f" · {head}" if head not in ("", f"the head of {record.reward}") else ""  # a reward model of another form
    return (
        f"model          {record.model}\n"
        f"reward model   {record.reward or 'none'}{source}\n"
        f"replies        {drawing}, at most {settings.max_new_tokens:,} tokens{context}"
    )


def _talk(session: ChatSession) -> None:
    """Hold the conversation on a terminal."""
    _prepare_editing()
    _note(header(session))
    _note("Type a message, or /help.")
    while True:
        try:
            line = input(_prompt()).strip()
        except KeyboardInterrupt:  # discards the line, as in a shell
            _write("\n")
            continue
        except EOFError:
            _write("\n")
            return
        if not line:
            continue
        if is_command(line):
            outcome = run_command(line, session)
            if outcome.leave:
                return
            _note(outcome.text + "\n")
            continue
        _exchange(session, line)


def _exchange(session: ChatSession, line: str) -> None:
    """Send one message and show its reply; Ctrl-C and errors that the user can fix lead back to the prompt."""
    try:
        _send(session, line)
        _show_reward(session)
    except KeyboardInterrupt:
        _note(" (stopped)")
    except UserError as error:
        console.show_error(error)
    _write("\n")


def _answer_lines(session: ChatSession) -> None:
    """Answer each line of the input."""
    for number, line in enumerate(map(str.strip, sys.stdin), 1):
        if not line:
            continue
        if is_command(line):
            outcome = run_command(line, session)
            if outcome.leave:
                return
            if outcome.text:
                console.message(outcome.text)
            continue
        try:
            _send(session, line)
        except DataError as error:
            raise DataError(error.what, where=f"line {number:,} of the input: {error.where}", hint=error.hint) from None
        _show_reward(session)


def _send(session: ChatSession, text: str) -> None:
    """Write a reply while it is generated; then say how much of the conversation did not fit."""
    before = session.forgotten
    with contextlib.closing(session.reply(text)) as pieces:
        for piece in pieces:
            _write(piece.translate(_CONTROLS))
    _write("\n")
    if session.forgotten > before:
        what = f"the oldest {counted(session.forgotten, 'message')} of this conversation no longer"
        console.message(f"({what} fit into the context; /clear begins a new one)", style="dim")
    if session.cut:
        console.message("(your message does not fit into the context: the model saw only its end)", style="dim")


def _show_reward(session: ChatSession) -> None:
    score = session.score()
    if score is not None and session.reward is not None:
        _note(reward_line(score, session.reward.scale))


def _prepare_editing() -> None:
    """Let the arrow keys recall messages, and pasted line breaks not send them (GNU readline)."""
    with contextlib.suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def _prompt() -> str:
    # \001 and \002 tell readline that the characters between them take no space on the line.
    return "\001\x1b[1m\002you>\001\x1b[0m\002 " if console.results.color_system else "you> "


def _note(text: str) -> None:
    """Print a line of the program's own: dimmed on a terminal, plain in a pipe."""
    console.results.print(Text(text, style="dim"), soft_wrap=True)


def _write(text: str) -> None:
    console.write_result(text)
