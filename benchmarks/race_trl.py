"""rlhf beside TRL: the same weights, examples, order, optimizer and loss; seconds per step in alternating rounds.

    pip install -r benchmarks/requirements.txt        TRL and accelerate, beside an installed rlhf
    python benchmarks/race_trl.py reward              HH-like pairs: random tokens with the lengths of a CSV file
    python benchmarks/race_trl.py reward --data FILE  your own pairs or instructions, with a BPE trained on them
    python benchmarks/race_trl.py sft --data FILE     TRL padded, sorted by length, and padding-free
    options: --lengths CSV --batch 8 --steps 100 --rounds 10 --dtype fp32|bf16 --threads 2 --layers 12 --hidden 768

Each side is a process that trains through the shuffled data and waits for its turn, so that never two train at once
and all run under the same load: a round is ``steps / rounds`` optimizer steps of one side, then of the next. Memory
is a process's peak while it trains, above what it held with the model loaded. TRL runs without gradient
checkpointing, with the fused AdamW, and with the clipping, weight decay and learning rate of the other side; and its
process keeps freed memory as ours does, which users of TRL would have to arrange themselves.

``padded``: TRL with batches in the same shuffled order as ours. ``sorted``: the order that transformers calls
group_by_length, which our side takes as well ("rlhf, sorted order"). ``padding-free`` (SFT): the batch as one row, the
best case of packing; OPT's attention then sees across examples, so its losses differ.

Two correct programs differ in rounding, and Adam turns the rounding of gradients that are nearly zero into steps of
full size: from about the thirtieth step on losses part, by the learning rate times a little. To compare them over a
hundred steps take ``--rate 1e-6``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
VOCABULARY, MAX_LENGTH, PAD = 50_272, 512, 1
WARM_UP = 2  # first steps, whose losses count but not their times
SIDES = {"reward": ("rlhf", "padded", "rlhf, sorted order", "sorted")}
SIDES["sft"] = (*SIDES["reward"], "padding-free")


# --- what both sides train on: written once as JSON ---------------------------------------------------------


def random_pairs(lengths: Path, seed: int) -> list[dict[str, Any]]:
    """Draw pairs of random tokens with the lengths of a CSV file: prompt_tokens, chosen_tokens, rejected_tokens."""
    draw = random.Random(seed)

    def tokens(count: str) -> list[int]:
        return draw.choices(range(10, VOCABULARY), k=int(count))

    with lengths.open(encoding="utf-8") as file:
        rows = [[tokens(value) for value in row.values()] for row in csv.DictReader(file)]
    for row in rows:  # both sides cut nothing: what is too long is shortened here
        row[0] = row[0][-(MAX_LENGTH - max(len(row[1]), len(row[2]))) :]
    draw.shuffle(rows)
    return [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]


def real_rows(task: str, data: Path, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a file as ``rlhf prepare-data`` makes them, with a byte-level BPE trained on the same file."""
    sys.path.insert(0, str(HERE.parent))
    import prepare_data
    from transformers import AutoTokenizer

    from rlhfcli.data.preparation.prepare import prepare
    from rlhfcli.progress import Silent
    from rlhfcli.recipe.schema import Recipe

    texts = json.dumps(json.loads(data.read_text(encoding="utf-8")), ensure_ascii=False).split('", "')
    prepare_data.make_tokenizer(folder / "tokenizer", ({"text": text} for text in texts))
    section = {"sources": [{"path": str(data)}], "max_length": MAX_LENGTH, "validation": 0.01}
    recipe = Recipe.model_validate({"output_dir": "x", "model": {"name": "x"}, "data": section})
    prepared = prepare(recipe, AutoTokenizer.from_pretrained(folder / "tokenizer"), folder / "data", Silent())
    if task == "sft":
        found = prepared.dialogues("train")
        rows: list[dict[str, Any]] = [{"ids": row.ids, "spans": row.spans} for row in found]
    else:
        pairs = prepared.pairs("train")
        rows = [{"prompt": row.prompt, "chosen": row.answers[0], "rejected": row.answers[1]} for row in pairs]
    random.Random(seed).shuffle(rows)
    return rows


def length(row: dict[str, Any]) -> int:
    """Return the tokens of the longest sequence of a row."""
    return len(row["ids"]) if "ids" in row else len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"]))


