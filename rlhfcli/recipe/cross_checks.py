"""Checks across several keys of a recipe that fits the schema."""

from __future__ import annotations

from collections.abc import Iterator

from rlhfcli.files.run_layout import PHASES
from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe import builtin, raw_deepspeed
from rlhfcli.recipe.schema import DeepspeedSection, Recipe

_MODELS = (builtin.TINY,)
_SOURCES = (builtin.TINY, builtin.TINY_DIALOGUES, builtin.TINY_PAIRS)
_MAX_NAME, _MAX_PATH = 255, 4095  # bytes
_RESERVED = 200  # bytes of a path for files inside a folder
_TEMPLATES = ("human_assistant", "model")


def find(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find settings that contradict each other.

    Args:
        recipe: A recipe that fits the schema.

    Yields:
        Path of a key, and what is wrong with it.
    """
    yield from _builtin_names(recipe)
    yield from _phases(recipe)
    yield from _offload(recipe.deepspeed)
    yield from raw_deepspeed.problems(recipe.deepspeed)
    yield from _path_names(recipe)
    if recipe.checkpoint.patience is not None and recipe.checkpoint.best_by is None:
        yield ("checkpoint", "patience"), "needs checkpoint.best_by: loss or accuracy, which says what is better"
    template = recipe.data.template
    if template not in _TEMPLATES and not template.endswith(".jinja"):
        what = f'must be human_assistant, model or a .jinja file, got the text "{template}"'
        yield ("data", "template"), what


def _path_names(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find names that no file system accepts; nearly all of them allow 255 bytes."""
    named = [(("output_dir",), recipe.output_dir, _RESERVED), (("deepspeed", "nvme"), recipe.deepspeed.nvme, _RESERVED)]
    for path, name, reserved in named:
        if name is None:
            continue
        if "\0" in name:
            yield path, "must be the name of a folder, and contains a NUL character"
        elif (longest := max(map(_bytes, name.split("/")))) > _MAX_NAME:
            yield path, f"a name in it is too long for a file system: {longest} bytes, {_MAX_NAME} at most"
        elif _bytes(name) > _MAX_PATH - reserved:
            yield path, f"is too long for a file system: {_bytes(name)} bytes, {_MAX_PATH - reserved} at most"


def _bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogateescape"))


def _builtin_names(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    named: list[tuple[KeyPath, str | None, tuple[str, ...]]] = [
        (("model", "name"), recipe.model.name, _MODELS),
    ]
    for key, sets in (("prompts", recipe.eval.prompt_sets), ("pairs", recipe.eval.pair_sets)):
        named += [(("eval", key, name) if name else ("eval", key), file, _SOURCES[:1]) for name, file in sets.items()]
    named += [(("data", "sources", n, "path"), s.path, _SOURCES) for n, s in enumerate(recipe.data.sources)]
    for path, name, known in named:
        if name is not None and name.startswith(builtin.PREFIX) and name not in known:
            yield path, f'"{name}" is not built in; there is {", ".join(known)}'


def _phases(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    split = recipe.data.phase_split
    if split is not None:
        for phase in PHASES:
            if getattr(split, phase) == 0 and recipe.reward.init_from == "sft":
                what = f"must be greater than 0, got 0: the {phase} phase would have no rows"
                yield ("data", "phase_split", phase), what
    if recipe.reward.init_from == "sft" and all(s.phase == "reward" for s in recipe.data.sources):
        what = "none is for sft: give one phase: both, or start the reward model with reward.init_from: base"
        yield ("data", "sources"), what


def _offload(section: DeepspeedSection) -> Iterator[tuple[KeyPath, str]]:
    stage = section.zero_stage
    if section.offload == "all" and stage != 3:
        what = f"all needs deepspeed.zero_stage: 3, got {stage}; optimizer works with the stages 1, 2 and 3"
        yield ("deepspeed", "offload"), what
    elif section.offload == "optimizer" and stage == 0:
        yield ("deepspeed", "offload"), "optimizer needs deepspeed.zero_stage: 1, 2 or 3, got 0"
    if section.nvme is not None and section.offload == "none":
        yield ("deepspeed", "nvme"), "nothing is offloaded: give deepspeed.offload: optimizer or all, too"
    elif section.nvme is not None and stage != 3:  # DeepSpeed would keep it in memory, and say nothing
        yield ("deepspeed", "nvme"), f"files need deepspeed.zero_stage: 3, got {stage}; without nvme memory is used"
