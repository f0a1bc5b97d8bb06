"""Chat templates for tokenizers that have none."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from rlhfcli.data.templates.template import check_writes_user, set_template
from rlhfcli.recipe.schema import DataSection


def with_template(tokenizer: PreTrainedTokenizerBase, name: str, template: str | None) -> PreTrainedTokenizerBase:
    """Give a tokenizer a chat template if it has none, and check that it can write a conversation.

    Args:
        tokenizer: Changed in place.
        name: Its folder or hub name, for errors.
        template: As ``data.template`` names it; left out, that key's default.

    Returns:
        The tokenizer.

    Raises:
        ModelError: The template cannot write a conversation.
    """
    if not tokenizer.chat_template:
        set_template(tokenizer, template or DataSection.model_fields["template"].default)
    check_writes_user(tokenizer, name)
    return tokenizer
