"""Rows with all the columns that the data sets of the catalogue have; the texts are made up."""

from __future__ import annotations

import json
import math

from rlhfcli.data.shapes.formats import named_shapes

Q, GOOD, BAD = "Which planet is red?", "Mars is red.", "Venus is red."
FROM_HERE = "Human: Hi\n\nAssistant: Hello.\n\nHuman: Which planet is red?"
LONG = [("user", "Hi"), ("assistant", "Hello."), ("user", Q)]
ASKED = [("user", Q)]


def says(role, text):
    return {"content": text, "role": role}


def dialogue(answer):
    return [says("user", Q), says("assistant", answer)]


def webgpt_side(side, answer, score):
    return {
        f"quotes_{side}": {"title": ["Planets"], "extract": ["Mars looks red."]},
        f"answer_{side}": answer,
        f"tokens_{side}": {"prefix": [1, 2], "completion": [3]},
        f"score_{side}": score,
    }


def shp_side(side):
    return {
        f"c_root_id_{side}": "c1",
        f"created_at_utc_{side}": 1600000000,
        f"score_{side}": 12 if side == "B" else 3,
        f"human_ref_{side}": GOOD if side == "B" else BAD,
    }


def passage(text):
    return {"docid": "1#0", "title": "惑星", "text": text}


def safe_side(side, text):
    return {
        f"response_{side}": text,
        f"response_{side}_source": "Alpaca-7B",
        f"is_response_{side}_safe": True,
        f"response_{side}_harm_category": {"Privacy Violation": False},
        f"response_{side}_severity_level": 0,
        f"response_{side}_sha256": "ab",
    }


def completion(text, score):
    return {
        "annotations": {"helpfulness": {"Rating": "4", "Rationale": "fine", "Type": ["1"]}},
        "custom_system_prompt": "Be kind.",
        "model": "alpaca-7b",
        "principle": "helpfulness",
        "response": text,
        "critique": "Good.",
        "overall_score": score,
        "fine-grained_score": 4.25,
    }


def mkqa(language, question, answer):
    nothing = {name: None for name in ("en", "ja", "zh_cn")}
    answers = [{"type": 0, "entity": "Q111", "text": answer, "aliases": []}]
    return {
        "example_id": 5,
        "queries": {**nothing, language: question},
        "query": "which planet is red",
        "answers": {**nothing, language: answers},
    }


def pair(chosen=GOOD, rejected=BAD, **columns):
    return {"prompt": Q, "chosen": chosen, "rejected": rejected, **columns}


