"""Streamed text is complete: no split characters, no lost spaces, nothing after a stop string."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlhfcli.core.generation.text_stream import TextStream, cut, turn_stops


def byte_tokenizer() -> Any:
    """One token per byte, as byte-level BPE falls back to for rare characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace_tokenizer() -> Any:
    """A tokenizer like Llama 2's: a space belongs to the word after it, and the first one is dropped."""
    words = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁a", "▁cat", "s", ",", "▁the"]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


BYTES, SPACES = byte_tokenizer(), metaspace_tokenizer()


def pieces(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    text = TextStream(tokenizer, stops)
    parts = [text.push(token) for token in ids]
    return [*parts, text.finish()]


@given(st.text(alphabet=st.sampled_from("aé漢🙂👩‍🚀 \n.'"), max_size=30))
def test_pieces_never_split_a_character(text: str) -> None:
    shown = pieces(BYTES, BYTES.encode(text))
    assert "".join(shown) == text
    assert all("\ufffd" not in piece for piece in shown)


words = st.sampled_from(range(257, len(SPACES))).map(lambda token: [token])
characters = st.sampled_from("aé漢🙂\n").map(lambda c: [1 + byte for byte in c.encode()])


@given(st.lists(words | characters, max_size=12))
def test_pieces_make_up_the_whole_text_where_spaces_belong_to_words(parts: list[list[int]]) -> None:
    ids = [token for part in parts for token in part]
    whole = SPACES.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    shown = pieces(SPACES, ids)
    assert "".join(shown) == whole
    assert all("\ufffd" not in piece for piece in shown)


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    assert pieces(BYTES, BYTES.encode("ab🙂")[:4])[-1] == "\ufffd"


def test_spaces_between_words_are_kept() -> None:
    ids = SPACES.convert_tokens_to_ids(["▁the", "▁cat", "s", ",", "▁a", "▁cat"])
    assert pieces(SPACES, ids) == ["the", " cat", "s", ",", " a", " cat", ""]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Paris.\n\nHuman: and Rome?", "Paris."),
        ("Paris.\n\nHumans live there.", "Paris.\n\nHumans live there."),
        ("Paris.\n\nHum", "Paris.\n\nHum"),
        ("\n\n\nHuman: x", "\n"),
        ("\n\nHuman:", ""),
        ("Paris <|user|> \n\nHuman:", "Paris "),
    ],
)
def test_stop_strings_cut_the_answer(text: str, shown: str) -> None:
    stops = ("\n\nHuman:", "<|user|>")
    parts = pieces(BYTES, BYTES.encode(text), stops)
    assert "".join(parts) == shown
    for n in range(len(parts)):
        assert not any(stop in "".join(parts[:n]) for stop in stops)


def test_a_stream_records_that_it_was_stopped() -> None:
    text = TextStream(BYTES, ["END"])
    for token in BYTES.encode("abcEND"):
        assert not text.stopped
        text.push(token)
    assert text.stopped
    assert text.push(BYTES.encode("x")[0]) == "" == text.finish()


def test_cut_is_the_same_for_whole_texts() -> None:
    assert cut(" Paris.\n\nHuman: x\n\nHuman: y", ["\nHuman:"]) == "Paris."
    assert cut(" Paris. ", []) == "Paris."


HUMAN_ASSISTANT = (
    "{% for m in messages %}{% if m.role == 'user' %}Human: {{ m.content }}\n\nAssistant:"
    "{% else %} {{ m.content }}{{ eos_token }}\n\n{% endif %}{% endfor %}"
)
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        (HUMAN_ASSISTANT, ("\nHuman:",)),
        (HUMAN_ASSISTANT.replace("\n\n", " "), (" Human:",)),
        (CHATML, ()),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", ()),
        ("{{ raise_exception('only one turn') }}", ()),
    ],
    ids=["human_assistant", "one line", "chatml", "no words", "refuses"],
)
def test_the_words_that_open_the_users_turn_are_found(template: str, stops: tuple[str, ...]) -> None:
    tokenizer = byte_tokenizer()
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"eos_token": "</s>", "additional_special_tokens": specials})
    tokenizer.chat_template = template
    assert turn_stops(tokenizer) == stops
