"""The token at which the score of a dialogue is read: the one at which the maker of a reward model reads it.

Ours are trained on the end token of the answer. TRL, RewardBench and most others score the last token of the text from
``apply_chat_template``, which in ChatML is the line break behind the end token. DeepSpeed-Chat and OpenRLHF write an
end token of their own behind the dialogue, and the chat templates of their tokenizers do so here.
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
_UNLIMITED = 1_000_000  # tokens of a dialogue, for a model with unlimited positions


def at_end_token(config: Any) -> bool:
    """Check whether a reward model is read at the end token of the answer: ours are, unless the config says otherwise.

    Args:
        config: The transformers config of the reward model.
    """
    ours = getattr(config, "rlhf", None) or {}
    return bool(ours) and ours.get("reads") != TEMPLATE


class Reader:
    """Converts dialogues to token ids, the last of which is the one that a reward model scores.

    Args:
        model: The reward model.
        tokenizer: The tokenizer of the reward model, with a chat template.
    """

    def __init__(self, model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._max_length = context_limit(model.model) or _UNLIMITED
        self._encoder = Encoder(tokenizer, self._max_length) if at_end_token(model.config) else None
        self._pieces = PieceTokenizer(tokenizer)

    def read(self, turns: Sequence[Turn]) -> tuple[list[int], int] | None:
        """Convert a dialogue that ends with an answer.

        Args:
            turns: The dialogue; the oldest turns are left out if it is too long.

        Returns:
            Token ids, and the index at which the answer begins; ``None`` if the template cannot express the dialogue.
        """
        if self._encoder is not None:
            dialogue = Dialogue(tuple(turns), Origin("chat", f"turn {len(turns)}"))
            example = self._encoder.dialogues([dialogue])[0].example
            return None if example is None else (example.ids, example.spans[-1][0])
        return self._apply_template(list(turns))

    def _apply_template(self, turns: list[Turn]) -> tuple[list[int], int] | None:
        """Return the tokens of ``apply_chat_template``, except that special tokens typed by a user stay text."""
        first = 1 if turns[0].role == "system" else 0
        while len(turns) > first:
            try:
                shielded = [as_message(replace(turn, content=self._pieces.shield(turn.content))) for turn in turns]
                text: Any = self._tokenizer.apply_chat_template(shielded, tokenize=False)
                ids = self._pieces.tokenise([text])[0]
            except (jinja2.TemplateError, RowProblem, TypeError, ValueError, KeyError):
                return None
            if len(ids) <= self._max_length:
                return ids, 0
            del turns[first : first + 2]
        return None