HH = f"\n\n{FROM_HERE}\n\nAssistant:"
JAQUAD = {"paragraph": "火星は赤い。金星は白い。", "paragraph_id": "p1"}
HELPSTEER2 = {
    "split": "train",
    "prompt": "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nWhich planet is red?",
    "response_1": BAD,
    "response_2": GOOD,
    "preference_strength": 1,
    "preference_statement": "@Response 2 is slightly better than @Response 1 because it is right.",
    "preference_elaboration": "Mars it is.",
    "three_most_similar_preferences": [{"statement": "s", "elaboration": "e", "strength": 1}],
    "all_preferences_unprocessed": [{"statement": "s", "elaboration": "e", "strength": 1}],
}
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": [says("user", "Hi"), says("assistant", "Hello."), says("user", Q)],
    "response1": GOOD,
    "response2": BAD,
    "overall_preference": -2,
    "individual_preference": [{"score": -2, "reasoning": "right", "feedback1": "good", "feedback2": "wrong"}],
}
SHP = {
    "post_id": "p1", "domain": "askscience_train", "upvote_ratio": 0.9, "history": Q, **shp_side("A"),
    **shp_side("B"), "labels": 0, "seconds_difference": 60.0, "score_ratio": 4.0,
}  # fmt: skip
ALPACA = {"instruction": "Name it.", "input": Q, "output": GOOD}
DIALOGUES = {  # data set → a row, the prompt, the answer
    "pvduy/sharegpt_alpaca_oa_vicuna_format": (
        {"prompt": f"USER: Hi ASSISTANT: Hello.</s>USER: {Q} ASSISTANT:", "label": f"{GOOD}</s>"},
        LONG,
        GOOD,
    ),
    "wangrui6/Zhihu-KOL": (
        {"INSTRUCTION": "哪颗行星是红色的？", "RESPONSE": "火星。", "SOURCE": "Zhihu", "METADATA": "{}"},
        [("user", "哪颗行星是红色的？")],
        "火星。",
    ),
    "Hello-SimpleAI/HC3-Chinese": (
        {
            "id": "0",
            "question": "哪颗行星是红色的？",
            "human_answers": ["火星。", "是火星。"],
            "chatgpt_answers": ["金星。"],
            "source": "open_qa",
        },
        [("user", "哪颗行星是红色的？")],
        "火星。",
    ),
    "mkqa-Chinese": (mkqa("zh_cn", "哪颗行星是红色的", "火星"), [("user", "哪颗行星是红色的")], "火星"),
    "mkqa-Japanese": (mkqa("ja", "赤い惑星は何ですか", "火星"), [("user", "赤い惑星は何ですか")], "火星"),
    "lmqg/qg_jaquad": (
        {
            **JAQUAD,
            "answer": "火星",
            "question": "赤い惑星は?",
            "sentence": "火星は赤い。",
            "paragraph_sentence": "<hl> 火星は赤い。 <hl> 金星は白い。",
            "paragraph_answer": "<hl> 火星 <hl> は赤い。金星は白い。",
            "sentence_answer": "<hl> 火星 <hl> は赤い。",
        },
        [("user", "赤い惑星は?")],
        "火星は赤い。",
    ),
    "lmqg/qag_jaquad": (
        {
            **JAQUAD,
            "answers": ["火星", "金星"],
            "questions": ["赤い惑星は?", "白い惑星は?"],
            "questions_answers": "question: 赤い惑星は?, answer: 火星",
        },
        [("user", "赤い惑星は?")],
        JAQUAD["paragraph"],
    ),
    "allenai/tulu-3-sft-mixture": (
        {"id": "t1", "messages": dialogue(GOOD), "source": "ai2-adapt-dev/oasst1_converted"},
        ASKED,
        GOOD,
    ),
    "HuggingFaceH4/no_robots": (
        {"prompt": Q, "prompt_id": "p1", "messages": dialogue(GOOD), "category": "Open QA"},
        ASKED,
        GOOD,
    ),
    "databricks/databricks-dolly-15k": (
        {"instruction": "Name it.", "context": Q, "response": GOOD, "category": "closed_qa"},
        [("user", f"Name it.\n{Q}")],
        GOOD,
    ),
    "tatsu-lab/alpaca": (
        {**ALPACA, "text": f"Below is an instruction. ### Instruction: {Q} ### Response: {GOOD}"},
        [("user", f"Name it.\n{Q}")],
        GOOD,
    ),
    "yahma/alpaca-cleaned": (ALPACA, [("user", f"Name it.\n{Q}")], GOOD),
}


def arena(winner="model_b", **columns):
    return {
        "question_id": "q", "model_a": "a", "model_b": "b", "winner": winner, "judge": "arena_user_1", "turn": 1,
        "conversation_a": dialogue(BAD), "conversation_b": dialogue(GOOD), "language": "English", **columns,
    }  # fmt: skip


