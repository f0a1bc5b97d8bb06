"""The weights of a model that LoRA can adapt, and how the targets of a recipe or of an adapter select among them.

Adapted are the linear layers of the backbone, and the experts of a mixture that lie stacked in one parameter. The
language-model head, the reward head and layers that do more than multiply (routers) are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.errors import UserError
from rlhfcli.recipe.schema import LoraSection


def select_targets(model: nn.Module, settings: LoraSection) -> list[str]:
    """Select the layers that a recipe adapts.

    Args:
        model: A model without adapters.
        settings: Targets and dropout. With dropout the experts of a mixture are not adapted.

    Returns:
        Dotted names of linear layers and of stacked experts.

    Raises:
        UserError: A target matches no layer, or there are no targets.
    """
    experts = [name for name, _ in expert_stacks(model)]
    available = [name for name, _ in linear_layers(model)] + ([] if settings.dropout else experts)
    names = [name for name in available if _matches(name, settings.targets)]
    targets = [settings.targets] if isinstance(settings.targets, str) else settings.targets
    missing = [target for target in targets if not any(_matches(name, target) for name in available)]
    if missing or not names:
        endings = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in available}))
        without = " Experts can be adapted with lora.dropout=0 only." if experts and settings.dropout else ""
        raise UserError(
            f"no linear layer of the model is called {', '.join(missing)}" if missing else "lora.targets is empty",
            where="lora.targets",
            hint=f"Its linear layers end in: {endings}. all-linear takes all of them.{without}",
        )
    return names


def select_peft_targets(model: nn.Module, config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Select the layers that a PEFT adapter adapts, and find targets that are another kind of layer.

    Targets that match nothing at all are ignored, as in PEFT: people list those of several families.

    Args:
        model: A model without adapters.
        config: The content of ``adapter_config.json``.

    Returns:
        Dotted names of linear layers and parameters; targets that match other modules alone.
    """
    targets = config.get("target_modules") or []
    wanted = [targets] if isinstance(targets, str) else list(targets)
    linear = [name for name, _ in linear_layers(model)]
    others = [name for name, _ in model.named_modules() if name not in linear]
    fitting = {target for target in wanted if any(_matches(name, target) for name in linear)}
    names = [name for name in linear if any(_matches(name, target) for target in fitting)]
    for name, _ in model.named_parameters():
        if _matches(name, config.get("target_parameters") or []):
            layer = name.removesuffix(".weight")  # PEFT may name a linear layer by its only matrix
            names.append(layer if layer in linear else name)
    return names, [t for t in wanted if t not in fitting and any(_matches(name, t) for name in others)]


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """Find the linear layers of the backbone: neither the language-model head nor the reward head.

    Args:
        model: A transformers model.

    Yields:
        Dotted names and layers.
    """
    head = reward_head(model)
    heads = [head[1]] if head else []
    if isinstance(model, PreTrainedModel):
        heads.append(model.get_output_embeddings())
    for name, module in model.named_modules():
        if is_plain_linear(module) and not any(module is head for head in heads):
            yield name, module


def expert_stacks(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Find the parameters that hold one matrix per expert.

    Args:
        model: A transformers model.

    Yields:
        Dotted names and parameters ``(experts, rows, columns)``.
    """
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if len(shape_of(parameter)) == 3 and shape_of(parameter)[0] == getattr(module, "num_experts", 0):
                yield f"{name}.{key}", parameter


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Check that a module computes ``W x + b`` and no more: a router may inherit from ``nn.Linear`` and choose experts.

    Args:
        module: Any module.
    """
    return type(module).forward in (nn.Linear.forward, Conv1D.forward)


def reward_head(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Return the name and the head of a sequence classifier; ``None`` for a language model.

    Args:
        model: A transformers model; all decoder families call the head ``score``.
    """
    score = getattr(model, "score", None)
    return ("score", score) if isinstance(score, nn.Linear) else None


def _matches(name: str, targets: str | list[str]) -> bool:
    """Whether a dotted name is, or ends with, one of the targets."""
    if targets == "all-linear":
        return True
    wanted = [targets] if isinstance(targets, str) else targets
    return any(name == target or name.endswith(f".{target}") for target in wanted)
