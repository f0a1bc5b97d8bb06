"""Measure how fast rows become tokens, beside ``datasets.map`` doing the same; and what a million pairs cost.

    python benchmarks/prepare_data.py speed                    rounds of both in turn, each in a process of its own
    python benchmarks/prepare_data.py speed --data FILE.json   the same with your own rows
    python benchmarks/prepare_data.py growth                   125,000 to 1,000,000 pairs: seconds and peak memory

The rows are generated: words drawn by Zipf's law from a made-up vocabulary, in dialogues of two to six short turns. The
tokenizer is OPT's kind, a byte-level BPE, with 32,768 entries, trained on such rows. ``datasets.map`` renders the same
chat template with transformers and takes the mask from ``return_assistant_tokens_mask``, as trainers of the field do.
Both sides get one core and write to disk; the tokens and the masks are compared before the times are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WORDS, TRAINED_ON = 30_000, 20_000
GENERATION = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'Human: ' + message['content'] }}{% else %}{{ 'Assistant:' }}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


def dialogues(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Make up dialogues of two to six turns with 4 to 30 words each."""
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    spelling = random.Random(0)
    words = ["".join(spelling.choices(letters, range(26, 0, -1), k=spelling.randint(1, 9))) for _ in range(WORDS)]
    shares = [1 / (rank + 3) for rank in range(WORDS)]
    pool = draw.choices(words, shares, k=2_000_000)

    def sentence() -> str:
        begin = draw.randrange(len(pool) - 40)
        return " ".join(pool[begin : begin + draw.randint(4, 30)]).capitalize() + "."

    for _ in range(count):
        turns = [sentence() for _ in range(2 * draw.randint(1, 3))]
        roles = ("user", "assistant")
        yield {"messages": [{"role": roles[k % 2], "content": turn} for k, turn in enumerate(turns)]}


