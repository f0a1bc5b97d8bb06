"""What is trained on is exactly the assistant's words and the end token, in every family's own template."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhfcli.data.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.encode import Encoder, encode_prompt, end_token
from rlhfcli.data.template import render, set_template
from rlhfcli.errors import DataError
from tests.data.conftest import TEXTS

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FAMILIES = {  # template, BOS, EOS, end token, what the answer begins with
    "human_assistant, OPT": ("human_assistant", "</s>", "</s>", "</s>", " "),
    "human_assistant, no BOS": ("human_assistant", None, "<|endoftext|>", "<|endoftext|>", " "),
    "human_assistant, Llama": ("human_assistant", "<s>", "</s>", "</s>", " "),
    "ChatML": (CHATML, None, "<|endoftext|>", "<|im_end|>", ""),
    "Llama 3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", ""),
    "Gemma": (GEMMA, "<s>", "</s>", "<end_of_turn>", ""),
    "Mistral": (MISTRAL, "<s>", "</s>", "</s>", " "),
    "Zephyr": (ZEPHYR, "<s>", "</s>", "</s>", ""),
    "Phi": (PHI, None, "<|endoftext|>", "<|end|>", ""),
    "Qwen 3": (QWEN3, None, "<|endoftext|>", "<|im_end|>", ""),
}
HERE = Origin("test", "row 1")
TURNS = (
    Turn("user", "What is the capital of France?"),
    Turn("assistant", "Paris."),
    Turn("user", "首都は? [really] a = 1"),
    Turn("assistant", "東京です。\n\nThank you!"),
)


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def family(request, make_tokenizer):
    template, bos, eos, end, lead = request.param
    tokenizer = make_tokenizer(bos, eos)
    if template == "human_assistant":
        set_template(tokenizer, template)
    else:
        tokenizer.chat_template = template
        set_template(tokenizer, "model")
    return tokenizer, bos, end, lead


def test_trained_text_is_the_answers_with_their_end_tokens(family):
    tokenizer, bos, end, lead = family
    example = Encoder(tokenizer, 512).dialogues([Dialogue(TURNS, HERE)])[0].example
    said = [tokenizer.decode(example.ids[begin:stop]) for begin, stop in example.spans]
    assert said == [f"{lead}Paris.{end}", f"{lead}東京です。\n\nThank you!{end}"]
    for begin, stop in example.spans:
        end_id = tokenizer.convert_tokens_to_ids(end)
        assert example.ids[begin:stop].count(end_id) == 1 and example.ids[stop - 1] == end_id == end_token(tokenizer)
    # All tokens together are the template's own text, up to the last end token; BOS stands there once.
    assert render(tokenizer, TURNS, False).startswith(tokenizer.decode(example.ids))
    assert example.ids[-1] == tokenizer.convert_tokens_to_ids(end)
    if bos is not None and tokenizer.chat_template not in (ZEPHYR,):
        assert example.ids[0] == tokenizer.bos_token_id != example.ids[1]


def test_the_prompt_is_the_same_in_pairs_in_dialogues_and_in_use(family):
    tokenizer, _, end, lead = family
    preference = Preference.pair(TURNS[:3], "東京です。", "I don't know", HERE)
    encoder = Encoder(tokenizer, 512)
    found = encoder.preferences([preference])[0].example
    assert found.prompt == encode_prompt(tokenizer, TURNS[:3], 512)
    assert tokenizer.decode(found.answers[0]) == f"{lead}東京です。{end}"
    assert tokenizer.decode(found.answers[1]) == f"{lead}I don't know{end}"
    dialogue = encoder.dialogues([preference.preferred()])[0].example
    assert dialogue.ids == found.prompt + found.answers[0]
    assert tokenizer.decode(found.prompt).startswith(render(tokenizer, TURNS[:3], True))


def sentencepiece(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of SentencePiece's kind: a space is ▁, and most put one in front of every text."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    after = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind in ("first", "always"):  # Llama 2, Mistral; T5
        core.pre_tokenizer = pre_tokenizers.Metaspace("▁", kind)
    elif kind == "legacy":  # Llama 2 as it was first converted
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:  # Gemma: nothing in front
        core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(after if kind == "none" else [*after, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["first", "always", "legacy", "none"])
def test_pieces_of_a_dialogue_get_no_spaces_of_their_own(kind):
    tokenizer = sentencepiece(kind)
    tokenizer.chat_template = MISTRAL
    turns = (Turn("user", "the capital?"), Turn("assistant", "Paris."), Turn("user", "book"), Turn("assistant", "red"))
    example = Encoder(tokenizer, 512).dialogues([Dialogue(turns, HERE)])[0].example
    text = render(tokenizer, turns, False)
    said = [tokenizer.convert_ids_to_tokens(example.ids[begin:stop]) for begin, stop in example.spans]
    assert ["".join(tokens) for tokens in said] == ["▁Paris.</s>", "▁red</s>"]
    if kind != "legacy":  # which puts a space behind every special token
        assert example.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encode_prompt(tokenizer, turns[:3], 512) == example.ids[: example.spans[-1][0]]


def test_template_words_that_only_follow_the_generation_prompt_are_given(make_tokenizer):
    tokenizer = make_tokenizer(None, "<|endoftext|>")
    tokenizer.chat_template = QWEN3
    ids = encode_prompt(tokenizer, TURNS[:1], 512)
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_white_space_around_contents_goes_in_human_assistant(tokenizer):
    turns = (Turn("system", "Be kind.\n"), Turn("user", " What? "), Turn("assistant", "  Paris.\n"))
    example = Encoder(tokenizer, 512).dialogues([Dialogue(turns, HERE)])[0].example
    assert tokenizer.decode(example.ids) == "</s>Be kind.\n\nHuman: What?\n\nAssistant: Paris.</s>"
    assert render(tokenizer, turns, True).endswith("Paris.</s>\n\nAssistant:")


def test_turns_after_the_last_answer_are_left_out_and_counted(tokenizer):
    outcome = Encoder(tokenizer, 512).dialogues([Dialogue(TURNS[:3], HERE)])[0]
    assert tokenizer.decode(outcome.example.ids).endswith("Paris.</s>") and outcome.cut


REFUSED = {
    "special token in the text": (None, "a </s> b", "turn 1 (user) holds the special token </s>"),
    "role that the template refuses": (GEMMA, None, "refuses this dialogue: System role not supported"),
    "turn that the template leaves out": (MISTRAL, None, "leaves out turn 1 (system)"),
    "content that the template changes": (
        CHATML.replace("m['content']", "m['content'].split('#')[-1]"),
        "a#b",
        "changes the text of this dialogue",
    ),
}


@pytest.mark.parametrize(("template", "content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_dialogues_that_a_template_cannot_write_are_named(make_tokenizer, template, content, reason):
    tokenizer = make_tokenizer("<s>")
    set_template(tokenizer, "human_assistant")
    if template:
        tokenizer.chat_template = template
    first = (Turn("system", "Be kind."), *TURNS) if content is None else (Turn("user", content), TURNS[1])
    outcome = Encoder(tokenizer, 512).dialogues([Dialogue(first, HERE)])[0]
    assert outcome.example is None and reason in outcome.reason


def test_a_template_that_rewrites_earlier_turns_is_refused(make_tokenizer):
    tokenizer = make_tokenizer("<s>")
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(DataError, match="does not simply append turns"):
        Encoder(tokenizer, 512).dialogues([Dialogue(TURNS, HERE)])


def test_a_template_without_end_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer("<s>")
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "")
    with pytest.raises(DataError, match="writes no end token"):
        Encoder(tokenizer, 512).dialogues([Dialogue(TURNS, HERE)])


def test_templates_are_set_by_name_or_file(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer("<s>")
    with pytest.raises(DataError, match="no chat template of its own"):
        set_template(tokenizer, "model")
    with pytest.raises(DataError, match="no template 'humman'"):
        set_template(tokenizer, "humman")
    with pytest.raises(DataError, match="cannot be read"):
        set_template(tokenizer, str(tmp_path / "none.jinja"))
    broken = tmp_path / "broken.jinja"
    broken.write_text("a\n{% for %}")
    with pytest.raises(DataError, match=r"broken\.jinja:2: not a Jinja template"):
        set_template(tokenizer, str(broken))
    good = tmp_path / "good.jinja"
    good.write_text(CHATML)
    set_template(tokenizer, str(good))
    assert tokenizer.chat_template == CHATML


def test_the_saved_tokenizer_carries_the_template(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode_prompt(again, TURNS[:3], 512) == encode_prompt(tokenizer, TURNS[:3], 512)
    told = [{"role": turn.role, "content": turn.content} for turn in TURNS[:3]]
    assert again.apply_chat_template(told, add_generation_prompt=True)["input_ids"] == encode_prompt(
        again, TURNS[:3], 512
    )
