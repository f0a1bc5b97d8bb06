"""``deepspeed.config``: which keys are passed on to DeepSpeed, and which are refused because another decides."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.errors import RecipeError
from rlhfcli.recipe import raw_deepspeed
from rlhfcli.recipe.loader import dump, load_recipe

BASE = """\
output_dir: runs/x
model: {name: builtin:tiny}
data: {sources: [{path: builtin:tiny}]}
deepspeed:
"""
PASSED: list[dict[str, Any]] = [
    {"zero_optimization": {"reduce_bucket_size": 5e7, "overlap_comm": True, "zero_hpz_partition_size": 8}},
    {"zero_optimization": {"stage3_prefetch_bucket_size": 10, "prefetch_bucket_size": 10}},
    {"zero_optimization": {"offload_optimizer": {"device": "cpu", "buffer_count": 2}}},
    {"comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]}, "wall_clock_breakdown": True},
    {"aio": {"queue_depth": 16}, "communication_data_type": "fp32"},
]
# lines below "deepspeed:" (the first is line 5) → messages
REFUSED = [
    (
        "config: {train_batch_size: 32}",
        "5: deepspeed.config.train_batch_size: sft.batch_size and reward.batch_size (and micro_batch_tokens) decide "
        "this; leave it out",
    ),
    (
        "config: {gradient_accumulation_steps: 2}",
        "5: deepspeed.config.gradient_accumulation_steps: accumulation is derived from batch_size and "
        "micro_batch_tokens; leave it out",
    ),
    (
        "config: {gradient_clipping: 1.0}",
        "5: deepspeed.config.gradient_clipping: sft.max_grad_norm and reward.max_grad_norm decide this; leave it out",
    ),
    (
        "config:\n    optimizer: {type: AdamW, params: {lr: auto}}",
        "6: deepspeed.config.optimizer: the optimizer is torch's AdamW: see learning_rate, betas and weight_decay of "
        "sft and reward; leave it out",
    ),
    (
        "config: {scheduler: {type: WarmupLR}}",
        "5: deepspeed.config.scheduler: sft.schedule and reward.schedule decide this; leave it out",
    ),
    ("config: {bf16: {enabled: auto}}", "5: deepspeed.config.bf16: model.dtype decides this; leave it out"),
    ("config: {fp16: {}}", "5: deepspeed.config.fp16: model.dtype decides this; there is no fp16; leave it out"),
    (
        "config:\n    zero_optimization:\n      stage: 2",
        "7: deepspeed.config.zero_optimization.stage: deepspeed.zero_stage decides this; leave it out",
    ),
    (
        "offload: optimizer\n  config: {zero_optimization: {offload_optimizer: {device: cpu}}}",
        "6: deepspeed.config.zero_optimization.offload_optimizer: deepspeed.offload and deepspeed.nvme decide this; "
        "leave it out",
    ),
    (
        "config: {zero_optimization: {offload_optimizer: {device: cpu, ratio: 0.5}}}",
        "5: deepspeed.config.zero_optimization.offload_optimizer.ratio: rlhf's checkpoints cannot hold its states; "
        "leave it out",
    ),
    (
        "config: {zero_optimization: {offload_param: {device: cpu}}}",
        "5: deepspeed.config.zero_optimization.offload_param: needs deepspeed.zero_stage: 3, got 1",
    ),
    (
        "config: {zero_optimization: {reduce_bucket_size: auto}}",
        '5: deepspeed.config.zero_optimization.reduce_bucket_size: "auto" is the Hugging Face Trainer\'s word; write '
        "a value, or leave the key out",
    ),
    (
        "config: {zero_optimization: {reduce_buket_size: 3}}",
        "5: deepspeed.config.zero_optimization.reduce_buket_size: DeepSpeed knows no such key here; did you mean "
        "deepspeed.config.zero_optimization.reduce_bucket_size?",
    ),
    (
        "config: {overlap_comm: true}",
        "5: deepspeed.config.overlap_comm: DeepSpeed knows no such key here; did you mean "
        "deepspeed.config.zero_optimization.overlap_comm?",
    ),
    (
        "config: {comms_loger: {enabled: true}}",
        "5: deepspeed.config.comms_loger: DeepSpeed knows no such key here; did you mean "
        "deepspeed.config.comms_logger?",
    ),
    ("config: {nebula: {}}", "5: deepspeed.config.nebula: DeepSpeed knows no such key here"),
    (
        "config: {aio: 3}",
        "5: deepspeed.config.aio: must be a section with keys of its own",
    ),
    (
        "config: {comet: {api_key: secret}}",
        "5: deepspeed.config.comet: figures go where the section logging says; leave it out",
    ),
]
# content of a file → message
UNREADABLE = [
    (None, "ds.json cannot be read: no such file or directory"),
    (b'{"aio": {},\n  oops}', "ds.json:2: not JSON: Expecting property name enclosed in double quotes"),
    (b'{"aio": {}, "aio": {}}', 'ds.json: the key "aio" is given twice'),
    (b"[1]", "ds.json holds no keys"),
    (b'{"aio": "\xe9"}', "ds.json: 'utf-8' codec can't decode byte 0xe9 in position 9: invalid continuation byte"),
]


def loaded(folder: Path, lines: str) -> Any:
    (folder / "r.yaml").write_text(f"{BASE}  {lines}\n")
    return load_recipe(folder / "r.yaml").recipe


def refused(folder: Path, lines: str) -> str:
    with pytest.raises(RecipeError) as caught:
        loaded(folder, lines)
    return str(caught.value.what).replace(str(folder) + "/", "")


@pytest.mark.parametrize("config", PASSED)
def test_what_nothing_else_decides_is_passed_on(tmp_path: Path, config: dict[str, Any]) -> None:
    recipe = loaded(tmp_path, f"config: {json.dumps(config)}")
    assert recipe.deepspeed.config == config
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load_recipe(tmp_path / "again.yaml").recipe.deepspeed == recipe.deepspeed


@pytest.mark.parametrize(("lines", "message"), REFUSED, ids=[lines.replace("\n", "|") for lines, _ in REFUSED])
def test_what_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    assert refused(tmp_path, lines) == f"r.yaml:{message}"


def test_a_file_beside_the_recipe_is_taken_into_it(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(PASSED[0]))
    assert loaded(tmp_path, "config: ds.json").deepspeed.config == PASSED[0]


def test_a_file_is_checked_like_a_section_at_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}')
    assert refused(tmp_path, "zero_stage: 2\n  config: ds.json").splitlines() == [
        "r.yaml:6: deepspeed.config.zero_optimization.stage: deepspeed.zero_stage decides this; leave it out",
        "r.yaml:6: deepspeed.config.train_batch_size: sft.batch_size and reward.batch_size (and micro_batch_tokens) "
        "decide this; leave it out",
    ]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "ds.json").write_bytes(content)
    assert refused(tmp_path, "config: ds.json") == f"r.yaml:5: deepspeed.config: {message}"


def test_the_names_are_those_of_the_installed_deepspeed() -> None:
    """Every key that DeepSpeed reads is either passed on or decided here, and nothing else is."""
    from rlhfcli.core.parallel.process_group import import_deepspeed

    import_deepspeed()
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields.items()
    theirs = {field.alias or name for name, field in fields if "deprecated" not in (field.json_schema_extra or {})}
    theirs -= {"save_muon_momentum_buffer_in_memory"}  # of another optimizer
    ours = set(raw_deepspeed.KNOWN["zero_optimization"])
    decided = {key.split(".")[1] for key in raw_deepspeed.DECIDED if key.startswith("zero_optimization.")}
    assert theirs - ours - decided == set()
    assert ours - theirs == set()
    assert set(raw_deepspeed.KNOWN["aio"]) == set(AIO_DEFAULT_DICT)
    assert set(raw_deepspeed.KNOWN["comms_logger"]) == set(CommsLoggerConfig.model_fields)


def test_deepspeed_knows_every_name_at_the_top() -> None:
    package = Path(importlib.util.find_spec("deepspeed").origin).parent  # type: ignore[union-attr,arg-type]
    files = [*(package / "runtime").rglob("*.py"), *package.glob("*/c*.py")]
    read = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    ours = {*raw_deepspeed.KNOWN[""], *(key for key in raw_deepspeed.DECIDED if "." not in key)}
    assert ours - read == set()