def pairs(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Make up preferences: a prompt of one to three turns and two answers."""
    for row, other in zip(dialogues(count, seed), dialogues(count, seed + 1), strict=True):
        *prompt, answer = row["messages"]
        yield {"prompt": prompt, "chosen": answer["content"], "rejected": other["messages"][-1]["content"]}


def write_rows(rows: Iterator[dict[str, Any]], path: Path) -> Path:
    """Write rows as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


def make_tokenizer(folder: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Train a byte-level BPE like OPT's and save it with the human_assistant template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from rlhfcli.data.templates.template import set_template

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_768,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for row in rows for text in _texts(row))
    core.train_from_iterator(texts, trainer)
    end = core.token_to_id("</s>")
    core.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", end)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    set_template(tokenizer, "human_assistant")
    tokenizer.save_pretrained(folder)


def _texts(row: dict[str, Any]) -> list[str]:
    """Return the texts of a row in one of the shapes that this script knows."""
    if "messages" in row:
        return ["Human: " + turn["content"] + "\n\nAssistant:" for turn in row["messages"]]
    return [value for value in row.values() if isinstance(value, str)]


def ours(data: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Prepare with rlhf: checked, converted, de-duplicated, split, counted, written."""
    from transformers import AutoTokenizer

    from rlhfcli.data.preparation.prepare import prepare
    from rlhfcli.progress import Silent
    from rlhfcli.recipe.schema import Recipe

    section = {"sources": [{"path": str(data)}], "max_length": 2048, "validation": 0.01}
    recipe = Recipe.model_validate({"output_dir": "x", "model": {"name": str(tokenizer)}, "data": section})
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    began, cpu = time.perf_counter(), time.process_time()
    prepared = prepare(recipe, loaded, folder, Silent())
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    parts = prepared.manifest["tokens"].values()
    first = prepared.dialogues("train")[0]
    learnt = [k for begin, end in first.spans for k in range(begin, end)]
    kept = sum(part["rows"] for part in parts)
    return took | {"tokens": sum(part["tokens"] for part in parts), "rows": kept, "first": [first.ids, learnt]}


def theirs(data: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Make the same tokens and masks with datasets and transformers."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    loaded.chat_template = "{{- bos_token -}}" + GENERATION
    began, cpu = time.perf_counter(), time.process_time()
    rows = datasets.load_dataset("json", data_files=str(data), split="train", cache_dir=str(folder))
    done = rows.map(
        lambda batch: {
            key: value
            for key, value in loaded.apply_chat_template(
                batch["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={}
            ).items()
            if key != "attention_mask"
        },
        batched=True,
        remove_columns=rows.column_names,
    )
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    first = done[0]
    learnt = [k for k, said in enumerate(first["assistant_masks"]) if said]
    tokens = sum(map(len, done["input_ids"]))
    return took | {"tokens": tokens, "rows": len(done), "first": [first["input_ids"], learnt]}


def one_run(side: str, data: Path, tokenizer: Path, cores: int) -> dict[str, Any]:
    """Run one side in a process of its own on the first cores that this one may use."""
    mine = sorted(os.sched_getaffinity(0))[:cores]
    env = os.environ | {"RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": str(cores), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE), "one", side, str(data), str(tokenizer), str(Path(folder) / "out")]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, mine),
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def speed(arguments: argparse.Namespace) -> None:
    """Run both sides in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_tokenizer(folder / "tokenizer", dialogues(TRAINED_ON, 7))
        data = arguments.data or write_rows(dialogues(arguments.rows, 1), folder / "rows.jsonl")
        rounds = [
            {side: one_run(side, data, folder / "tokenizer", 1) for side in ("ours", "theirs")}
            for _ in range(arguments.rounds)
        ]
    first = rounds[0]
    same = first["ours"]["first"] == first["theirs"]["first"]
    print(f"first row, tokens and mask: {'the same' if same else 'DIFFERENT'}")
    print(f"{'':8} {'rows':>9} {'tokens':>12} {'tokens/s (CPU)':>28} {'tokens/s (clock)':>28}")
    for side in ("ours", "theirs"):
        runs = [each[side] for each in rounds]
        told = [_range([run["tokens"] / run[key] for run in runs]) for key in ("cpu", "seconds")]
        print(f"{side:8} {runs[0]['rows']:>9,} {runs[0]['tokens']:>12,} {told[0]:>28} {told[1]:>28}")


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} [{min(values):,.0f} .. {max(values):,.0f}]"


def growth(arguments: argparse.Namespace) -> None:
    """Measure seconds and peak memory for growing numbers of pairs."""
    print(f"{'pairs':>10} {'seconds':>9} {'CPU-s':>9} {'pairs/CPU-s':>12} {'peak RSS':>10}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_tokenizer(folder / "tokenizer", dialogues(TRAINED_ON, 7))
        for count in (arguments.pairs // 8, arguments.pairs // 4, arguments.pairs // 2, arguments.pairs):
            data = write_rows(pairs(count, 1), folder / f"{count}.jsonl")
            run = one_run("pairs", data, folder / "tokenizer", os.cpu_count() or 1)
            times = f"{run['seconds']:>9.1f} {run['cpu']:>9.1f} {count / run['cpu']:>12,.0f}"
            print(f"{count:>10,} {times} {run['peak_gb']:>7.2f} GB", flush=True)
            data.unlink()


def one(arguments: argparse.Namespace) -> None:
    """Run one side in this child process."""
    if arguments.side == "pairs":
        result = _prepare_pairs(arguments.data, arguments.tokenizer, arguments.folder)
    else:
        side = {"ours": ours, "theirs": theirs}[arguments.side]
        result = side(arguments.data, arguments.tokenizer, arguments.folder)
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(result))


def _prepare_pairs(data: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Prepare preferences, which both phases learn from."""
    from transformers import AutoTokenizer

    from rlhfcli.data.preparation.prepare import prepare
    from rlhfcli.progress import Silent
    from rlhfcli.recipe.schema import Recipe

    section = {"sources": [{"path": str(data)}], "validation": 0.01}
    recipe = Recipe.model_validate({"output_dir": "x", "model": {"name": str(tokenizer)}, "data": section})
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    began, cpu = time.perf_counter(), time.process_time()
    prepare(recipe, loaded, folder, Silent())
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("speed")
    verb.add_argument("--rows", type=int, default=60_000)
    verb.add_argument("--rounds", type=int, default=5)
    verb.add_argument("--data", type=Path)
    verb.set_defaults(run=speed)
    verb = verbs.add_parser("growth")
    verb.add_argument("--pairs", type=int, default=1_000_000)
    verb.set_defaults(run=growth)
    verb = verbs.add_parser("one")
    verb.add_argument("side")
    for name in ("data", "tokenizer", "folder"):
        verb.add_argument(name, type=Path)
    verb.set_defaults(run=one)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
