"""What a reward model is trained on is what others score, who write a dialogue with the template of its folder."""

from __future__ import annotations

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.templates.scored_template import ending_at_score
from tests.data.templates.test_chat_templates import ENDS, HERE, TURNS, load  # noqa: F401


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", ENDS)
def test_published_templates(load, name, count):  # noqa: F811
    tokenizer = load(name)
    turns = TURNS[:count]
    trained = Encoder(tokenizer, 4096).dialogues([Dialogue(turns, HERE)])[0].example.ids
    saved = ending_at_score(tokenizer)
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = saved.apply_chat_template(messages, tokenize=False)
    if name == "deepseek_r1_distill":  # its template leaves out the thought that its generation prompt begins
        assert text != tokenizer.decode(trained) and text.endswith(ENDS[name][0])
        return
    assert text == tokenizer.decode(trained)
    assert saved.apply_chat_template(messages)["input_ids"] == trained
