"""The layout of a run folder: the only place that spells the names of its files and folders.

    runs/tiny/
    ├── recipe.yaml                   every setting of the run
    ├── run.json                      versions, commands, and figures of what is finished
    ├── data/manifest.json, *.arrow   the prepared data
    ├── sft/, reward/                 one folder for each phase
    │   ├── metrics.jsonl             one line for each logging window and evaluation
    │   ├── checkpoints/step-00000200/manifest.txt, *.safetensors
    │   └── final/                    the trained model, with B2SUMS; adapter/ in it where LoRA was used
    ├── eval/sft.json, reward.json    results of ``rlhf eval``; benchmarks.json with --benchmark
    ├── chat/chats.jsonl              conversations that ``rlhf chat`` saved
    └── logs/                         output of the ranks, where there are several

These names are a file format: runs of older versions are found by them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Phase = Literal["sft", "reward"]
SFT: Phase = "sft"
REWARD: Phase = "reward"
PHASES: tuple[Phase, ...] = (SFT, REWARD)

RUNS = Path("runs")  # where runs are looked for, below the working directory
RECIPE = "recipe.yaml"
RECORD = "run.json"
METRICS = "metrics.jsonl"
FINAL = "final"
SUMS = "B2SUMS"  # of a model folder: checksum and name of each file
ADAPTER = "adapter"
DATA_MANIFEST = "manifest.json"
CHECKPOINT_MANIFEST = "manifest.txt"  # its own hash, then JSON
UNFINISHED_CHECKPOINTS = ".step-*"  # pattern of what was being written when a process was killed
_CHECKPOINTS = "checkpoints"
_STEP = "step-"


def recipe_file(run: Path) -> Path:
    """Return the path of a run's recipe.

    Args:
        run: The run folder.
    """
    return run / RECIPE


def record_file(run: Path) -> Path:
    """Return the path of a run's ``run.json``, which marks a folder as a run.

    Args:
        run: The run folder.
    """
    return run / RECORD


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run folder.

    Args:
        folder: Any path.
    """
    return record_file(folder).is_file()


def data(run: Path) -> Path:
    """Return the folder of a run's prepared data.

    Args:
        run: The run folder.
    """
    return run / "data"


def evaluation(run: Path) -> Path:
    """Return the folder of a run's evaluation results.

    Args:
        run: The run folder.
    """
    return run / "eval"


def result_file(run: Path, name: str) -> Path:
    """Return the file of an evaluation result.

    Args:
        run: The run folder.
        name: ``sft``, ``reward`` or ``benchmarks``.
    """
    return evaluation(run) / f"{name}.json"


def saved_chats(run: Path) -> Path:
    """Return the file in which ``rlhf chat`` saves conversations with a run's model.

    Args:
        run: The run folder.
    """
    return run / "chat" / "chats.jsonl"


def logs(run: Path) -> Path:
    """Return the folder of the ranks' output.

    Args:
        run: The run folder.
    """
    return run / "logs"


def phase_folder(run: Path, phase: Phase) -> Path:
    """Return the folder of a phase.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
    """
    return run / phase


def final(run: Path, phase: Phase) -> Path:
    """Return the folder of the model that a phase trains; it exists once the phase is finished.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
    """
    return run / phase / FINAL


def metrics(run: Path, phase: Phase) -> Path:
    """Return the path of a phase's ``metrics.jsonl``.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
    """
    return run / phase / METRICS


def checkpoints(run: Path, phase: Phase) -> Path:
    """Return the folder that holds the checkpoints of a phase.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
    """
    return run / phase / _CHECKPOINTS


def checkpoint(parent: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step.

    Args:
        parent: As returned by ``checkpoints``.
        step: Optimizer steps made.
    """
    return parent / f"{_STEP}{step:08}"


def list_checkpoints(parent: Path) -> list[Path]:
    """Return the folders of the checkpoints of a phase, oldest first.

    Args:
        parent: As returned by ``checkpoints``; need not exist.
    """
    return sorted(folder for folder in parent.glob(f"{_STEP}*") if _is_checkpoint(folder))


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint.

    Args:
        checkpoint: Its folder, whose name holds the step.
    """
    return int(checkpoint.name.removeprefix(_STEP))


def run_of(model: Path) -> Path:
    """Return the run folder that a model folder belongs to, if it belongs to one (see ``is_run``).

    Args:
        model: ``<run>/<phase>/final``.
    """
    return model.resolve().parent.parent


def adapter_of(model: Path) -> Path:
    """Return the folder of the adapter beside the merged weights of a model; only there if LoRA was used.

    Args:
        model: The model folder.
    """
    return model / ADAPTER


def is_final(model: Path, phase: Phase) -> bool:
    """Return whether a path has the name that the trained model of a phase has in a run; it need not exist.

    Args:
        model: Any path.
        phase: ``sft`` or ``reward``.
    """
    return model.parts[-2:] == (phase, FINAL)


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and folder.name.removeprefix(_STEP).isdecimal()
