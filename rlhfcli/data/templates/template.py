"""Render turns with chat templates: Jinja templates on the tokenizer, which is saved with them.

A template writes every special token itself, and its text is tokenised with ``add_special_tokens=False``: that is
transformers' convention, and it prevents a second BOS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = "human_assistant"  # the name of the template that comes with rlhf

# The generation prompt has no space at its end, and the answer begins with one: byte-level tokenizers make
# one token of a space and the word behind it, so a prompt that ends with a space could not be followed by
# that token.
HUMAN_ASSISTANT = r"""{%- for message in messages -%}
{%- if not loop.first -%}{{ '\n\n' }}{%- endif -%}
{%- set text = message['content'].rstrip().lstrip('\n') -%}
{%- set indented = text[:4] == '    ' or text[:1] == '\t' or (text[:2] == '  ' and '\n' in text) -%}
{%- set content = text if indented else text | trim -%}
{%- if message['role'] == 'system' -%}{{ content }}
{%- elif message['role'] == 'user' -%}{{ 'Human: ' + content }}
{%- elif message['role'] == 'assistant' -%}{{ 'Assistant: ' + content + eos_token }}
{%- elif message['role'] == 'tool' -%}{{ 'Tool: ' + content }}
{%- else -%}{{ raise_exception('unknown role ' + message['role']) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '\n\nAssistant:' }}{%- endif -%}"""
"""DeepSpeed-Chat's words, with an end token behind every answer. White space around a text goes, but for an indentation
of its first line: code begins with one."""

HUMAN_ASSISTANT_WITH_BOS = "{{- bos_token -}}\n" + HUMAN_ASSISTANT
"""The same for tokenizers that put BOS in front of every text."""

FIXED_DATE = datetime(2024, 7, 26)
"""The date that templates write for today: rows make the same tokens on every day, in training and in chat."""

THOUGHT_BEGINS = re.compile(r"<(\w+)>\s*$")
"""The end of a generation prompt with which the answer begins with reasoning."""

_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_TRANSFORMERS_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # not Jinja's own


def set_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Give a tokenizer the chat template that a recipe names.

    Args:
        tokenizer: The tokenizer; it is changed in place, and saves the template.
        template: ``human_assistant``, ``model`` (the tokenizer's own), or a ``.jinja`` file.

    Raises:
        DataError: The tokenizer has no template of its own, or the file cannot be read.
    """
    if template == BUILT_IN:
        tokenizer.chat_template = HUMAN_ASSISTANT_WITH_BOS if writes_bos(tokenizer) else HUMAN_ASSISTANT
    elif template == "model":
        if not tokenizer.chat_template:
            raise DataError(
                "the model's tokenizer has no chat template of its own",
                where="data.template: model",
                hint="Use data.template: human_assistant, or name a .jinja file.",
            )
    else:
        tokenizer.chat_template = _read_template(template)


def writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer puts BOS before every text by itself.

    Args:
        tokenizer: The tokenizer.
    """
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], generation_prompt: bool, tools: str = "") -> str:
    """Write turns with the tokenizer's template.

    Args:
        tokenizer: The tokenizer, with its chat template.
        turns: The dialogue.
        generation_prompt: Whether to append the words after which the assistant's answer begins.
        tools: The tools that the assistant may call, as a JSON list; empty for none.

    Returns:
        Text with all special tokens.

    Raises:
        jinja2.TemplateError: The template refuses these turns.
    """
    messages = [as_message(turn) for turn in turns]
    given = json.loads(tools) if tools else None
    template = with_fixed_date(tokenizer.chat_template) if writes_date(tokenizer) else None
    try:
        text = tokenizer.apply_chat_template(
            messages, given, chat_template=template, tokenize=False, add_generation_prompt=generation_prompt
        )
    except jinja2.TemplateError:
        raise
    except Exception as error:  # a template is a program: it may add a number to a text, or include a file
        raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error
    return str(text)


def ignored_by(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return which of a dialogue's ``tools`` and an answer's ``reasoning`` a chat template leaves out.

    Args:
        tokenizer: The tokenizer, with its chat template.

    Returns:
        The names of what it leaves out; none if it refuses the dialogue that it is tried with.
    """
    mark = "\ue000tried\ue001"
    tools = json.dumps([{"type": "function", "function": {"name": mark, "description": "", "parameters": {}}}])
    turns = [Turn("user", "a"), Turn("assistant", "b", mark)]
    found = []
    for name, given in (("tools", tools), ("reasoning", "")):
        try:
            text = render(tokenizer, turns if name == "reasoning" else turns[:1], name == "tools", given)
        except jinja2.TemplateError:
            continue
        if mark not in text and json.dumps(mark)[1:-1] not in text:
            found.append(name)
    if "reasoning" in found and THOUGHT_BEGINS.search(render(tokenizer, turns[:1], True)):
        found.remove("reasoning")  # it follows the thought that the generation prompt begins
    return found


def check_writes_user(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Check that a chat template can write a user's message.

    Args:
        tokenizer: The tokenizer, with its chat template.
        model: The name of the model, for the error.

    Raises:
        DataError: The template fails, or leaves the message out.
    """
    said, hint = "\ue000said\ue001", "Talk to it with another template: remove its own, and set data.template."
    try:
        text = render(tokenizer, [Turn("user", said)], generation_prompt=True)
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template fails: {error}", where=model, hint=hint) from None
    if said not in text:
        raise DataError("the chat template leaves out what the user says", where=model, hint=hint)


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes the date of today.

    Args:
        tokenizer: The tokenizer, with its chat template.
    """
    return isinstance(tokenizer.chat_template, str) and "strftime_now" in tokenizer.chat_template


@cache
def with_fixed_date(template: str) -> str:
    """Return a chat template that writes ``FIXED_DATE`` in place of the date of today.

    Args:
        template: The chat template.
    """
    return _TODAY.sub(lambda found: json.dumps(FIXED_DATE.strftime(found[2]), ensure_ascii=False), template)


def trim(content: str) -> str:
    """Return a content as ``human_assistant`` writes it: without white space around it, but for an indentation.

    Args:
        content: The content of a turn.
    """
    text = content.rstrip().lstrip("\n")
    indented = text.startswith(("    ", "\t")) or (text.startswith("  ") and "\n" in text)
    return text if indented else text.strip()


def as_message(turn: Turn) -> dict[str, Any]:
    """Return a turn as a message for templates; ``reasoning_content`` is the key of Qwen, DeepSeek, SmolLM and vLLM.

    Args:
        turn: The turn.
    """
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message |= json.loads(turn.calls)
    return message | {"reasoning_content": turn.reasoning} if turn.reasoning else message


def _read_template(name: str) -> str:
    path = Path(name).expanduser()
    if path.suffix not in (".jinja", ".jinja2", ".j2"):
        raise DataError(
            f"there is no template {name!r}",
            where="data.template",
            hint="Use human_assistant, model (the tokenizer's own), or the path of a .jinja file.",
        )
    try:
        text = path.read_text(encoding="utf-8")
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_TRANSFORMERS_TAGS.sub("", text))
    except OSError as error:
        raise DataError(f"the template cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"the template is not UTF-8 (byte {error.start})", where=str(path)) from None
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"not a Jinja template: {error.message}", where=f"{path}:{error.lineno}") from None
    return text
