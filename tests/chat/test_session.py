"""Conversations: what is remembered, what is shown, what the reward model sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import transformers

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.chat.session import ChatOptions, ChatSession
from rlhfcli.chat.transcript import Record
from rlhfcli.core.generation.decode import Decoding
from rlhfcli.core.generation.text_stream import Lead
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.errors import DataError, ModelError
from rlhfcli.recipe.schema import ChatSection
from tests.data.encoding.test_masks import QWEN3

from .conftest import CONTEXT, byte_tokenizer, llama_config

Says = Callable[..., list[list[int]]]


def test_a_conversation_remembers(session: ChatSession, tokenizer: Any, says: Says) -> None:
    prompts = says(" Hello!", " Anna.")
    assert "".join(session.reply("My name is Anna.")) == "Hello!"
    assert "".join(session.reply("Who am I?")) == "Anna."
    assert session.turns == [
        Turn("user", "My name is Anna."),
        Turn("assistant", "Hello!"),
        Turn("user", "Who am I?"),
        Turn("assistant", "Anna."),
    ]
    first = "Human: My name is Anna.\n\nAssistant:"
    assert tokenizer.decode(prompts[1]) == first + " Hello!</s>\n\nHuman: Who am I?\n\nAssistant:"
    session.clear()
    assert session.turns == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (" 你好 👩‍🚀!", "你好 👩‍🚀!"),
        (" One.\n\nTwo.\n\n", "One.\n\nTwo."),
        (" Paris.\n\nHuman: And Rome?\n\nAssistant: Yes", "Paris."),
        (" Paris.</s> junk", "Paris."),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_the_history_has_the_text_that_was_shown(session: ChatSession, says: Says, said: str, shown: str) -> None:
    says(said)
    pieces = list(session.reply("Hi"))
    assert "".join(pieces) == shown
    assert all(pieces)
    assert session.turns == [Turn("user", "Hi"), Turn("assistant", shown)]


LEADS = {
    "an empty thought": (QWEN3, "<think>\n\n</think>\n\nParis.", "Paris."),
    "none, though one is usual": (QWEN3, "Paris.", "Paris."),
    "a thought": (QWEN3, "<think>\nWell\n</think>\n\nParis.", "<think>\nWell\n</think>\n\nParis."),
    "broken off": (QWEN3, "<think>\n", "<think>"),
    "nothing": (QWEN3, "<think>\n\n</think>", ""),
}


@pytest.mark.parametrize(("template", "said", "shown"), LEADS.values(), ids=LEADS.keys())
def test_an_empty_thought_is_not_shown(model: Any, says: Says, template: str, said: str, shown: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template.replace("<|im_end|>", "</s>")
    session = ChatSession(model, tokenizer, Decoding(60))
    says(said)
    assert "".join(session.reply("Where?")) == shown
    assert [turn.content for turn in session.turns] == ["Where?", shown]
    ids = tokenizer(f"{said}</s>")["input_ids"]
    assert Lead(tokenizer).without(ids) == said.rpartition("</think>")[2].strip()


def test_an_interrupted_reply_is_kept(session: ChatSession, says: Says) -> None:
    says(" One two three", " Go on")
    with closing(session.reply("Count")) as pieces:
        said = next(pieces) + next(pieces)
    assert session.turns == [Turn("user", "Count"), Turn("assistant", said)]
    list(session.reply("More"))
    assert len(session.turns) == 4


def test_an_interruption_inside_the_model_is_raised(session: ChatSession, says: Says) -> None:
    says(" One", fail=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        list(session.reply("Count"))
    assert session.turns[-1] == Turn("assistant", "One")


def test_a_reply_that_is_stopped_before_its_first_word_leaves_no_trace(session: ChatSession, says: Says) -> None:
    says("", fail=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        list(session.reply("Count"))
    assert session.turns == []


def test_long_conversations_lose_their_oldest_turns(session: ChatSession, tokenizer: Any, says: Says) -> None:
    prompts = says(*[f" reply {i}." for i in range(12)])
    for i in range(12):
        list(session.reply(f"This is message number {i}."))
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    assert max(map(len, prompts)) <= CONTEXT - 20
    assert "number 0" in texts[2]
    assert "number 0" not in texts[11]
    assert texts[11].startswith("Human: This is message number")
    assert texts[11].endswith("Human: This is message number 11.\n\nAssistant:")
    assert len(session.turns) == 24, "nothing is forgotten but in the prompt"


def test_turns_that_leave_the_context_are_counted(session: ChatSession, says: Says) -> None:
    says(*[f" reply {i}." for i in range(8)])
    left = []
    for i in range(8):
        list(session.reply(f"This is message number {i}."))
        left.append(session.forgotten)
    assert left[0] == 0 and left[-1] >= 4 and left == sorted(left)
    session.clear()
    assert session.forgotten == 0


def test_invalid_utf8_is_refused(session: ChatSession) -> None:
    with pytest.raises(DataError, match="this message is not UTF-8") as caught:
        list(session.reply("caf\udce9"))
    assert caught.value.where == "caf\\udce9"
    assert session.turns == []


TEMPLATES = {
    "{{ raise_exception('I take no users') }}": "the chat template fails: I take no users",
    "{% include 'other.jinja' %}": "the chat template fails: TypeError: no loader for this environment specified",
    "{{ 1 / 0 }}": "the chat template fails: ZeroDivisionError: division by zero",
    "{{ messages[0].content + 1 }}": 'the chat template fails: TypeError: can only concatenate str (not "int") to str',
    "{{ messages[7].content.x.y }}": "the chat template fails: ",
    "{% for m in messages %}{{ m.role }}": "the chat template fails: ",
    "{{ messages | nothing }}": "the chat template fails: No filter named 'nothing'.",
    "Hello!": "the chat template leaves out what the user says",
    "{% if messages[0].role == 'assistant' %}{{ messages }}{% endif %}": "the chat template leaves out what the user",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("which", ["lm", "rm"])
def test_a_template_that_cannot_hold_a_chat_is_refused(
    folders: dict[str, str], tmp_path: Path, template: str, which: str
) -> None:
    shutil.copytree(folders[which], tmp_path / which)
    (tmp_path / which / "chat_template.jinja").write_text(template)
    models = {**folders, which: str(tmp_path / which)}
    with pytest.raises(DataError) as caught:
        ChatSession.open(models["lm"], models["rm"], ChatOptions(ChatSection(max_new_tokens=5)))
    assert caught.value.what.startswith(TEMPLATES[template])
    assert caught.value.where == str(tmp_path / which)
    assert "Traceback" not in str(caught.value)


def test_a_template_without_answers_can_still_be_talked_to(folders: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(folders["lm"], tmp_path / "lm")
    one = "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}Q: {{ messages[0].content }}"
    (tmp_path / "lm" / "chat_template.jinja").write_text(one)
    chat = ChatSession.open(str(tmp_path / "lm"), None, ChatOptions(ChatSection(max_new_tokens=5)))
    with pytest.raises(DataError, match="one at a time"):  # an answer is rendered, too: said in one line
        list(chat.reply("Hi"))


def test_a_message_longer_than_the_context_is_cut_and_answered(session: ChatSession) -> None:
    list(session.reply("word " * 500))
    assert session.cut
    assert session.turns[-1].role == "assistant"


def test_real_replies_are_reproducible_and_differ_from_turn_to_turn(model: Any, tokenizer: Any) -> None:
    def two() -> list[str]:
        chat = ChatSession(model, tokenizer, Decoding(20, temperature=1.0, seed=4))
        first = "".join(chat.reply("Hi"))
        chat.clear()
        return [first, "".join(chat.reply("Hi"))]

    assert two() == two()
    assert len(set(two())) == 2


def test_the_reward_is_read_with_the_template_of_the_reward_model(
    model: Any, tokenizer: Any, scorer: RewardModel, says: Says
) -> None:
    chat = ChatSession(model, tokenizer, Decoding(20), scorer)
    assert chat.score() is None
    says(" Hello!")
    list(chat.reply("Hi"))
    text = "Human: Hi\n\nAssistant: Hello!<|endoftext|>"
    ids = scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[-1] == scorer.tokenizer.eos_token_id
    assert chat.score() == pytest.approx(float(scorer.network.rewards([ids])[0]), abs=1e-6)


def test_without_a_reward_model_there_is_no_reward(session: ChatSession, says: Says) -> None:
    says(" Hello!")
    list(session.reply("Hi"))
    assert session.score() is None


def test_what_the_template_cannot_write_has_no_reward(scorer: RewardModel) -> None:
    assert scorer.reward_of([Turn("user", "what is \ufdd0?"), Turn("assistant", "no character")]) is None
    assert (
        scorer.reward_of([Turn("user", "what is <|endoftext|>?"), Turn("assistant", "an end")]) is not None
    )  # is text


def test_the_scale_of_rewards_is_known_if_the_folder_says_so(scorer: RewardModel) -> None:
    assert scorer.scale is None
    scorer.network.config.mean, scorer.network.config.std = 0.5, 2.0
    assert scorer.scale == (0.5, 2.0)
    del scorer.network.config.mean, scorer.network.config.std


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, str]:
    """A language model and a reward model as folders."""
    kinds = {
        "lm": transformers.AutoModelForCausalLM.from_config(llama_config()),
        "rm": transformers.AutoModelForSequenceClassification.from_config(llama_config(num_labels=1)),
    }
    root = tmp_path_factory.mktemp("models")
    for name, made in kinds.items():
        made.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in kinds}


def test_a_chat_from_folders(folders: dict[str, str]) -> None:
    chat = ChatSession.open(folders["lm"], folders["rm"], ChatOptions(ChatSection(max_new_tokens=5)))
    list(chat.reply("Hi"))
    assert isinstance(chat.score(), float)
    assert chat.settings == Decoding(5, temperature=0.7, top_k=0, top_p=0.9, seed=0)
    assert chat.record == Record(Path("chats.jsonl"), folders["lm"], folders["rm"])
    elsewhere = ChatSession.open(folders["lm"], None, ChatOptions(saves=Path("run/chats.jsonl")))
    assert elsewhere.record == Record(Path("run/chats.jsonl"), folders["lm"])


def test_a_tokenizer_without_a_template_gets_the_recipes(folders: dict[str, str]) -> None:
    bare = Path(folders["lm"]).with_name("bare")
    Path(folders["lm"]).rename(bare)
    (bare / "chat_template.jinja").unlink()
    try:
        chat = ChatSession.open(str(bare), None, ChatOptions(ChatSection(max_new_tokens=5)))
        assert "Human" in str(chat.tokenizer.chat_template)
    finally:
        chat.tokenizer.save_pretrained(bare)
        bare.rename(folders["lm"])


@pytest.mark.parametrize(
    ("model", "reward", "message"),
    [
        ("rm", None, "this is a reward model"),
        ("lm", "lm", "this is a language model"),
        ("/no/such/folder", None, "there is no such folder"),
    ],
)
def test_wrong_folders_are_refused(folders: dict[str, str], model: str, reward: str | None, message: str) -> None:
    reward = folders.get(reward or "", reward)
    with pytest.raises(ModelError, match=message) as caught:
        ChatSession.open(folders.get(model, model), reward, ChatOptions())
    assert caught.value.where
    assert caught.value.hint


def test_a_broken_config_is_named(folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]})[:-3])
    with pytest.raises(ModelError, match="not JSON"):
        ChatSession.open(str(tmp_path), None, ChatOptions())
