"""``model.dropout``: set the dropouts of a model for training, and restore them when it is saved.

Families write their dropouts under many names, in nested sections, as modules and as plain numbers, and some read their
config in every forward pass. So both are set: each key of the config that is above zero, before the model is made, and
each rate in its modules that is still above zero afterwards. Rates that are zero in a family's own config stay zero.
Layers are never dropped (LayerDrop, stochastic depth): ranks would draw different ones and wait for each other forever.

A saved model gets its own values back: how it was trained says nothing about how others will train it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig

_KEPT = "_rlhf_dropout"  # attribute of the model: its ``Dropout``
_WHOLE_LAYERS = ("layerdrop", "layer_drop", "drop_path", "droppath", "stochastic_depth")
_OTHER_HEADS = ("summary_", "classifier_", "classif_", "token_dropout")  # of heads that are not trained here


@dataclass(frozen=True)
class Dropout:
    """The dropouts of a model.

    Args:
        value: The probability that is set.
        own: The model's own rates above zero, by dotted name in its config or modules.
        layers: The model's own rates at which whole layers would be dropped.
    """

    value: float
    own: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)

    def description(self) -> str:
        """Describe the change for the run's header; empty where there is none."""
        parts = []
        if self.own:
            own = _listed(self.own)
            parts.append(f"dropout {self.value:g} in place of {own}" if self.value else f"dropout off (its own: {own})")
        elif self.value:
            parts.append(f"model.dropout {self.value:g} changes nothing: this model's own config has none above zero")
        if self.layers:
            parts.append(f"layers are never dropped (its own: {_listed(self.layers)})")
        return " · ".join(parts)


def set_config_dropout(config: Any, value: float) -> Dropout:
    """Set the dropouts of a config that are above zero, before the model is made.

    Args:
        config: A transformers config; changed in place, with its nested sections.
        value: Probability.

    Returns:
        The config's own rates.
    """
    found = Dropout(value)
    for owner, key, path in _keys(config):
        old = _values(owner)[key]
        if not _is_rate(old) or not old or "drop" not in key.lower() or key.startswith(_OTHER_HEADS):
            continue
        whole = _drops_layers(key)
        (found.layers if whole else found.own)[path] = old
        _values(owner)[key] = 0.0 if whole else value  # not by setattr: MPT's config calls its rates integers
    return found


def set_module_dropout(model: nn.Module, found: Dropout) -> None:
    """Set the rates above zero in the modules of a model, and keep the record for ``dropout_of``.

    Args:
        model: A model made from a config that ``set_config_dropout`` changed; changed in place.
        found: The result of ``set_config_dropout``.
    """
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and 0 < module.p != found.value:
            found.own[f"{name}.p"] = module.p
            module.p = found.value
        for key, old in list(vars(module).items()):
            if not _is_rate(old) or not old or "drop" not in key.lower():
                continue
            whole = _drops_layers(key) or _drops_layers(type(module).__name__)
            if whole or old != found.value:
                (found.layers if whole else found.own)[f"{name}.{key}"] = old
                setattr(module, key, 0.0 if whole else found.value)
    object.__setattr__(model, _KEPT, found)


def dropout_of(model: nn.Module) -> Dropout:
    """Return the record of a model's dropouts; an empty one where the model was not loaded here.

    Args:
        model: A transformers model.
    """
    found: Dropout = getattr(model, _KEPT, Dropout(0.0))
    return found


def restore_config_dropout(model: Any) -> None:
    """Give a model's config its own dropouts back, for saving.

    Args:
        model: A transformers model.
    """
    found = dropout_of(model)
    own = found.own | found.layers
    for owner, key, path in _keys(model.config):
        # where a text model was made of a larger config, the section has become the whole
        old = own.get(path, next((rate for name, rate in own.items() if name.partition(".")[2] == path), None))
        if old is not None:
            _values(owner)[key] = old


def _keys(owner: Any, prefix: str = "") -> Iterator[tuple[Any, str, str]]:
    """Yield every key of a config and of its sections: its owner, its name, its dotted name."""
    for key, value in list(_values(owner).items()):
        if not isinstance(key, str) or key.startswith("_"):
            continue
        if isinstance(value, dict | PreTrainedConfig):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield owner, key, prefix + key


def _values(owner: Any) -> dict[str, Any]:
    """Return the keys of a config, or of a section that is a plain dictionary, to read and write."""
    return owner if isinstance(owner, dict) else vars(owner)


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _drops_layers(name: str) -> bool:
    return any(word in name.lower().replace("stochasticdepth", "stochastic_depth") for word in _WHOLE_LAYERS)


def _listed(rates: dict[str, float]) -> str:
    """Return the first few rates as ``dropout 0.1, attn_config.attn_pdrop 0.2``."""
    names = [f"{name} {rate:g}" for name, rate in rates.items()]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
