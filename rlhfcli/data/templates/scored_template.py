"""The chat template of a reward model ends where the score is read: at the end token of the last answer.

ChatML and others write more behind that token, a line break mostly. Whoever loads a reward model scores the last token
of what ``apply_chat_template`` gives him; training scores the end token. So the template that a reward model is saved
with leaves out what follows.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import jinja2

from rlhfcli.data.dialogues.dialogue import Role, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.templates.template import render, with_fixed_date, writes_date
from rlhfcli.data.templates.tokens import PieceTokenizer
from rlhfcli.data.templates.words import EXCHANGE, TemplateWords
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue000"
_TRIALS: tuple[tuple[Role, ...], ...] = (
    ("user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
)
# trim_blocks, with which transformers renders, takes the line break behind the first tag away
_CUT = """{{%- set dialogue %}}
{template}{{%+ endset %}}
{{%- set rest = {rest} %}}
{{%- if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt and dialogue.endswith(rest) %}}
{{{{- dialogue[:-(rest | length)] }}}}
{{%- else %}}
{{{{- dialogue }}}}
{{%- endif %}}"""

_EOS = """{{%- set dialogue %}}
{template}{{%+ endset %}}
{{%- if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt %}}
{{%- set text = dialogue.rstrip('\\n') %}}
{{{{- text if text.endswith(eos_token) else text + ' ' + eos_token }}}}
{{%- else %}}
{{{{- dialogue }}}}
{{%- endif %}}"""


def ending_at_score(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose template writes what a reward model was trained on, up to the token where its score is read.

    Args:
        tokenizer: With a chat template; stays as it is.

    Returns:
        A copy with another template: the day of training in place of today's, nothing behind the end token of the last
        answer. Itself where its template is so already, or writes no end token.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return tokenizer
    rest = text_behind_end(tokenizer)
    changed = with_fixed_date(template) if writes_date(tokenizer) else template
    if rest:  # a template's own last line break is no part of its text
        changed = _CUT.format(template=changed.removesuffix("\n"), rest=json.dumps(rest, ensure_ascii=True))
    if changed == template:
        return tokenizer
    cut = copy.deepcopy(tokenizer)
    cut.chat_template = changed
    return cut if _same_but(tokenizer, cut, rest) else tokenizer


def text_behind_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes behind the end token of the last answer; empty where there is nothing, or no such token.

    Args:
        tokenizer: With a chat template.
    """
    try:
        close, whole = TemplateWords(tokenizer, PieceTokenizer(tokenizer)).closing(EXCHANGE)
    except (DataError, RowProblem):
        return ""
    return whole[len(close) :]


def _same_but(tokenizer: PreTrainedTokenizerBase, cut: PreTrainedTokenizerBase, rest: str) -> bool:
    """Whether two templates write the same dialogues but for the rest, and the same prompts."""
    for roles in _TRIALS:
        whole = _written(tokenizer, roles)
        if whole is not None and _written(cut, roles) != whole.removesuffix(rest):
            return False
        prompt = _written(tokenizer, roles[:-1], generation_prompt=True)
        if prompt is not None and _written(cut, roles[:-1], generation_prompt=True) != prompt:
            return False
    return True


def _written(
    tokenizer: PreTrainedTokenizerBase, roles: tuple[Role, ...], *, generation_prompt: bool = False
) -> str | None:
    turns = [Turn(role, f"{_MARK}{number}") for number, role in enumerate(roles)]
    try:
        return render(tokenizer, turns, generation_prompt)
    except (jinja2.TemplateError, TypeError, KeyError, ValueError):  # some refuse a system turn
        return None


def ending_with_eos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose template ends with its end token, as OpenRLHF trains reward models, whatever the template.

    Args:
        tokenizer: With a chat template; stays as it is.
    """
    if not isinstance(tokenizer.chat_template, str):
        return tokenizer
    forced = copy.deepcopy(tokenizer)
    forced.chat_template = _EOS.format(template=tokenizer.chat_template.removesuffix("\n"))
    return forced
