"""Where the score of a dialogue is read: at the token at which the maker of a reward model reads it.

Ours are trained on the end token of the answer. TRL, RewardBench and most others score the last token of what
``apply_chat_template`` gives, which in ChatML is the line break behind the end token. DeepSpeed-Chat and OpenRLHF write
an end token of their own behind the dialogue; the templates of their tokenizers do the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from rlhfcli.core.generation.decode import context_limit
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.templates.template import as_message
from rlhfcli.data.templates.tokens import PieceTokenizer

TEMPLATE = "template"  # value of ``rlhf.reads`` in config.json: the score is at the last token of the template's text
_ENDLESS = 1_000_000  # tokens of a dialogue for a model whose positions have no end


def at_end_token(config: Any) -> bool:
    """Whether a reward model is read at the end token of the answer: one of ours, unless its config says otherwise."""
    ours = getattr(config, "rlhf", None) or {}
    return bool(ours) and ours.get("reads") != TEMPLATE


class Reader:
    """Makes token ids of dialogues, whose last one is where a reward model is read.

    Args:
        model: The reward model.
        tokenizer: Its own, with a chat template.
    """

    def __init__(self, model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._room = context_limit(model.model) or _ENDLESS
        self._encoder = Encoder(tokenizer, self._room) if at_end_token(model.config) else None
        self._pieces = PieceTokenizer(tokenizer)

    def read(self, turns: Sequence[Turn]) -> tuple[list[int], int] | None:
        """Token ids of a dialogue that ends with an answer, and where the answer begins.

        Args:
            turns: Where they are too long, the oldest ones are left out.

        Returns:
            ``None`` where the template cannot write the dialogue.
        """
        if self._encoder is not None:
            dialogue = Dialogue(tuple(turns), Origin("chat", f"turn {len(turns)}"))
            example = self._encoder.dialogues([dialogue])[0].example
            return None if example is None else (example.ids, example.spans[-1][0])
        return self._written(list(turns))

    def _written(self, turns: list[Turn]) -> tuple[list[int], int] | None:
        """What ``apply_chat_template`` gives, but for special tokens that somebody typed: those stay text."""
        first = 1 if turns[0].role == "system" else 0
        while len(turns) > first:
            try:
                shielded = [as_message(replace(turn, content=self._pieces.shield(turn.content))) for turn in turns]
                text: Any = self._tokenizer.apply_chat_template(shielded, tokenize=False)
                ids = self._pieces.tokenise([text])[0]
            except (jinja2.TemplateError, RowProblem, TypeError, ValueError, KeyError):
                return None
            if len(ids) <= self._room:
                return ids, 0
            del turns[first : first + 2]
        return None
