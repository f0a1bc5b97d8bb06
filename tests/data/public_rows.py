"""Rows as the demo, test and example files of other tools have them; the texts are made up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Q, A, B, S = "How high is the tide?", "It is 2 m.", "No idea.", "Answer like a sailor."
HI, HO = "Ahoy!", "Ahoy, friend!"
TOOL = {"name": "tide", "description": "Height of the tide.", "parameters": {"type": "object", "properties": {}}}
FUNCTION = {"type": "function", "function": TOOL}
CALL = '{"name": "tide", "arguments": {}}'


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def value(speaker: str, text: str, **more: Any) -> dict[str, Any]:
    return {"from": speaker, "value": text, **more}


def parts(role: str, text: str, weight: float) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}


@dataclass
class Talk:
    """What a row becomes for SFT.

    Args:
        row: As the file has it.
        turns: As ``apply_chat_template`` takes them.
        unread: Columns that are named.
        learnt: Which of the assistant's turns are learnt; left out: all.
        tools: As ``apply_chat_template`` takes them.
    """

    row: dict[str, Any]
    turns: list[dict[str, Any]]
    unread: tuple[str, ...] = ()
    learnt: tuple[bool, ...] | None = None
    tools: list[dict[str, Any]] | None = None


@dataclass
class Pair:
    """What a row becomes for the reward model: the prompt, and the answers A and B.

    Args:
        row: As the file has it.
        turns: The prompt, as ``apply_chat_template`` takes it.
        unread: Columns that are named.
        margin: By how much A is better.
    """

    row: dict[str, Any]
    turns: list[dict[str, Any]]
    unread: tuple[str, ...] = ()
    margin: float = 0.0


ASK, ANSWER, WORSE = said("user", Q), said("assistant", A), said("assistant", B)
EARLIER = [said("user", HI), said("assistant", HO)]
TALK = [ASK, ANSWER]
SHAREGPT = [value("human", Q), value("gpt", A)]
CALLED = [ASK, said("assistant", CALL), said("tool", "2 m"), ANSWER]
OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}

READ: dict[str, Talk | Pair] = {
    # --- LLaMA-Factory ---
    "llamafactory/alpaca_en_demo": Talk({"instruction": "Translate.", "input": "tide", "output": A},
                                        [said("user", "Translate.\ntide"), ANSWER]),
    "llamafactory/alpaca_zh_demo": Talk({"instruction": "潮有多高？", "input": "", "output": "两米。"},
                                        [said("user", "潮有多高？"), said("assistant", "两米。")]),
    "llamafactory/identity": Talk({"instruction": HI, "input": "", "output": "I am {{name}}, made by {{author}}."},
                                  [said("user", HI), said("assistant", "I am {{name}}, made by {{author}}.")]),
    "llamafactory/alpaca with system and history": Talk(
        {"instruction": Q, "input": "", "output": A, "system": S, "history": [[HI, HO]]},
        [said("system", S), *EARLIER, ASK, ANSWER],
    ),
    "llamafactory/openai format": Talk({"messages": [said("system", S), *TALK]}, [said("system", S), *TALK]),
    "llamafactory/sharegpt format": Talk({"conversations": SHAREGPT, "system": S, "tools": ""},
                                         [said("system", S), *TALK]),
    "llamafactory/glaive_toolcall_en_demo": Talk(
        {"conversations": [value("human", Q), value("function_call", CALL), value("observation", "2 m"),
                           value("gpt", A)], "tools": json.dumps([TOOL])},
        CALLED, tools=[FUNCTION],
    ),
    "llamafactory/kto_en_demo": Talk({"messages": TALK, "label": True}, TALK),
    "llamafactory/kto in alpaca": Talk({"instruction": Q, "input": "", "output": A, "kto_tag": True}, TALK),
    "llamafactory/v1_sft_demo": Talk(
        {"messages": [parts("system", S, 0.0), parts("user", Q, 0.0), parts("assistant", A, 1.0)]},
        [said("system", S), *TALK],
    ),
    "llamafactory/v1, the first answer is not learnt": Talk(
        {"messages": [parts("user", HI, 0.0), parts("assistant", HO, 0.0), parts("user", Q, 0.0),
                      parts("assistant", A, 1.0)]},
        [*EARLIER, *TALK], learnt=(False, True),
    ),
    "llamafactory/dpo_en_demo": Pair(
        {"conversations": [value("human", HI), value("gpt", HO), value("human", Q)], "chosen": value("gpt", A),
         "rejected": value("gpt", B)},
        [*EARLIER, ASK],
    ),
    "llamafactory/preferences in alpaca": Pair({"instruction": "Say.", "input": "tide", "chosen": A, "rejected": B},
                                               [said("user", "Say.\ntide")]),
    "llamafactory/v1_dpo_demo": Pair(
        {"chosen_messages": [parts("user", Q, 0.0), parts("assistant", A, 1.0)],
         "rejected_messages": [parts("user", Q, 0.0), parts("assistant", B, 1.0)]},
        [ASK],
    ),
    # --- ms-swift ---
    "swift/messages": Talk({"messages": [said("system", S), *EARLIER, *TALK]}, [said("system", S), *EARLIER, *TALK]),
    "swift/sharegpt": Talk(
        {"system": S, "conversation": [{"human": HI, "assistant": HO}, {"human": Q, "assistant": A}]},
        [said("system", S), *EARLIER, *TALK],
    ),
    "swift/query-response": Talk({"system": S, "query": Q, "response": A, "history": [[HI, HO]]},
                                 [said("system", S), *EARLIER, *TALK]),
    "swift/alpaca": Talk({"system": S, "instruction": "Say.", "input": "tide", "output": A},
                         [said("system", S), said("user", "Say.\ntide"), ANSWER]),
    "swift/agent": Talk(
        {"tools": json.dumps([FUNCTION]),
         "messages": [ASK, said("tool_call", CALL), said("tool_response", "2 m"), ANSWER]},
        CALLED, tools=[FUNCTION],
    ),
    "swift/loss": Talk({"messages": [EARLIER[0], {**EARLIER[1], "loss": False}, ASK, {**ANSWER, "loss": True}]},
                       [*EARLIER, *TALK], learnt=(False, True)),
    "swift/kto": Talk({"messages": TALK, "label": True}, TALK),
    "swift/rejected_response": Pair({"messages": [said("system", S), *TALK], "rejected_response": B},
                                    [said("system", S), ASK]),
    "swift/rejected_messages": Pair({"messages": TALK, "rejected_messages": [ASK, WORSE]}, [ASK]),
    "swift/query with rejected_response": Pair(
        {"system": S, "query": Q, "response": A, "rejected_response": B, "history": [[HI, HO]]},
        [said("system", S), *EARLIER, ASK],
    ),
    # --- axolotl ---
    "axolotl/alpaca_2k_test": Talk(
        {"instruction": Q, "input": "", "output": A, "text": f"### Instruction:\n{Q}\n\n### Response:\n{A}"},
        TALK, ("text",),
    ),
    "axolotl/chat_template with train": Talk(
        {"messages": [EARLIER[0], {**EARLIER[1], "train": False}, ASK, {**ANSWER, "train": True}]},
        [*EARLIER, *TALK], learnt=(False, True),
    ),
    "axolotl/chat_template with training": Talk(
        {"conversations": [value("human", HI), value("gpt", HO, training=False), value("human", Q),
                           value("gpt", A, training=True)]},
        [*EARLIER, *TALK], learnt=(False, True),
    ),
    "axolotl/completion": Talk({"text": A}, [ANSWER]),
    "axolotl/gpteacher": Talk({"instruction": "Say.", "input": "tide", "response": A},
                              [said("user", "Say.\ntide"), ANSWER]),
    "axolotl/open_orca": Talk({"id": "niv.1", "system_prompt": S, "question": Q, "response": A},
                              [said("system", S), *TALK], ("id",)),
    "axolotl/context_qa": Talk({"question": Q, "context": "2 m.", "answer": A}, [said("user", f"{Q}\n2 m."), ANSWER]),
    "axolotl/explainchoice": Talk({"question": Q, "choices": ["1 m", "2 m"], "answer": A}, TALK, ("choices",)),
    "axolotl/orca_dpo_pairs": Pair({"system": S, "question": Q, "chosen": A, "rejected": B}, [said("system", S), ASK]),
    "axolotl/ultrafeedback": Pair(
        {"source": "x", "prompt": Q, "chosen": TALK, "chosen-rating": 5.0, "chosen-model": "m",
         "rejected": [ASK, WORSE], "rejected-rating": 3.0, "rejected-model": "n"},
        [ASK], ("chosen-model", "rejected-model", "source"), 2.0,
    ),
    # --- torchtune ---
    "torchtune/slimorca_tiny": Talk(
        {"conversations": [value("system", S, weight=None), value("human", Q, weight=0.0),
                           value("gpt", A, weight=1.0)]},
        [said("system", S), *TALK],
    ),
    "torchtune/chat": Talk({"dialogue": TALK}, TALK),
    "torchtune/masked": Talk(
        {"messages": [EARLIER[0], {**EARLIER[1], "masked": True}, {**ASK, "masked": True},
                      {**ANSWER, "masked": False}]},
        [*EARLIER, *TALK], learnt=(False, True),
    ),
    "torchtune/stack_exchange_paired": Pair(
        {"qid": 7, "question": Q, "date": "2020", "metadata": ["x"], "response_j": A, "response_k": B},
        [ASK], ("date", "metadata", "qid"),
    ),
    "torchtune/hh_rlhf_tiny": Pair({"chosen_conversations": TALK, "rejected_conversations": [ASK, WORSE]}, [ASK]),
    # --- FastChat ---
    "fastchat/dummy_conversation": Talk(
        {"id": "identity_0", "conversations": [value("human", HI), value("gpt", HO), *SHAREGPT]},
        [*EARLIER, *TALK], ("id",),
    ),
    "fastchat/clean_battle": Pair(
        {"question_id": "q", "model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": [ASK, WORSE],
         "conversation_b": TALK, "turn": 1, "language": "English"},
        [ASK], ("language", "model_a", "model_b", "question_id", "turn"),
    ),
    # --- OpenAI, TRL and others ---
    "openai/toy_chat_fine_tuning": Talk({"messages": [said("system", S), *TALK]}, [said("system", S), *TALK]),
    "openai/weights": Talk({"messages": [EARLIER[0], {**EARLIER[1], "weight": 0}, ASK, {**ANSWER, "weight": 1}]},
                           [*EARLIER, *TALK], learnt=(False, True)),
    "openai/drone_training": Talk(
        {"messages": [said("system", S), ASK, {"role": "assistant", "tool_calls": [OPENAI_CALL]}],
         "parallel_tool_calls": False, "tools": [FUNCTION]},
        [said("system", S), ASK, said("assistant", json.dumps([OPENAI_CALL]))], ("parallel_tool_calls",),
        tools=[FUNCTION],
    ),
    "openai/preferences": Pair(
        {"input": {"messages": [ASK]}, "preferred_output": [ANSWER], "non_preferred_output": [WORSE]}, [ASK]
    ),
    "trl/conversational prompt and completion": Talk({"prompt": [said("system", S), ASK], "completion": [ANSWER]},
                                                     [said("system", S), *TALK]),
    "trl/unpaired preferences": Talk({"prompt": [ASK], "completion": [ANSWER], "label": True}, TALK),
    "trl/guanaco": Talk({"text": f"### Human: {HI}### Assistant: {HO}### Human: {Q}### Assistant: {A}"},
                        [*EARLIER, *TALK]),
    "trl/reasoning": Talk({"messages": [ASK, said("assistant", A, reasoning_content="2 m.")]},
                          [ASK, said("assistant", A, reasoning_content="2 m.")]),
    "trl/tools in preferences": Pair({"prompt": [ASK], "chosen": [ANSWER], "rejected": [WORSE]}, [ASK]),
    "anthropic/thinking": Talk(
        {"messages": [said("user", [{"type": "text", "text": Q}]),
                      said("assistant", [{"type": "thinking", "thinking": "2 m."}, {"type": "text", "text": A}])]},
        [ASK, said("assistant", A, reasoning_content="2 m.")],
    ),
    "nemo-rl/completions": Pair(
        {"context": [ASK],
         "completions": [{"rank": 0, "completion": [ANSWER]}, {"rank": 1, "completion": [WORSE]}]},
        [ASK],
    ),
    "xtuner/conversation": Talk({"conversation": [{"system": S, "input": Q, "output": A}]}, [said("system", S), *TALK]),
}  # fmt: skip

NATIVE = {"type": "function", "function": {"name": "tide", "arguments": {}}}
CALLS: dict[str, list[dict[str, Any]]] = {  # the same dialogues for a template with words for calls of tools
    "llamafactory/glaive_toolcall_en_demo": [ASK, said("assistant", "", tool_calls=[NATIVE]), *CALLED[2:]],
    "swift/agent": [ASK, said("assistant", "", tool_calls=[NATIVE]), *CALLED[2:]],
    "openai/drone_training": [said("system", S), ASK, said("assistant", "", tool_calls=[NATIVE | {"id": "c1"}])],
}

PICTURES = "is not empty: the row is about more than text"
NO_SHAPE = "its rows fit no known shape; the first one has:"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {  # a row → why it is not read
    "llamafactory/mllm_demo": ({"messages": [said("user", f"<image>{Q}"), ANSWER], "images": ["1.jpg"]}, PICTURES),
    "llamafactory/mllm_audio_demo": (
        {"messages": [said("user", f"<audio>{Q}"), ANSWER], "audios": ["1.mp3"]},
        PICTURES,
    ),
    "llamafactory/mllm_video_demo": (
        {"messages": [said("user", f"<video>{Q}"), ANSWER], "videos": ["1.mp4"]},
        PICTURES,
    ),
    "llamafactory/mllm_video_audio_demo": (
        {"messages": [said("user", f"<video><audio>{Q}"), ANSWER], "videos": ["1.mp4"], "audios": ["1.mp3"]},
        PICTURES,
    ),
    "llamafactory/kto_en_demo, unwanted": ({"messages": TALK, "label": False}, "label is false: an unwanted answer"),
    "swift/grpo": ({"messages": [ASK]}, "no turn is the assistant's: there is nothing to learn"),
    "swift/pretrain": ({"messages": [ANSWER]}, "the assistant speaks first: there is no prompt"),
    "swift/seq_cls": ({"messages": [ASK], "label": 1}, "no turn is the assistant's: there is nothing to learn"),
    "swift/loss_scale": ({"messages": [ASK, {**ANSWER, "loss_scale": 0.3}]}, "has loss_scale 0.3: a turn is learnt"),
    "axolotl/train_detail": (
        {"messages": [ASK, {**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]},
        "has train_detail: a turn is learnt as a whole, or not at all",
    ),
    "axolotl/input_output": ({"segments": [{"label": True, "text": A}]}, f"{NO_SHAPE} segments"),
    "axolotl/stepwise_supervised": (
        {"prompt": Q, "completions": [A], "labels": [True]},
        f"{NO_SHAPE} prompt, completions",
    ),
    "torchtune/samsum_tiny": (
        {"id": "1", "dialogue": "Al: Hi", "summary": A},
        "dialogue is text, not a list of messages",
    ),
    "torchtune/grammar_tiny": ({"input": Q, "target": A}, f"{NO_SHAPE} input, target"),
    "torchtune/cnn_dailymail": ({"article": Q, "highlights": A, "id": "1"}, f"{NO_SHAPE} article, highlights, id"),
    "torchtune/llava": (
        {"id": "1", "image": "1.jpg", "conversations": [value("human", f"<image>\n{Q}"), value("gpt", A)]},
        f"image {PICTURES}",
    ),
    "fastchat/mt_bench questions": (
        {"question_id": 81, "category": "writing", "turns": [Q]},
        f"{NO_SHAPE} question_id",
    ),
    "fastchat/bing": ({"conversations": [value("human", Q), value("bing", A)]}, "has the unknown role 'bing'"),
    "openai/vision": (
        {
            "messages": [
                said("user", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": Q}]),
                ANSWER,
            ]
        },
        "has a part of type image_url: only text can be read",
    ),
    "trl/prompt only": ({"prompt": [ASK]}, f"{NO_SHAPE} prompt"),
}
