"""``deepspeed.config``: keys of DeepSpeed's own configuration, checked against the rest of the recipe.

DeepSpeed ignores most unknown keys, and would accept a batch size or a precision that contradicts the recipe.
Therefore a key is passed on only if it is known here and no other setting decides it.
``tests/recipe/test_raw_deepspeed.py`` compares the names with the installed DeepSpeed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe.schema import DeepspeedSection, Recipe

PLACE: KeyPath = ("deepspeed", "config")
ZERO = "zero_optimization"

# reasons why a key is refused: another setting decides it
_BATCH = "sft.batch_size and reward.batch_size (and micro_batch_tokens) decide this"
_ACCUMULATION = "accumulation is derived from batch_size and micro_batch_tokens"
_OPTIMIZER = "the optimizer is torch's AdamW: see learning_rate, betas and weight_decay of sft and reward"
_PRECISION = "model.dtype decides this"
_FIGURES = "figures go where the section logging says"
_OFFLOAD = "deepspeed.offload and deepspeed.nvme decide this"
_CHECKPOINT = "rlhf writes its own checkpoints: see the section checkpoint"
_STATES = "rlhf's checkpoints cannot hold its states"
_DATA_PARALLEL = "rlhf counts on every rank having the whole model, or a ZeRO part of it"
_UNUSED = "rlhf does not use this part of DeepSpeed, so it would change nothing"
DECIDED: dict[str, str] = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _ACCUMULATION,
    "managed_gradient_accumulation": _ACCUMULATION,
    "gradient_clipping": "sft.max_grad_norm and reward.max_grad_norm decide this",
    "gradient_allreduce_op": "the loss is the exact mean over all ranks",
    "optimizer": _OPTIMIZER,
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "scheduler": "sft.schedule and reward.schedule decide this",
    "fp16": f"{_PRECISION}; there is no fp16",
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "activation_checkpointing": "model.gradient_checkpointing decides this",
    "tensorboard": _FIGURES,
    "wandb": _FIGURES,
    "csv_monitor": _FIGURES,
    "comet": _FIGURES,
    "checkpoint": _CHECKPOINT,
    "datastates_ckpt": _CHECKPOINT,
    "tensor_parallel": _DATA_PARALLEL,
    "expert_parallel": _DATA_PARALLEL,
    "use_data_before_expert_parallelism": _DATA_PARALLEL,
    "sequence_parallel_size": _DATA_PARALLEL,
    "pipeline": _DATA_PARALLEL,
    "dataloader_drop_last": "every row is used: see epochs and max_steps",
    "data_efficiency": _UNUSED,
    "hybrid_engine": _UNUSED,
    "autotuning": _UNUSED,
    "compile": _UNUSED,
    "weight_quantization": _UNUSED,
    f"{ZERO}.stage": "deepspeed.zero_stage decides this",
    f"{ZERO}.cpu_offload": _OFFLOAD,
    f"{ZERO}.cpu_offload_param": _OFFLOAD,
    f"{ZERO}.cpu_offload_use_pin_memory": _OFFLOAD,
    f"{ZERO}.compute_grad_norm": "the gradient's norm is measured in every step",
    f"{ZERO}.zenflow": _STATES,
    f"{ZERO}.offload_optimizer.ratio": _STATES,
    f"{ZERO}.offload_optimizer.super_offload": _STATES,
}
# keys that are passed on, by section; the top has no name
_NAMES = {
    "": "steps_per_print dump_state disable_python_gc disable_allgather communication_data_type "
    "seq_parallel_communication_data_type prescale_gradients gradient_predivide_factor zero_optimization comms_logger "
    "flops_profiler wall_clock_breakdown memory_breakdown aio log_level timers",
    ZERO: "contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce "
    "allgather_partitions allgather_bucket_size overlap_comm load_from_fp32_weights elastic_checkpoint offload_param "
    "offload_optimizer sub_group_size stage3_prefetch_bucket_size stage3_param_persistence_threshold "
    "stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance "
    "stage3_gather_16bit_weights_on_model_save stage3_module_granularity_threshold "
    "stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential ignore_unused_parameters legacy_stage1 "
    "round_robin_gradients parameter_alignment zero_hpz_partition_size zero_quantized_weights "
    "zero_quantized_nontrainable_weights zero_quantized_gradients memory_efficient_linear "
    "pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings enable_sanity_checks leaf_module",
    "aio": "block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds",
    "comms_logger": "enabled verbose prof_all prof_ops debug",
    "flops_profiler": "enabled recompute_fwd_factor profile_step module_depth top_modules detailed output_file",
    "timers": "throughput",
}
KNOWN = {section: names.split() for section, names in _NAMES.items()}
_OFFLOADS = ("offload_optimizer", "offload_param")


def with_file(recipe: Recipe) -> tuple[Recipe, list[tuple[KeyPath, str]]]:
    """Replace the name of a JSON file by its content, so that the saved recipe is complete.

    Args:
        recipe: A recipe with absolute paths.

    Returns:
        The recipe, and the problems of the file.
    """
    name = recipe.deepspeed.config
    if not isinstance(name, str):
        return recipe, []
    try:
        found = json.loads(Path(name).read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except OSError as error:
        return recipe, [(PLACE, f"{name} cannot be read: {(error.strerror or str(error)).lower()}")]
    except json.JSONDecodeError as error:
        return recipe, [(PLACE, f"{name}:{error.lineno}: not JSON: {error.msg}")]
    except (ValueError, RecursionError) as error:  # not UTF-8, or a duplicate key
        return recipe, [(PLACE, f"{name}: {error}")]
    if not isinstance(found, dict):
        return recipe, [(PLACE, f"{name} holds no keys")]
    section = recipe.deepspeed.model_copy(update={"config": found})
    return recipe.model_copy(update={"deepspeed": section}), []


def problems(section: DeepspeedSection) -> Iterator[tuple[KeyPath, str]]:
    """Find invalid keys in ``deepspeed.config``.

    Args:
        section: A section that fits the schema.

    Yields:
        Path of a key, and what is wrong with it.
    """
    if isinstance(section.config, str):  # it could not be read
        return
    decided = DECIDED | ({} if section.offload == "none" else {f"{ZERO}.{name}": _OFFLOAD for name in _OFFLOADS})
    for path, value in _walk(section.config):
        dotted, above = ".".join(path), ".".join(path[:-1])
        known = KNOWN.get(above)
        what = None
        if dotted in decided:
            what = f"{decided[dotted]}; leave it out"
        elif any(".".join(path[:n]) in decided for n in range(1, len(path))):
            continue
        elif known is not None and path[-1] not in _with_short_names(known):
            what = _unknown(path, above)
        elif dotted in KNOWN and not isinstance(value, dict):
            what = "must be a section with keys of its own"
        elif value == "auto":
            what = '"auto" is the Hugging Face Trainer\'s word; write a value, or leave the key out'
        elif dotted == f"{ZERO}.offload_param" and section.zero_stage != 3:
            what = f"needs deepspeed.zero_stage: 3, got {section.zero_stage}"
        if what:
            yield (*PLACE, *path), what


def _walk(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        yield (*above, key), value
        if isinstance(value, dict):
            yield from _walk(value, (*above, key))


def _with_short_names(known: Iterable[str]) -> set[str]:
    """Add the short names: DeepSpeed accepts its stage 3 settings with and without ``stage3_``."""
    return {*known, *(name.removeprefix("stage3_") for name in known)}


def _unknown(path: tuple[str, ...], above: str) -> str:
    known = {f"{section}.{name}".lstrip(".") for section, names in KNOWN.items() for name in names}
    places = {place.rpartition(".")[2]: place for place in sorted({*known, *DECIDED}, reverse=True)}
    here = [name for name, place in places.items() if place.rpartition(".")[0] == above]
    close = [places[name] for group in (here, places) for name in difflib.get_close_matches(path[-1], group, 1, 0.7)]
    nearest = f"; did you mean deepspeed.config.{close[0]}?" if close else ""
    return f"DeepSpeed knows no such key here{nearest}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key "{key}" is given twice')
        found[key] = value
    return found
