"""``rlhf doctor``: what works on this machine, and how to fix the rest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from rlhfcli import __version__, console
from rlhfcli.cli.shared.options import JsonOption
from rlhfcli.files.run_layout import RUNS
from rlhfcli.launch import usable_cores
from rlhfcli.words import counted

Verdict = Literal["ok", "note", "warning", "broken"]
_MARKS = {"ok": "ok", "note": "·", "warning": "!", "broken": "x"}
_STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "broken": "bold red"}
_PACKAGES = (
    "torch",
    "deepspeed",
    "transformers",
    "datasets",
    "tokenizers",
    "safetensors",
    "pydantic",
    "typer",
)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: The thing that was checked.
        verdict: ``ok``; ``note`` for information; ``warning``; ``broken`` if a verb will fail.
        found: Its state, in words.
        advice: What to do about it.
    """

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: versions, device, memory, caches. Each with a verdict and what to do."""
    findings: list[Finding] = []
    for check in CHECKS:
        for finding in check():
            findings.append(finding)
            if not as_json:
                _show(finding)
    broken = [finding.what for finding in findings if finding.verdict == "broken"]
    if as_json:
        console.result(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    elif broken:
        console.message(f"\nbroken: {', '.join(broken)}", style="bold red")
    else:
        console.message("\neverything that rlhf needs works here", style="green")
        console.next_steps([("rlhf run", "the whole way on the built-in tiny model"), "rlhf --help"])
    raise typer.Exit(1 if broken else 0)


def _versions() -> Iterator[Finding]:
    ok = (3, 10) <= sys.version_info[:2] < (3, 14)
    advice = "" if ok else "Use Python 3.10 to 3.13."
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("Python", "ok" if ok else "warning", found, advice)
    found_packages, missing = [f"rlhf {__version__}"], []
    for name in _PACKAGES:
        try:
            found_packages.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", "ok", ", ".join(found_packages))
    if missing:
        advice = f"pip install {' '.join(missing)}"
        yield Finding("missing packages", "broken", ", ".join(missing), advice)


def _device() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "broken", f"cannot be imported: {error}", "Install it again: pip install torch")
        return
    from rlhfcli.core.hardware import computes_bf16

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding("GPU", "ok", f"{name}: {free / 1e9:.0f} of {total / 1e9:.0f} GB are free")
    else:
        what = f"none that torch {torch.__version__} can use; the CPU does the work"
        hint = "Fine for the tiny recipe. Larger models want a GPU and a torch that is built for it."
        yield Finding("GPU", "note", what, hint)
    bf16 = computes_bf16("auto")
    found = "the hardware has it; dtype: auto takes it" if bf16 else "not in this hardware; dtype: auto takes fp32"
    yield Finding("bf16", "ok" if bf16 else "note", found)
    threads = torch.get_num_threads()
    yield Finding("cores", "ok", f"{usable_cores()} usable, torch computes with {counted(threads, 'thread')}")


def _deepspeed() -> Iterator[Finding]:
    try:
        metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        return
    from rlhfcli.core.parallel import extensions

    compiler, lacks = extensions.compiler(), extensions.missing_for_files()
    if compiler:
        yield Finding("compiler", "ok", f"{compiler}; only deepspeed.nvme builds anything")
    else:
        yield Finding("compiler", "note", "no C++ compiler; only deepspeed.nvme needs one")
    if lacks:
        yield Finding("NVMe offload", "note", f"not possible: {lacks} is missing", f"Only for it: {extensions.INSTALL}")
    else:
        state = "is built" if extensions.built(extensions.FILES) else "will be built on first use, in some minutes"
        yield Finding("NVMe offload", "ok", f"possible; {extensions.FILES} {state}")
    locks = extensions.stale_locks()
    if locks:
        advice = f"DeepSpeed would wait for it for ever. If nothing is building: rm {' '.join(map(str, locks))}"
        yield Finding("build locks", "warning", "left by a build that was killed", advice)
    else:
        yield Finding("build locks", "ok", "none is left over in torch's extension cache")


def _memory() -> Iterator[Finding]:
    import psutil

    from rlhfcli.core import hardware

    machine = psutil.virtual_memory().total
    total, free = hardware.total_memory(), hardware.available_memory()
    short = total < 3e9
    advice = "The tiny recipe needs 2 GB." if short else ""
    limited = f" (of {machine / 1e9:.1f} GB: a container or a job has a limit)" if total < machine else ""
    found = f"{total / 1e9:.1f} GB{limited}, {free / 1e9:.1f} GB can be used"
    yield Finding("memory", "warning" if short else "ok", found, advice)


def _folders() -> Iterator[Finding]:
    place = RUNS if RUNS.is_dir() else Path()
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        advice = "Change to a folder that you may write in, or --set output_dir=..."
        yield Finding("runs folder", "warning", f"{place.resolve()} cannot be written: {reason}", advice)
        return
    free = shutil.disk_usage(place).free / 1e9
    short = free < 2
    found = f"{RUNS.resolve()}, {free:.0f} GB free on its disk"
    advice = "A model of a billion parameters takes 4 GB." if short else ""
    yield Finding("runs folder", "warning" if short else "ok", found, advice)


def _hub() -> Iterator[Finding]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    kinds = {"models": "models--*", "data sets": "datasets--*"}
    counts = ", ".join(f"{len(list(cache.glob(pattern)))} {kind}" for kind, pattern in kinds.items())
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    found = f"{counts} in {cache}"
    if offline:
        advice = "HF_HUB_OFFLINE is set: hub names work only where they are in the cache; local folders always do."
        yield Finding("hub", "note", found, advice)
    else:
        yield Finding("hub", "ok", f"{found}; what is not there is downloaded, unless --offline")


def _show(finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    body = Text(finding.found)
    if finding.advice:
        body.append(f"\n{finding.advice}", style="cyan")
    row = Table.grid(padding=(0, 1))
    row.add_column(width=2)
    row.add_column(width=16)
    row.add_column(overflow="fold")
    row.add_row(Text(_MARKS[finding.verdict], style=_STYLES[finding.verdict]), finding.what, body)
    console.result(row)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _device,
    _deepspeed,
    _memory,
    _folders,
    _hub,
)
