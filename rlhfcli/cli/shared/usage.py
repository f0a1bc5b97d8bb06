"""How the command line explains itself: help that fits its terminal, and what may have been meant by a wrong word."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from typer.core import TyperCommand, TyperGroup

from rlhfcli.errors import UsageError

ORDER = ("prepare-data", "sft", "reward", "eval", "chat", "run", "runs", "export", "bench", "recipes", "doctor")
_MEANT = {  # what other tools call it → what to type here
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
_BY_NAME = {name: verb for verb, names in _MEANT.items() for name in names.split()}
_NOT_HERE = {
    "serve": "rlhf serves no models. rlhf chat talks to one; vllm serve FOLDER/sft/final serves it.",
    "api": "rlhf serves no models. rlhf chat talks to one; vllm serve FOLDER/sft/final serves it.",
    "ppo": "rlhf has phases 1 and 2; its reward models load in TRL, OpenRLHF and DeepSpeed-Chat for phase 3.",
    "dpo": "rlhf has phases 1 and 2; the same pairs train a reward model: rlhf reward",
    "resume": "A training continues with --resume: rlhf sft --resume",
    "continue": "A training continues with --resume: rlhf sft --resume",
}
_WORDS = {  # of the library that reads the options
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
    "Input should be greater than or equal to": "must be at least",
    "Value error, ": "",
}


class Verb(TyperCommand):
    """A command whose help is wrapped where the terminal ends, and not where the source does."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.help:
            self.help = reflow(self.help)
        for parameter in self.params:
            _without_type(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """The option ``--help``."""
        option = super().get_help_option(ctx)
        if option is not None:
            _without_type(option)
        return option


class Group(TyperGroup):
    """A group of commands whose help says as little of types."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option ``--help``."""
        option = super().get_help_option(ctx)
        for each in (*self.params, *([option] if option is not None else [])):
            _without_type(each)
        return option


class Verbs(Group):
    """The verbs, listed as one uses them; typer would put all groups last."""

    def list_commands(self, ctx: Any) -> list[str]:  # typer hides the context's type
        """Their names in order."""
        return [name for name in ORDER if name in self.commands]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb; ``help`` and ``version`` are what everybody tries.

        Raises:
            UsageError: There is none of this name.
        """
        name, rest = args[0], args[1:]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name == "help":
            return super().resolve_command(ctx, [rest[0], "--help"]) if rest else (None, _again(self, "--help"), [])
        if name == "version":
            return None, _again(self, "--version"), []
        raise UsageError(f"there is no command {name}", where="rlhf", hint=advice(name))


def _again(group: Verbs, option: str) -> TyperCommand:
    """A command that does what an option of the group does."""

    def show() -> None:
        group.main([option], prog_name="rlhf")

    return TyperCommand(option.lstrip("-"), callback=show)


def advice(name: str) -> str:
    """What may have been meant by a verb that there is not.

    Args:
        name: What was typed.

    Returns:
        A sentence.
    """
    typed = name.lower().replace("_", "-")
    if typed in _NOT_HERE:
        return _NOT_HERE[typed]
    if typed in ORDER or typed in _BY_NAME:
        return f"Did you mean rlhf {_BY_NAME.get(typed, typed)}?"
    near = difflib.get_close_matches(typed, [*ORDER, *_BY_NAME], n=1, cutoff=0.6)
    if near:
        return f"Did you mean rlhf {_BY_NAME.get(near[0], near[0])}?"
    return f"There is {', '.join(ORDER)}. See: rlhf --help"


def usage_error(error: Exception) -> UsageError | None:
    """The same in our form, if it is one of typer's about what was typed.

    Args:
        error: Anything.

    Returns:
        ``None`` for any other error.
    """
    told, command = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if not callable(told) or getattr(error, "exit_code", None) != 2:
        return None
    path = command.command_path if command is not None else "rlhf"
    text = str(told()).rstrip(".").replace("'", "")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return UsageError(text[:1].lower() + text[1:], where=path, hint=f"See: {path} --help")


def reflow(text: str) -> str:
    """Paragraphs without the line breaks of their source.

    Args:
        text: Of a docstring; a line that is indented stays one.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if "\n " in part else " ".join(part.split("\n")) for part in paragraphs)


def _without_type(parameter: Any) -> None:
    """Leave out what a column of types would say of it: nothing that its name does not."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.param_type_name == "argument" and hasattr(parameter, "display_type_rich"):
        parameter.display_type_rich = lambda ctx: None


def no_arguments(error: Exception) -> bool:
    """Whether typer has shown the help because nothing was typed."""
    return type(error).__name__ == "NoArgsIsHelpError"
