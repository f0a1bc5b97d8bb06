"""Rows of plain text, as language models are pre-trained on: all of it is learnt, without a chat template's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.templates.template import writes_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plain_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Write plain text with what a tokenizer puts around every text.

    Args:
        tokenizer: Its BOS is given where it writes one by itself, its EOS is learnt.
        text: Of the row.

    Returns:
        What is given, and what is learnt.

    Raises:
        RowProblem: A special token stands in it, so that a chat template has written it already.
    """
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and str(token) in text:
            raise RowProblem(f"text holds the special token {token}: give messages, not what a template made of them")
    begin = str(tokenizer.bos_token) if writes_bos(tokenizer) else ""
    return [begin, text + str(tokenizer.eos_token or "")]