def steps_of(rows: list[dict[str, Any]], options: argparse.Namespace, *, by_length: bool) -> list[list[int]]:
    """Return the rows of each step: shuffled epochs; or, as group_by_length does, 50 batches at a time sorted."""
    draw = random.Random(options.seed)
    steps: list[list[int]] = []
    while len(steps) < options.steps + WARM_UP:
        order = draw.sample(range(len(rows)), len(rows))
        if by_length:
            mega = 50 * options.batch
            groups = [order[k : k + mega] for k in range(0, len(order), mega)]
            order = [row for group in groups for row in sorted(group, key=lambda row: -length(rows[row]))]
        batches = [order[k : k + options.batch] for k in range(0, len(order), options.batch)]
        whole = [batch for batch in batches if len(batch) == options.batch]
        steps += draw.sample(whole, len(whole)) if by_length else whole
    return steps[: options.steps + WARM_UP]


# --- one side, in a process of its own ----------------------------------------------------------------------


class Turn:
    """Lets a side train only during its turn: reads the number of steps, reports their time and losses."""

    def __init__(self, pipe: int) -> None:
        self._report = os.fdopen(pipe, "w")
        self._left = 0
        self._losses: list[float] = []
        self._began = (0.0, 0.0)

    def ready(self) -> None:
        """Begin to count memory and time: the model is loaded."""
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        self._base = _memory("VmRSS")
        self._wait()

    def step(self, loss: float) -> None:
        """Count an optimizer step."""
        self._losses.append(loss)
        self._left -= 1
        if self._left == 0:
            seconds, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            memory = _memory("VmHWM") - self._base
            line = {"seconds": seconds, "cpu": cpu, "losses": self._losses, "memory_gb": memory}
            print(json.dumps(line), file=self._report, flush=True)
            self._losses = []
            self._wait()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self._left = int(line)
        self._began = (time.perf_counter(), time.process_time())


