"""Make a reward model's chat template end where the score is read: at the end token of the last answer.

ChatML and others write more behind that token, mostly a line break. Users of a reward model score the last token that
``apply_chat_template`` gives; training scores the end token. So the template that is saved with a reward model leaves
out what follows it.
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
    """Return a tokenizer whose template writes the text that a reward model was trained on, up to the scored token.

    Args:
        tokenizer: The tokenizer, with its chat template; it is not changed.

    Returns:
        A copy with another template: it writes the fixed date of training, and nothing behind the end token of the last
        answer. The tokenizer itself if its template does that already, or writes no end token.
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
    """Return the template's text behind the end token of the last answer; empty if there is none, or no such token.

    Args:
        tokenizer: The tokenizer, with its chat template.
    """
    try:
        close, whole = TemplateWords(tokenizer, PieceTokenizer(tokenizer)).closing(EXCHANGE)
    except (DataError, RowProblem):
        return ""
    return whole[len(close) :]


def _same_but(tokenizer: PreTrainedTokenizerBase, cut: PreTrainedTokenizerBase, rest: str) -> bool:
    """Return whether two templates write equal dialogues, but for the rest, and equal prompts."""
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
    """Return a tokenizer whose template ends with EOS, as OpenRLHF trains reward models with any template.

    Args:
        tokenizer: The tokenizer, with its chat template; it is not changed.
    """
    if not isinstance(tokenizer.chat_template, str):
        return tokenizer
    forced = copy.deepcopy(tokenizer)
    forced.chat_template = _EOS.format(template=tokenizer.chat_template.removesuffix("\n"))
    return forced
