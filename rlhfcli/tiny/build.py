"""Pre-train the embedded base model: ``python -m rlhfcli.tiny.build``.

A decoder of OPT's architecture with two million parameters learns from generated plain text (never from
dialogues in the chat template). The weights in the package are the output of this script with its default
arguments; ``build.json`` beside them records the build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.tiny import model_folder
from rlhfcli.tiny.plain_text import plain_text
from rlhfcli.tiny.pretraining import TOKENS_PER_STEP, Progress, new_model, pretrain
from rlhfcli.tiny.tokenizer import train_tokenizer

DEFAULT_STEPS = 7500
ASSUMED_TOKENS_PER_SECOND = 6000  # one core of a server of 2024; only for the first estimate
PROBES = (
    "The capital of France is",
    "My name is Tom.\nYour name is",
    "Human: What does a cow say?\n\nAssistant:",
)


def source_hash() -> str:
    """Return the SHA-256 of the generator's Python files, in the order of their names."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def text_hash(seed: int) -> str:
    """Return the SHA-256 of the first documents, which shows whether a model was trained on the current text.

    Args:
        seed: Seed of the build.

    Returns:
        The digest in hexadecimal.
    """
    return hashlib.sha256("\f".join(plain_text(2000, seed)).encode()).hexdigest()


def _continuation(model: Any, tokenizer: Any, text: str) -> str:
    """Return the model's greedy continuation of a text."""
    import torch

    ids = tokenizer(text, return_tensors="pt").to(model.device)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def save(model: Any, tokenizer: Any, card: dict[str, Any], output: Path) -> None:
    """Write model, tokenizer and ``build.json``; the folder is replaced in one step.

    Args:
        model: The trained model, which is converted to bfloat16.
        tokenizer: Its tokenizer.
        card: Content of ``build.json``.
        output: The folder.
    """
    import torch

    with complete_or_absent(output) as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "build.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_output(output: Path) -> None:
    """Check that a folder may be replaced: it is empty, or this script wrote it.

    Args:
        output: The folder to write.

    Raises:
        SystemExit: It holds something else.
    """
    if output.exists() and not (output / "build.json").is_file() and (output.is_file() or any(output.iterdir())):
        raise SystemExit(
            f"{output}: the folder holds something other than a base model of this script: choose another --output"
        )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhfcli.tiny.build", description="Pre-train the embedded base model."
    )
    parser.add_argument("--output", type=Path, default=model_folder(), help="folder to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; their number changes the last digits (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of data and weights (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the base model.

    Args:
        argv: Command-line arguments; ``None``: those of the process.
    """
    options = _arguments(argv)
    check_output(options.output)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(options.threads)
    total = options.steps * TOKENS_PER_STEP
    print(
        f"{options.steps} steps × {TOKENS_PER_STEP} tokens = {total / 1e6:.1f}M tokens, about "
        f"{total / ASSUMED_TOKENS_PER_SECOND / 60:.0f} minutes on one core",
        flush=True,
    )
    tokenizer = train_tokenizer(options.seed)
    model = new_model(options.seed).to(options.device)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    progress = pretrain(model, tokenizer, options.steps, options.seed)
    model.eval()
    card = _card(options, model, tokenizer, progress)
    save(model, tokenizer, card, options.output)
    print(f"wrote {options.output} after {progress.seconds / 60:.1f} minutes, loss {progress.recent_loss:.3f}")


def _card(options: argparse.Namespace, model: Any, tokenizer: Any, progress: Progress) -> dict[str, Any]:
    """Describe a build: arguments, effort, versions, and continuations of some texts."""
    import torch
    import transformers

    return {
        "steps": options.steps,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / progress.seconds),
        "final_loss": round(progress.recent_loss, 4),
        "seed": options.seed,
        "threads": options.threads,
        "device": options.device,
        "parameters": model.num_parameters(),
        "generator_sha256": source_hash(),
        "text_sha256": text_hash(options.seed),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "says": {text: _continuation(model, tokenizer, text) for text in PROBES},
    }


if __name__ == "__main__":
    main()
