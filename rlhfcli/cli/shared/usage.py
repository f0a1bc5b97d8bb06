"""Help that fits its terminal, and suggestions for mistyped commands."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from typer.core import TyperCommand, TyperGroup

from rlhfcli.errors import UsageError

ORDER = ("prepare-data", "sft", "reward", "eval", "chat", "run", "runs", "export", "bench", "recipes", "doctor")
_SYNONYMS = {  # our verb: the names that other tools have for it
    "sft": "train finetune fine-tune tune training trainer lora phase1 step1",
    "reward": "rm train-rm reward-model train-reward reward-modeling phase2 step2",
    "eval": "evaluate evaluation test measure lm-eval score",
    "chat": "talk infer inference generate predict ask cli webui",
    "prepare-data": "prepare preprocess process tokenize tokenise dataset datasets data",
    "run": "all start pipeline quickstart demo",
    "runs": "ls list status ps history",
    "export": "merge merge-lora convert save push upload",
    "bench": "benchmark speed profile tune-batch",
    "recipes": "recipe config configs init template new",
    "doctor": "check env info diagnose system",
}
_BY_NAME = {name: verb for verb, names in _SYNONYMS.items() for name in names.split()}
_MISSING = {  # what other tools do and this one does not
    "serve": "rlhf serves no models. rlhf chat talks to one; vllm serve FOLDER/sft/final serves it.",
    "api": "rlhf serves no models. rlhf chat talks to one; vllm serve FOLDER/sft/final serves it.",
    "ppo": "rlhf has phases 1 and 2; its reward models load in TRL, OpenRLHF and DeepSpeed-Chat for phase 3.",
    "dpo": "rlhf has phases 1 and 2; the same pairs train a reward model: rlhf reward",
    "resume": "A training continues with --resume: rlhf sft --resume",
    "continue": "A training continues with --resume: rlhf sft --resume",
}
_REWORDED = {  # messages of the library that reads the options
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
    "Input should be greater than or equal to": "must be at least",
    "Value error, ": "",
}


class Verb(TyperCommand):
    """A command whose help is wrapped at the width of the terminal and not at that of the source."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.help:
            self.help = reflow(self.help)
        for parameter in self.params:
            _without_type(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``.

        Args:
            ctx: Typer's context.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            _without_type(option)
        return option


class Group(TyperGroup):
    """A group of commands whose help has no column of types."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``.

        Args:
            ctx: Typer's context.
        """
        option = super().get_help_option(ctx)
        for each in (*self.params, *([option] if option is not None else [])):
            _without_type(each)
        return option


class Verbs(Group):
    """The verbs, listed in the order of their use; typer would put all groups last."""

    def list_commands(self, ctx: Any) -> list[str]:  # typer hides the context's type
        """Return their names in order.

        Args:
            ctx: Typer's context.
        """
        return [name for name in ORDER if name in self.commands]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb; ``help`` and ``version`` work as if they were options.

        Args:
            ctx: Typer's context.
            args: The words of the command line.

        Raises:
            UsageError: There is no such verb.
        """
        name, rest = args[0], args[1:]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name == "help":
            return super().resolve_command(ctx, [rest[0], "--help"]) if rest else (None, _alias(self, "--help"), [])
        if name == "version":
            return None, _alias(self, "--version"), []
        raise UsageError(f"there is no command {name}", where="rlhf", hint=advice(name))


def _alias(group: Verbs, option: str) -> TyperCommand:
    """Return a command that does the same as an option of the group."""

    def show() -> None:
        group.main([option], prog_name="rlhf")

    return TyperCommand(option.lstrip("-"), callback=show)


def advice(name: str) -> str:
    """Suggest a command for a name that is none.

    Args:
        name: The word that was typed.

    Returns:
        A sentence.
    """
    typed = name.lower().replace("_", "-")
    if typed in _MISSING:
        return _MISSING[typed]
    if typed in ORDER or typed in _BY_NAME:
        return f"Did you mean rlhf {_BY_NAME.get(typed, typed)}?"
    near = difflib.get_close_matches(typed, [*ORDER, *_BY_NAME], n=1, cutoff=0.6)
    if near:
        return f"Did you mean rlhf {_BY_NAME.get(near[0], near[0])}?"
    return f"There is {', '.join(ORDER)}. See: rlhf --help"


def usage_error(error: Exception) -> UsageError | None:
    """Translate an error of typer's about the command line into ours.

    Args:
        error: Any error.

    Returns:
        ``None`` for any other error.
    """
    format_message, command = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if not callable(format_message) or getattr(error, "exit_code", None) != 2:
        return None
    path = command.command_path if command is not None else "rlhf"
    text = str(format_message()).rstrip(".").replace("'", "")
    for theirs, ours in _REWORDED.items():
        text = text.replace(theirs, ours)
    return UsageError(text[:1].lower() + text[1:], where=path, hint=f"See: {path} --help")


def reflow(text: str) -> str:
    """Remove the line breaks inside the paragraphs of a docstring.

    Args:
        text: The docstring; a paragraph with an indented line stays as it is.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if "\n " in part else " ".join(part.split("\n")) for part in paragraphs)


def _without_type(parameter: Any) -> None:
    """Remove the type of a parameter from its help, where it says nothing that the name does not."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.param_type_name == "argument" and hasattr(parameter, "display_type_rich"):
        parameter.display_type_rich = lambda ctx: None


def no_arguments(error: Exception) -> bool:
    """Return whether typer has shown the help because nothing was typed.

    Args:
        error: Any error.
    """
    return type(error).__name__ == "NoArgsIsHelpError"
