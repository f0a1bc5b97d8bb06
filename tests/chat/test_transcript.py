"""Saved conversations: written as lines that prepare-data reads."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.chat.commands import run_command
from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.chat.session import ChatSession
from rlhfcli.chat.transcript import Record, Saved, append
from rlhfcli.core.generation.decode import Decoding
from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Turn
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape

Says = Callable[..., list[list[int]]]
TURNS = [Turn("user", "你好"), Turn("assistant", "Hello."), Turn("user", "a\nb"), Turn("assistant", 'It is "2".')]


def read(file: Path) -> list[Any]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    shape = detect_shape(rows, SHAPES, str(file))
    assert shape.name == "messages"
    return [convert(row, shape, Origin(str(file), "line")) for row in rows]


def test_a_saved_conversation_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "chat" / "chats.jsonl"
    append(file, TURNS, {}, Record(file, "runs/x/sft/final"))
    append(file, TURNS[:2], {1: 0.5}, Record(file, "runs/x/sft/final", "runs/x/reward/final"))
    assert read(file) == [Dialogue(tuple(turns), Origin(str(file), "line")) for turns in (TURNS, TURNS[:2])]
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert first.keys() == {"messages", "model"}
    assert (second["model"], second["reward_model"], second["rewards"]) == (
        "runs/x/sft/final",
        "runs/x/reward/final",
        [0.5],
    )


def test_invalid_utf8_is_kept_as_an_escape(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    append(file, [Turn("user", "a\udce9"), Turn("assistant", "b")], {}, Record(file, "m"))
    (row,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert row["messages"][0]["content"] == "a\udce9"


def test_a_conversation_with_the_rewards_that_were_shown(
    model: Any, tokenizer: Any, scorer: RewardModel, says: Says, tmp_path: Path
) -> None:
    record = Record(tmp_path / "chats.jsonl", "sft/final", "reward/final")
    chat = ChatSession(model, tokenizer, Decoding(20), scorer, record)
    assert chat.save() is None and not record.file.exists()
    says(" Hello!", " Paris.", " Rome.")
    list(chat.reply("Hi"))
    first = chat.score()
    list(chat.reply("Capital of France?"))  # its reward was never asked for
    list(chat.reply("Of Italy?"))
    third = chat.score()
    assert chat.save() == Saved(record.file)
    row = json.loads(record.file.read_text(encoding="utf-8"))
    assert row["rewards"] == [first, None, third] and first != third
    assert [message["content"] for message in row["messages"]] == [turn.content for turn in chat.turns]
    chat.clear()
    assert chat.save() is None
    says(" Again!")
    list(chat.reply("Hi"))
    other = tmp_path / "a.jsonl"
    assert chat.save(other) == Saved(other)
    assert json.loads(other.read_text(encoding="utf-8"))["rewards"] == [None], "rewards of the old conversation"


def test_a_file_that_cannot_be_written_is_one_line(session: ChatSession, says: Says, tmp_path: Path) -> None:
    says(" Hello!")
    list(session.reply("Hi"))
    (tmp_path / "file").write_text("x")
    assert run_command(f"/save {tmp_path}", session).text == f"Not saved: {tmp_path}: Is a directory"
    below = tmp_path / "file" / "chats.jsonl"
    assert run_command(f"/save {below}", session).text.startswith("Not saved: ")
    assert run_command("/save a\0b", session).text == "Not saved: a\0b: embedded null byte"


OTHERS = {
    "README.md": "# Mine\n",
    "rows.json": '[{"messages": []}]\n',
    "numbers.jsonl": "[1]\n",
    "bytes.bin": "\x00\x01",
    "prompts.jsonl": '{"prompt": "a"}\n',
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_with_other_contents_is_left_alone(session: ChatSession, says: Says, tmp_path: Path, name: str) -> None:
    says(" Hello!")
    list(session.reply("Hi"))
    (tmp_path / name).write_text(OTHERS[name])
    text = run_command(f"/save {tmp_path / name}", session).text
    assert text == f"Not saved: {tmp_path / name}: it contains something other than dialogues; name a new file"
    assert (tmp_path / name).read_text() == OTHERS[name]


def test_no_folder_is_created_for_a_mistyped_name(session: ChatSession, says: Says, tmp_path: Path) -> None:
    says(" Hello!")
    list(session.reply("Hi"))
    file = tmp_path / "nope" / "x" / "a.jsonl"
    assert run_command(f"/save {file}", session).text == f"Not saved: {file}: No such file or directory"
    assert not (tmp_path / "nope").exists()


def test_a_last_line_without_an_end_is_not_joined(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    append(file, TURNS[:2], {}, Record(file, "m"))
    file.write_bytes(file.read_bytes().rstrip())
    append(file, TURNS[2:], {}, Record(file, "m"))
    assert len(read(file)) == 2


def test_a_disk_that_fills_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "chats.jsonl"
    append(file, TURNS[:2], {}, Record(file, "m"))
    before, limit = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append(file, [Turn("user", "a" * 9000), Turn("assistant", "b")], {}, Record(file, "m"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before


def test_an_empty_answer_is_not_saved(session: ChatSession, says: Says, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    says("", " Hello!", " \n")
    list(session.reply("One"))
    assert run_command(f"/save {file}", session).text == "There is nothing to save yet."
    list(session.reply("Two"))
    list(session.reply("Three"))
    text = run_command(f"/save {file}", session).text
    assert text == f"Saved to {file}, as a row for rlhf prepare-data. Left out: 2 exchanges without an answer."
    (dialogue,) = read(file)
    assert [turn.content for turn in dialogue.turns] == ["Two", "Hello!"]


def test_saving_in_a_pipe_keeps_off_its_output(
    model: Any, tokenizer: Any, says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import io

    from rlhfcli.chat.terminal import run_terminal

    file = tmp_path / "chats.jsonl"
    says(" Hello!")
    monkeypatch.setattr("sys.stdin", io.StringIO("/save\nHi\n/save\n"))
    run_terminal(ChatSession(model, tokenizer, Decoding(20), None, Record(file, "m")))
    out, err = capsys.readouterr()
    assert out == "Hello!\n"
    assert "".join(err.split()) == "".join(
        f"There is nothing to save yet. Saved to {file}, as a row for rlhf prepare-data.".split()
    )
    (dialogue,) = read(file)
    assert [turn.content for turn in dialogue.turns] == ["Hi", "Hello!"]


def test_the_command_saves_into_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from rlhfcli.chat.session import ChatOptions
    from rlhfcli.cli import app

    opened: list[ChatOptions] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhfcli.chat.session.ChatSession.open", lambda *given: opened.append(given[-1]))
    monkeypatch.setattr("rlhfcli.chat.terminal.answer_once", lambda *_: None)
    result = CliRunner().invoke(app, ["chat", "--model", "any", "-p", "Hi", "--set", "output_dir=runs/mine"])
    assert result.exit_code == 0, result.output
    assert opened[0].saves == Path("runs/mine/chat/chats.jsonl")