def _memory(what: str) -> float:
    """Return a line of /proc/self/status in GB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024 / 1e9


def train_ours(options: argparse.Namespace, job: dict[str, Any], turn: Turn) -> None:
    """Train with rlhf's loop, engine and task on the rows of the job."""
    from rlhfcli.core.models import loading as models
    from rlhfcli.core.models.language_model import CausalLM
    from rlhfcli.core.models.reward_model import RewardModel
    from rlhfcli.core.models.sequence_classifier import load_for_scoring
    from rlhfcli.core.packing.strategy import choose_strategy, with_flex_attention
    from rlhfcli.core.tasks.reward import RewardTask
    from rlhfcli.core.tasks.sft import SftTask
    from rlhfcli.core.training.parts import Parts, PhaseInputs
    from rlhfcli.core.training.phases import started
    from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
    from rlhfcli.recipe.schema import Recipe

    section: dict[str, Any] = {"learning_rate": options.rate, "batch_size": options.batch, "micro_batch_tokens": 10**6}
    section |= {"betas": [0.9, 0.999], "schedule": {"name": "constant", "warmup_ratio": 0.0}}
    section |= {"loss": {"centering": 0.0}} if options.task == "reward" else {}
    name = {"name": job["model"], "dtype": options.dtype}
    settings = {"output_dir": job["folder"], "model": name, "data": {"sources": [{"path": "x"}]}}
    settings |= {options.task: section, "logging": {"every": 1}, "deepspeed": {"zero_stage": 0}}
    recipe, rows = Recipe.model_validate(settings), job["rows"]
    task: Any
    if options.task == "sft":
        examples = [EncodedDialogue(row["ids"], [(begin, end) for begin, end in row["spans"]]) for row in rows]
        module: Any = CausalLM(models.load_causal_lm(job["model"]), bf16=options.dtype == "bf16")
        strategy = with_flex_attention(choose_strategy(module.model), module.model, bf16=module.bf16)
        task, few = (
            SftTask(part, "assistant", packed=strategy.packed, pad_id=PAD) for part in (examples, examples[:2])
        )
    else:
        pairs = [EncodedPreference.pair(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
        module = RewardModel(load_for_scoring(recipe.model, job["model"]).model, bf16=options.dtype == "bf16")
        strategy = with_flex_attention(choose_strategy(module.model), module.model, bf16=module.bf16)
        task, few = (RewardTask(part, recipe.reward, packed=strategy.packed, pad_id=PAD) for part in (pairs, pairs[:2]))
    module.requires_grad_(True)
    sink: Any = OurSink(turn)
    phase = recipe.sft if options.task == "sft" else recipe.reward
    project = PhaseInputs(recipe, None, None, Path(job["folder"]), sink)  # type: ignore[arg-type]
    with started(project, Parts(phase, module, (task, few), None, strategy)) as (loop, engine):
        loop.steps = job["steps"]
        turn.ready()
        loop.run(engine)


class OurSink:
    """Receives every step of our loop."""

    def __init__(self, turn: Turn) -> None:
        self.turn, self.seen = turn, 0

    def stage(self, name: str) -> Any:
        """Do nothing."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Print into the log."""
        print(text)

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def advance(self, done: int, metrics: dict[str, float]) -> None:
        """Count a step; its lines of figures come here, too."""
        if done > self.seen and "loss" in metrics:
            self.seen = done
            self.turn.step(metrics["loss"])


def train_theirs(options: argparse.Namespace, job: dict[str, Any], turn: Turn) -> None:
    """Train with TRL on the same rows, in the order of the steps."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            turn.ready()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
            if "loss" in logs:
                turn.step(logs["loss"])

    settings: dict[str, Any] = dict(
        output_dir=job["folder"], per_device_train_batch_size=options.batch, max_steps=len(job["steps"]),
        learning_rate=options.rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch_fused", gradient_checkpointing=False, bf16=options.dtype == "bf16", use_cpu=True,
        logging_steps=1, save_strategy="no",
        report_to="none", train_sampling_strategy="sequential", max_length=None, disable_tqdm=True, seed=1,
    )  # fmt: skip
    ordered = [job["rows"][row] for step in job["steps"] for row in step]
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    if options.task == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1)
        data = [{"chosen_ids": r["prompt"] + r["chosen"], "rejected_ids": r["prompt"] + r["rejected"]} for r in ordered]
        trainer: Any = RewardTrainer(
            model, RewardConfig(**settings), train_dataset=datasets.Dataset.from_list(data),
            processing_class=tokenizer, callbacks=[Gate()],
        )  # fmt: skip
    else:
        model = AutoModelForCausalLM.from_pretrained(job["model"])
        data = [{"input_ids": r["ids"], "labels": _labels(r)} for r in ordered]
        free = options.side == "padding-free"
        trainer = SFTTrainer(
            model, SFTConfig(**settings, padding_free=free), train_dataset=datasets.Dataset.from_list(data),
            processing_class=tokenizer, callbacks=[Gate()],
        )  # fmt: skip
    trainer.train()


def _labels(row: dict[str, Any]) -> list[int]:
    labels = [-100] * len(row["ids"])
    for begin, end in row["spans"]:
        labels[begin:end] = row["ids"][begin:end]
    return labels


def one_side(options: argparse.Namespace) -> None:
    """Run a side in this child process."""
    from rlhfcli import launch

    launch.in_this_process()
    job = json.loads(Path(options.job).read_text(encoding="utf-8"))
    train = train_ours if options.side.startswith("rlhf") else train_theirs
    train(options, job, Turn(options.pipe))


# --- the race -----------------------------------------------------------------------------------------------


def make_model(folder: Path, options: argparse.Namespace) -> None:
    """Save random weights of OPT's shape (or a smaller one), with a head, and a tokenizer, which TRL requires."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM, OPTForSequenceClassification

    sys.path.insert(0, str(HERE.parent))
    import prepare_data

    torch.manual_seed(options.seed)
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=options.hidden, ffn_dim=4 * options.hidden,
        word_embed_proj_dim=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64, dropout=0.0, pad_token_id=PAD, num_labels=1,
    )  # fmt: skip
    model = (OPTForSequenceClassification if options.task == "reward" else OPTForCausalLM)(config)
    model.save_pretrained(folder)
    prepare_data.make_tokenizer(folder, prepare_data.dialogues(500, 7))


def race(options: argparse.Namespace) -> None:
    """Run all sides in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.data:
            rows = real_rows(options.task, options.data, folder, options.seed)
        else:
            rows = random_pairs(options.lengths, options.seed)
        make_model(folder / "model", options)
        children = [start(side, rows, options, folder) for side in options.sides or SIDES[options.task]]
        try:
            sizes = [WARM_UP] + [options.steps // options.rounds] * options.rounds
            rounds = [[turn_of(child, size) for child in children] for size in sizes]
        finally:
            for _, process, _ in children:
                process.kill()
    show(rows, rounds, [side for side, _, _ in children], options)


def start(side: str, rows: list[dict[str, Any]], options: argparse.Namespace, folder: Path) -> tuple[str, Any, Any]:
    """Start a child process, which waits for its first turn."""
    steps = steps_of(rows, options, by_length="sorted" in side)
    job = folder / f"{side}.json"
    content = {"rows": rows, "steps": steps, "model": str(folder / "model"), "folder": str(folder / f"{side} run")}
    job.write_text(json.dumps(content), encoding="utf-8")
    report, pipe = os.pipe()
    command = [sys.executable, str(HERE), *sys.argv[1:], "--side", side, "--job", str(job), "--pipe", str(pipe)]
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    log = (folder / f"{side}.log").open("w")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[pipe], env=env, text=True
    )
    os.close(pipe)
    return side, process, (os.fdopen(report), folder / f"{side}.log")


def turn_of(child: tuple[str, Any, Any], steps: int) -> dict[str, Any]:
    """Let a side run its steps of this round."""
    side, process, (report, log) = child
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = report.readline()
    if not line:
        sys.exit(f"{side} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    result: dict[str, Any] = json.loads(line)
    print(f"  {side}: {result['seconds']:.1f} s", file=sys.stderr, flush=True)
    return result


def show(rows: list[Any], rounds: list[list[dict[str, Any]]], sides: list[str], options: argparse.Namespace) -> None:
    """Print losses, then times."""
    per_round = options.steps // options.rounds
    losses = [[loss for each in rounds for loss in each[k]["losses"]] for k in range(len(sides))]
    ours = [sides.index("rlhf, sorted order" if "sorted" in side else "rlhf") for side in sides]
    print(
        f"\n{options.task}, OPT shape {options.layers} x {options.hidden}, {options.dtype}, {options.threads} threads"
    )
    print(f"{options.batch} examples per step, {options.steps} steps in {options.rounds} rounds, {len(rows)} rows")
    if options.losses:
        with options.losses.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["step", *sides], *([k, *row] for k, row in enumerate(zip(*losses, strict=True), 1))]
            )
    for k, side in enumerate(sides):
        apart = max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(losses[k], losses[ours[k]], strict=True))
        print(f"losses of {side:20} {losses[k][0]:.6f} .. {losses[k][-1]:.6f}   at most {apart:.1e} from ours")
    heads = ("examples/s", "seconds per step", "CPU-s", "memory")
    print(f"\n{'':20}{heads[0]:>26}{heads[1]:>26}{heads[2]:>8}{heads[3]:>9}   times that rlhf takes")
    for k, side in enumerate(sides):
        runs = [each[k] for each in rounds[1:]]
        speed = _range([options.batch * per_round / run["seconds"] for run in runs])
        seconds = _range([run["seconds"] / per_round for run in runs])
        cpu = statistics.median(run["cpu"] for run in runs) / per_round
        ratios = _range([each[k]["seconds"] / each[ours[k]]["seconds"] for each in rounds[1:]])
        print(f"{side:20}{speed:>26}{seconds:>26}{cpu:>8.2f}{runs[-1]['memory_gb']:>6.2f} GB   {ratios}")


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f} .. {max(values):.2f}]"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("reward", "sft"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--sides", nargs="*", help="only these, rlhf first")
    parser.add_argument("--losses", type=Path, help="write the loss of every step and side into this CSV file")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    numbers = {"batch": 8, "steps": 100, "rounds": 10, "threads": 2, "layers": 12, "hidden": 768, "seed": 1}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("side", "job"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--pipe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one_side(options)
    elif not (options.data or options.lengths):
        parser.error("give --data or --lengths")
    else:
        race(options)


if __name__ == "__main__":
    main()
