"""The tokenizer of a reward model: its chat template ends where the maker of the model reads the score."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhfcli.core.model_files.peft_format import is_adapter
from rlhfcli.core.models import deepspeed_chat
from rlhfcli.core.models import loading as models
from rlhfcli.data.templates.scored_template import ending_at_score, ending_with_eos
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import Recipe


def reward_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model, whose template ends where the maker of the model reads the score.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with it.

    Raises:
        ModelError: It cannot be loaded.
    """
    folder = Path(models.resolve(name))
    if not is_adapter(folder) and deepspeed_chat.is_checkpoint(folder):
        return deepspeed_chat.tokenizer_of(folder)
    tokenizer = models.load_tokenizer(name, trust_remote_code=trust_remote_code)
    if is_adapter(folder):
        return tokenizer
    config = models.load_config(name, trust_remote_code=trust_remote_code)
    openrlhf = "RewardModel" in (config.architectures or ()) or hasattr(config, "value_head_prefix")
    return ending_with_eos(tokenizer) if openrlhf else tokenizer


def other_template(base: str, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> str:
    """What there is to say where a reward model is trained on with another template than its own; else empty.

    Args:
        base: Hub name or folder of the reward model.
        tokenizer: With the template of this training.
        recipe: All settings.
    """
    try:
        own = reward_tokenizer(base, trust_remote_code=recipe.model.trust_remote_code).chat_template
    except ModelError:  # it came without a tokenizer
        return ""
    if not own or own == ending_at_score(tokenizer).chat_template:
        return ""
    return (
        f"{base} scores the last token of its own chat template; it is trained on the end token of answers in "
        f"data.template: {recipe.data.template}. Its first figures may be worse than they were"
    )
