"""Loading the tokenizers of language models and reward models.

The pad token is never the end token, or the end of an answer could not be learned: a tokenizer without a pad token of
its own gets a reserved token of its vocabulary, else a new one. The chat template of a reward model ends where the
maker of the model reads the score.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhfcli.core.model_files import deepspeed_chat_format
from rlhfcli.core.model_files.load_errors import explained
from rlhfcli.core.model_files.model_folder import check_sentencepiece, refuse_pointers
from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.models.loading import load_config, resolve
from rlhfcli.data.templates.scored_template import ending_at_score, ending_with_eos
from rlhfcli.data.templates.template import HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS, set_template, writes_bos
from rlhfcli.errors import ModelError
from rlhfcli.files import checksums

RESERVED_PADS = ("<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|pad|>", "<unk>")
NEW_PAD = "<|pad|>"
_FILE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"


def load_tokenizer(
    name: str, template: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer, give it a pad token, and set its chat template.

    Args:
        name: Hub name, local folder or ``builtin:tiny``; an adapter without a tokenizer has that of its base model.
        template: Value of ``data.template`` in a recipe (``human_assistant``, ``model``, a .jinja file); ``None``
            keeps the tokenizer's own.
        trust_remote_code: Run code that comes with the tokenizer.

    Returns:
        A tokenizer that pads on the right, with a pad token that is not its end token.

    Raises:
        ModelError: It cannot be loaded, was changed since it was saved, or has no end token.
    """
    folder = Path(resolve(name))
    checksums.verify(folder)
    if folder.is_dir():
        refuse_pointers(folder)
        if is_adapter(folder) and not any((folder / file).is_file() for file in (_FILE, _SETTINGS, "tokenizer.model")):
            return load_tokenizer(base_of(folder), template, trust_remote_code=trust_remote_code)
        check_sentencepiece(folder)
    with explained(name, "tokenizer"):  # an explicit False, else transformers asks on the terminal
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    _check_tokenizer(tokenizer, name)
    _set_pad_token(tokenizer)
    tokenizer.padding_side = "right"
    if template is not None:
        set_template(tokenizer, template)
    return tokenizer


def reward_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a reward model, with a chat template that ends where the model's maker reads the score.

    Args:
        name: Hub name or folder of the reward model.
        trust_remote_code: Run code that comes with it.

    Returns:
        The tokenizer. OpenRLHF's models read an end token that is written behind the dialogue.

    Raises:
        ModelError: It cannot be loaded.
    """
    folder = Path(resolve(name))
    if not is_adapter(folder) and deepspeed_chat_format.is_checkpoint(folder):
        return deepspeed_chat_tokenizer(folder)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    if is_adapter(folder):
        return tokenizer
    config = load_config(name, trust_remote_code=trust_remote_code)
    openrlhf = "RewardModel" in (config.architectures or ()) or hasattr(config, "value_head_prefix")
    return ending_with_eos(tokenizer) if openrlhf else tokenizer


def deepspeed_chat_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a reward model in DeepSpeed-Chat's format.

    Args:
        folder: The folder of the reward model. Where its tokenizer is incomplete, its config names the original.

    Returns:
        The tokenizer; one without a chat template gets that of the texts that DeepSpeed-Chat trains on.

    Raises:
        ModelError: There is no complete tokenizer.
    """
    source = str(folder)
    if not any((folder / name).is_file() for name in (_FILE, _SETTINGS)):
        # DeepSpeed-Chat saves the vocabulary without the list of special tokens
        source = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path") or ""
        if not source:
            hint = "Copy tokenizer.json and tokenizer_config.json of its base model into the folder."
            raise ModelError("the folder has no complete tokenizer", where=str(folder), hint=hint)
    tokenizer = load_tokenizer(source)
    if not tokenizer.chat_template:
        # its texts begin with two line breaks and end with the letters of <|endoftext|>, whatever the end token is
        template = HUMAN_ASSISTANT_WITH_BOS if writes_bos(tokenizer) else HUMAN_ASSISTANT
        tokenizer.chat_template = template.replace("not loop.first", "true").replace("eos_token", "'<|endoftext|>'")
    return tokenizer


def template_change(
    base: str, tokenizer: PreTrainedTokenizerBase, template: str, *, trust_remote_code: bool = False
) -> str:
    """Describe how the chat template of a training differs from that of the reward model that it starts from.

    Args:
        base: Hub name or folder of the reward model.
        tokenizer: The tokenizer of this training, with its chat template.
        template: Value of ``data.template`` in the recipe.
        trust_remote_code: Run code that comes with the reward model.

    Returns:
        A sentence for the user; empty if both score the same token of the same text.
    """
    try:
        own = reward_tokenizer(base, trust_remote_code=trust_remote_code).chat_template
    except ModelError:  # it came without a tokenizer
        return ""
    if not own or own == ending_at_score(tokenizer).chat_template:
        return ""
    return (
        f"{base} scores the last token of its own chat template; it is trained on the end token of answers in "
        f"data.template: {template}. Its first figures may be worse than they were"
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer without a vocabulary, without an end token, or with one that transformers made up."""
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers' result for a missing file
        hint = f"It needs {_FILE}, or its family's own files."
        raise ModelError("the model folder has no tokenizer", where=name, hint=hint)
    if tokenizer.eos_token_id is None:
        hint = f"Set eos_token in its {_SETTINGS}."
        raise ModelError("the tokenizer has no end token", where=name, hint=hint)
    folder = Path(resolve(name))
    file = folder / _FILE
    if (folder / _SETTINGS).is_file() or not file.is_file():
        return
    if Tokenizer.from_file(str(file)).token_to_id(tokenizer.eos_token) is None:
        raise ModelError(
            f"there is no {_SETTINGS}, and the end token that transformers takes instead ({tokenizer.eos_token}) "
            f"is not in {_FILE}",
            where=str(folder),
            hint=f"Copy {_SETTINGS} from where the model comes from: it names the end token.",
        )


def _set_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a pad token that is not its end token, unless it has one."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    reserved = [token for token in RESERVED_PADS if token in vocabulary and token != tokenizer.eos_token]
    tokenizer.add_special_tokens({"pad_token": reserved[0] if reserved else NEW_PAD})
