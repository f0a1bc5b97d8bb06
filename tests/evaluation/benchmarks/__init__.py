"""Rows of every benchmark in the shape of its files, and scores for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlhfcli.evaluation.benchmarks.base import Benchmark, Item
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures


def rewardbench_row(subset: str = "alpacaeval-easy", **changes: Any) -> dict[str, Any]:
    row = {"prompt": "Name a colour.", "chosen": "Red.", "chosen_model": "a", "rejected": "Seven.",
           "rejected_model": "b", "subset": subset, "id": 7}  # fmt: skip
    return {**row, **changes}


def rewardbench2_row(subset: str = "Math", name: str = "12", right: int = 1, wrong: int = 3) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": "How much is 2 + 2?",
        "chosen": [f"right {k}" for k in range(right)],
        "rejected": [f"wrong {k}" for k in range(wrong)],
        "num_correct": right,
        "num_incorrect": wrong,
        "total_completions": right + wrong,
        "models": ["a"] * (right + wrong),
        "subset": subset,
        "additional_metadata": {"category": None, "correct": None, "index": 1.0},
    }


def rm_bench_row(domain: str = "chat", **changes: Any) -> dict[str, Any]:
    row = {"id": f"{domain}-1", "prompt": "What is a cat?", "domain": domain,
           "chosen": ["An animal.", "A small animal.", "**A small animal.**"],
           "rejected": ["A plant.", "A small plant.", "**A small plant.**"]}  # fmt: skip
    return {**row, **changes}


def judgebench_row(source: str = "mmlu-pro-law", label: str = "A>B", **changes: Any) -> dict[str, Any]:
    row = {"pair_id": "p1", "original_id": "o1", "source": source, "question": "Which?",
           "response_model": "gpt-4o-2024-05-13", "response_A": "This.", "response_B": "That.",
           "label": label}  # fmt: skip
    return {**row, **changes}


def rmb_pair(goal: str = "Helpfulness", scenario: str = "Code/Documentation") -> dict[str, Any]:
    return {
        "pair_uid": "9218",
        "conversation_input": [{"content": "Describe it.", "language": "English", "role": "user"}],
        "chosen": {"llm_name": "a", "answer": "It sorts.", "score": 4.0},
        "reject": {"llm_name": "b", "answer": "No.", "score": 1.0},
        "category_path": f"Pairwise_set/{goal}/{scenario}",
    }


def rmb_list(goal: str = "Harmlessness", scenario: str = "S5", losers: int = 2) -> dict[str, Any]:
    return {
        "conversation_input": [{"content": "Describe it.", "language": "English", "role": "user"}],
        "bon_best": {"llm_name": "a", "answer": "It sorts."},
        "loser_list": [{"llm_name": "b", "answer": f"No {k}."} for k in range(losers)],
        "bon_uid": "2831",
        "category_path": f"BoN_set/{goal}/{scenario}",
    }


def ppe_vote(winner: str = "model_a") -> dict[str, Any]:
    return {"question_id": "q1", "model_a": "a", "model_b": "b", "winner": winner, "prompt": "Hello?",
            "response_1": "Hello!", "response_2": "Go away.", "language": "English", "hard_prompt": False}  # fmt: skip


PPE_COLUMNS = {
    "MMLU-Pro": {"options": ["a", "b"], "category": "law"},
    "MATH": {"problem": "1 + 1"},
    "GPQA": {"Record ID": "r", "Subdomain": "optics"},
    "MBPP-Plus": {"task_id": 3, "test_list": ["assert f(1) == 1"]},
    "IFEval": {"key": 5, "instruction_id_list": ["no_comma"]},
}


def ppe_answers(which: str = "MATH", scores: Sequence[bool] = (True, False, False, True)) -> dict[str, Any]:
    answers = {f"response_{k}": f"{which} answer {k}" for k in range(1, len(scores) + 1)}
    return {"question_id": "q2", "model_name": "m", "scores": list(scores), "mean_score": 0.5, "prompt": "Prove it.",
            **PPE_COLUMNS[which], **answers, "conflict_pairs": [[0, 1], [0, 2], [3, 1], [3, 2]],
            "sampled_conflict_pairs": [[0, 1], [2, 3]]}  # fmt: skip


def hh_row(chosen: str = "Woof.", rejected: str = "Moo.") -> dict[str, str]:
    question = "\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: What does a dog say?\n\nAssistant: "
    return {"chosen": question + chosen, "rejected": question + rejected}


def one_row_of_each() -> dict[str, dict[str, Any]]:
    return {
        "rewardbench": rewardbench_row(),
        "rewardbench2": rewardbench2_row(),
        "rm-bench": rm_bench_row(),
        "judgebench": judgebench_row(),
        "rmb": rmb_pair(),
        "ppe": ppe_vote(),
        "hh": hh_row(),
    }


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON Lines, or as one JSON list if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n", encoding="utf-8")
    return path


def items_of(benchmark: Benchmark, rows: Iterable[dict[str, Any]], file: str = "x.jsonl") -> list[Item]:
    return [item for row in rows for item in benchmark.items(row, Path(file))]


def hits(benchmark: Benchmark, right: int, of: int, row: dict[str, Any]) -> tuple[list[Item], list[list[float]]]:
    """Make items of one row, of which some get scores that are right."""
    items = items_of(benchmark, [row] * of)
    return items, [[float((k in item.right) == (n < right)) for k in range(2)] for n, item in enumerate(items)]


def published(name: str, per_cent: float) -> Figure:
    return Figure(name, per_cent / 100, 100, (0.0, 1.0))


def shown(figures: Iterable[Figure], digits: int = 2) -> dict[str, float]:
    """Return figures in per cent, rounded as they are published."""
    return {figure.name: round(100 * figure.value, digits) for figure in figures}


def by_mean(figures: Figures, digits: int = 2) -> dict[str, float]:
    return {figure.mean: round(100 * figure.value, digits) for figure in figures.totals}