PAIRS = {  # data set → a row, the prompt, the margin, the kind; the answers are GOOD and BAD
    "Dahoas/rm-static": (
        {"prompt": HH, "response": f" {GOOD}", "chosen": f" {GOOD}", "rejected": f" {BAD}"},
        LONG,
        None,
        None,
    ),
    "Dahoas/full-hh-rlhf": (
        {"prompt": HH, "response": f" {GOOD}", "chosen": f" {GOOD}", "rejected": f" {BAD}"},
        LONG,
        None,
        None,
    ),
    "Dahoas/synthetic-instruct-gptj-pairwise": (pair(), ASKED, None, None),
    "yitingxie/rlhf-reward-datasets": (
        {"prompt": f"\n\n{FROM_HERE}\n\n", "chosen": f"Assistant: {GOOD}", "rejected": f"Assistant: {BAD}"},
        LONG,
        None,
        None,
    ),
    "openai/webgpt_comparisons": (
        {
            "question": {"dataset": "eli5", "id": "q1", "full_text": Q},
            **webgpt_side(0, "Venus is red[1][2].", -0.25),
            **webgpt_side(1, "Mars is red [1, 3].", 0.25),
        },
        ASKED,
        0.5,
        None,
    ),
    "stanfordnlp/SHP": (SHP, ASKED, math.log(4), "askscience_train"),
    "Cohere/miracl-zh-queries-22-12": (
        {
            "query_id": "1",
            "query": "哪颗行星是红色的？",
            "positive_passages": [passage(GOOD), passage("Other.")],
            "negative_passages": [passage(BAD)],
            "emb": [0.1, 0.2],
        },
        [("user", "哪颗行星是红色的？")],
        None,
        None,
    ),
    "Cohere/miracl-ja-queries-22-12": (
        {
            "query_id": "1",
            "query": "赤い惑星は?",
            "positive_passages": {"docid": ["1#0"], "title": ["惑星"], "text": [GOOD]},  # as datasets keeps them
            "negative_passages": {"docid": ["2#0"], "title": ["惑星"], "text": [BAD]},
            "emb": [0.1, 0.2],
        },
        [("user", "赤い惑星は?")],
        None,
        None,
    ),
    "Anthropic/hh-rlhf": ({"chosen": f"{HH} {GOOD}", "rejected": f"{HH} {BAD}"}, LONG, None, None),
    "HuggingFaceH4/ultrafeedback_binarized": (
        pair(dialogue(GOOD), dialogue(BAD), prompt_id="p1", messages=dialogue(GOOD), score_chosen=8.5,
             score_rejected=7.0),
        ASKED,
        1.5,
        None,
    ),
    "nvidia/HelpSteer2": (HELPSTEER2, LONG, 1.0, None),
    "nvidia/HelpSteer3": (HELPSTEER3, LONG, 2.0, "general"),
    "Skywork/Skywork-Reward-Preference-80K-v0.2": (
        {"chosen": dialogue(GOOD), "rejected": dialogue(BAD), "source": "offsetbias"},
        ASKED,
        None,
        "offsetbias",
    ),
    "Skywork/Skywork-Reward-Preference-80K-v0.1": (
        {"chosen": dialogue(GOOD), "rejected": dialogue(BAD), "source": "helpsteer2"},
        ASKED,
        None,
        "helpsteer2",
    ),
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": (
        pair(dialogue(GOOD), dialogue(BAD), id="t1", source="personas_if"),
        ASKED,
        None,
        "personas_if",
    ),
    "PKU-Alignment/PKU-SafeRLHF": (
        {
            "prompt": Q,
            **safe_side(0, BAD),
            **safe_side(1, GOOD),
            "prompt_source": "s",
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        ASKED,
        None,
        None,
    ),
    "allenai/reward-bench": (
        pair(chosen_model="human", rejected_model="gpt-4", subset="alpacaeval-easy", id=3),
        ASKED,
        None,
        "alpacaeval-easy",
    ),
    "lmarena-ai/arena-human-preference-55k": (
        {"id": 1, "model_a": "a", "model_b": "b", "prompt": json.dumps([Q]), "response_a": json.dumps([BAD]),
         "response_b": json.dumps([GOOD]), "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        ASKED, None, None,
    ),
    "lmarena-ai/arena-human-preference-100k": (arena(), ASKED, None, None),
    "lmarena-ai/arena-human-preference-140k": (
        arena("model_a", conversation_a=[
            {"role": "user", "content": [{"type": "text", "text": Q, "image": None, "mimeType": None}]},
            {"role": "assistant", "content": [{"type": "text", "text": GOOD, "image": None, "mimeType": None}]},
        ], conversation_b=dialogue(BAD)),
        ASKED, None, None,
    ),
    "lmsys/chatbot_arena_conversations": (arena(), ASKED, None, None),
    "ScalerLab/JudgeBench": (
        {"pair_id": "p", "original_id": "1", "source": "mmlu-pro-math", "question": Q, "response_model": "m",
         "response_A": BAD, "response_B": GOOD, "label": "B>A"},
        ASKED, None, "mmlu-pro-math",
    ),
}  # fmt: skip
RANKINGS = {  # data set → a row, answers, comparisons, margins, the kind
    "openbmb/UltraFeedback": (
        {
            "source": "sharegpt",
            "instruction": Q,
            "models": ["a", "b", "c", "d"],
            "completions": [completion("w", 5), completion("x", 8.5), completion("y", 5), completion("z", 7)],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        },
        "xzwy",
        ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3)),
        (1.5, 3.5, 3.5, 2.0, 2.0),
        "sharegpt",
    ),
    "allenai/reward-bench-2": (
        pair(["x"], ["y", "z", "w"], id="1", num_correct=1, num_incorrect=3, total_completions=4,
             models=["a", "b", "c", "d"], subset="Factuality", additional_metadata={"category": None}),
        "xyzw",
        ((0, 1), (0, 2), (0, 3)),
        (),
        "Factuality",
    ),
    "THU-KEG/RM-Bench": (
        {"id": "chat/1", "prompt": Q, "chosen": ["x", "xx", "xxx"], "rejected": ["y", "yy", "yyy"], "domain": "chat"},
        ("x", "xx", "xxx", "y", "yy", "yyy"), tuple((i, j) for i in range(3) for j in range(3, 6)), (), "chat",
    ),
}  # fmt: skip


