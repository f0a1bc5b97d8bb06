"""The base model's tokenizer: byte-level BPE with the special tokens of OPT.

``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3; beginning and end are both ``</s>``, which the tokenizer puts in front
of every text; each digit is a token of its own.
"""

from __future__ import annotations

from typing import Any

from rlhfcli.tiny.dialogues import dialogues
from rlhfcli.tiny.plain_text import plain_text
from rlhfcli.tiny.skills import manners
from rlhfcli.tiny.world import facts

VOCABULARY = 1024
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_DOCUMENTS, _DIALOGUES, _WORD_REPEATS = 3000, 1000, 300


def _sample(seed: int) -> list[str]:
    """Return the texts for training the merges: plain text, and dialogues with their turn markers."""
    texts = list(plain_text(_DOCUMENTS, seed))
    for row in dialogues(_DIALOGUES, seed, reading=True):
        for message in row["messages"]:
            role = "Human:" if message["role"] == "user" else "\n\nAssistant:"
            texts.append(f"{role} {message['content']}")
    # each entry of the closed lists should become one token or two, however rare it is
    tables = (
        facts.CAPITALS,
        facts.COLOURS,
        facts.SOUNDS,
        facts.OPPOSITES,
        facts.KINDS,
        facts.HOW_TO,
        facts.ABILITIES,
    )
    words = [f" {key} {value}" for table in tables for key, value in table.items()]
    words += [f" {word}" for group in (*facts.FAVOURITES.values(), facts.COUNTING, facts.WORDS) for word in group]
    words += [f" {manners.REFUSAL} {manners.CONSENT} {manners.DO_NOT_KNOW}"]
    return texts + words * _WORD_REPEATS


def train_tokenizer(seed: int) -> Any:
    """Train the vocabulary on a sample of the generated texts.

    Args:
        seed: Seed of the sample.

    Returns:
        A transformers tokenizer.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # one digit, with the space before it, is one token
            pre_tokenizers.Split(Regex(r" ?\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_sample(seed), trainer)
    core.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", SPECIAL_TOKENS.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
