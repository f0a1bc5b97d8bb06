"""The chat as people see it: a prompt, the reply as it is written, its reward, the commands.

Where standard input or output is no terminal, one line of input is one turn and only the replies are
written, without prompts, colours or control characters: ``rlhf chat < questions.txt``.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from rich.text import Text

from rlhfcli import console
from rlhfcli.chat.commands import is_command, run_command
from rlhfcli.errors import UserError

if TYPE_CHECKING:  # so that no torch is needed to draw a prompt
    from rlhfcli.chat.session import ChatSession

# A model may say anything, the sequences that move a terminal's cursor included: only these stay.
_CONTROLS = dict.fromkeys([*range(32), 127, *range(128, 160)])
for _kept in map(ord, "\n\t"):
    del _CONTROLS[_kept]


def run_terminal(session: ChatSession) -> None:
    """Talk until the user leaves or the input ends.

    Args:
        session: The conversation.

    Raises:
        KeyboardInterrupt: Ctrl-C while the input is no terminal.
        DataError: The chat template refuses the conversation, while the input is no terminal.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        _talk(session)
    else:
        _answer_lines(session)


def answer_once(session: ChatSession, prompt: str) -> None:
    """Write the reply to one message, and its reward where there is a reward model.

    Args:
        session: The conversation.
        prompt: The message.
    """
    _say(session, prompt)
    _show_reward(session)


def reward_line(score: float, scale: tuple[float, float] | None) -> str:
    """``reward +1.23 (0.4 standard deviations above the mean)``.

    Args:
        score: The reward.
        scale: Mean and standard deviation of the rewards on validation data, where known.
    """
    line = f"reward {score:+.2f}"
    if scale is None:
        return line
    mean, deviation = scale
    away = (score - mean) / deviation
    side = "above" if away >= 0 else "below"
    return f"{line} ({abs(away):.1f} standard deviations {side} the mean)"


def _talk(session: ChatSession) -> None:
    """The chat on a terminal."""
    _prepare_editing()
    _note("Type a message, or /help.")
    while True:
        try:
            line = input(_prompt()).strip()
        except KeyboardInterrupt:  # throws away what was typed, as in a shell
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
    """One message and its reply; Ctrl-C and what the user can mend lead back to the prompt."""
    try:
        _say(session, line)
        _show_reward(session)
    except KeyboardInterrupt:
        _note(" (stopped)")
    except UserError as error:
        console.show_error(error)
    _write("\n")


def _answer_lines(session: ChatSession) -> None:
    """The chat in a pipe."""
    for line in map(str.strip, sys.stdin):
        if not line:
            continue
        if is_command(line):
            outcome = run_command(line, session)
            if outcome.leave:
                return
            if outcome.text:
                console.message(outcome.text)
            continue
        _say(session, line)
        _show_reward(session)


def _say(session: ChatSession, text: str) -> None:
    """Write a reply while it comes."""
    with contextlib.closing(session.reply(text)) as pieces:
        for piece in pieces:
            _write(piece.translate(_CONTROLS))
    _write("\n")


def _show_reward(session: ChatSession) -> None:
    score = session.score()
    if score is not None and session.reward is not None:
        _note(reward_line(score, session.reward.scale))


def _prepare_editing() -> None:
    """History with the arrow keys, and pasted line breaks that do not send the message (GNU readline)."""
    with contextlib.suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def _prompt() -> str:
    # \001 and \002 tell readline that what is between them takes no room on the line.
    return "\001\x1b[1m\002you>\001\x1b[0m\002 " if console.results.color_system else "you> "


def _note(text: str) -> None:
    """What the program itself says: dimmed on a terminal, plain in a pipe."""
    console.results.print(Text(text, style="dim"), soft_wrap=True)


def _write(text: str) -> None:
    console.write_result(text)