def message(name, parent, text, rank=None, **columns):
    role = "assistant" if len(name) % 2 == 0 else "prompter"
    return {
        "message_id": name, "parent_id": parent, "user_id": "u", "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text, "role": role, "lang": "en", "review_count": 3, "review_result": True, "deleted": False,
        "rank": rank, "synthetic": False, "model_name": None, "detoxify": {"toxicity": 0.0},
        "message_tree_id": name[0], "tree_state": "ready_for_export", "emojis": {"name": [], "count": []},
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]}, **columns,
    }  # fmt: skip


TREE = [  # the length of a name is the depth
    message("1", None, "Hi"),
    message("1a", "1", "Hello.", 1),
    message("1b", "1", "What?", 2),
    message("1c", "1", "Hello! How are you?", 0),
    message("1c1", "1c", "Well. And you?"),
    message("1c1a", "1c1", "I am a program."),
    message("1c2", "1c", "Bye"),
    message("2", None, "A question of one answer"),
    message("2a", "2", "Only this."),
    message("2b", "2", "Spam", deleted=True),
    message("2a1", "2a", "Thanks"),
    message("2a1a", "2a1", "Welcome."),
    message("9a1", "9a", "Whose is it?"),
]
SCORED = [
    {"prompt": prompt, "response": text, "helpfulness": score, "correctness": 4, "coherence": 4, "complexity": 1,
     "verbosity": 1}
    for prompt, text, score in (
        (Q, BAD, 1), (Q, GOOD, 4), ("a", "b", 2), ("a", "c", 2), ("alone", "b", 2), (Q, "again", 1), (Q, "late", 0)
    )
]  # fmt: skip
JOINED = {"OpenAssistant/oasst1", "OpenAssistant/oasst2", "nvidia/HelpSteer2-scores"}


def plain(turns):
    return [(turn.role, turn.content) for turn in turns]


def shape_of(name):
    """The layout of a data set of the catalogue."""
    return named_shapes(name, "rows.jsonl")[0]
