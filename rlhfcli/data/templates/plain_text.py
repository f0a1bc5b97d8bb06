"""Write rows of plain text, as for pre-training: all of it is trained on, without the words of a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.templates.template import writes_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plain_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Write plain text with the BOS and EOS of a tokenizer.

    Args:
        tokenizer: The tokenizer; its BOS is written if it puts one before every text.
        text: The text of the row.

    Returns:
        The given piece, and the piece to train on, which ends with EOS.

    Raises:
        RowProblem: The text contains a special token: a chat template has been applied already.
    """
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and str(token) in text:
            raise RowProblem(f"text holds the special token {token}: give messages, not what a template made of them")
    begin = str(tokenizer.bos_token) if writes_bos(tokenizer) else ""
    return [begin, text + str(tokenizer.eos_token or "")]
