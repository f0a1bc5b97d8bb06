"""``model.dropout``: where a model drops activations while it is trained, and where it does not.

Families write their dropouts under many names, in nested sections, as modules and as plain numbers, and some read their
config in every forward pass. So both are changed: each key of the config that is above zero, before the model is made,
and what is still above zero in its modules afterwards. What a family's own config has at zero stays there. Layers are
never dropped (LayerDrop, stochastic depth): ranks would draw different ones, and wait for each other for ever.

A saved model gets its own values back: how it was trained says nothing about how somebody else will train it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig

_KEPT = "_rlhf_dropout"  # attribute of the model: what is known of its own dropouts
_WHOLE_LAYERS = ("layerdrop", "layer_drop", "drop_path", "droppath", "stochastic_depth")
_OTHER_HEADS = ("summary_", "classifier_", "classif_", "token_dropout")  # of no model that is trained here


@dataclass(frozen=True)
class Dropout:
    """The dropouts of a model.

    Args:
        value: What takes their place.
        own: Those above zero in its own config or modules, by dotted name.
        layers: Those that would drop whole layers.
    """

    value: float
    own: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)

    def description(self) -> str:
        """What was set, for the run's header; empty where there is nothing to say."""
        said = []
        if self.own:
            own = _listed(self.own)
            said.append(f"dropout {self.value:g} in place of {own}" if self.value else f"dropout off (its own: {own})")
        elif self.value:
            said.append(f"model.dropout {self.value:g} changes nothing: this model's own config has none above zero")
        if self.layers:
            said.append(f"layers are never dropped (its own: {_listed(self.layers)})")
        return " · ".join(said)


def set_config(config: Any, value: float) -> Dropout:
    """Set the dropouts of a config that are above zero, before the model is made.

    Args:
        config: A transformers config; changed in place, with its nested sections.
        value: Probability.

    Returns:
        What they were.
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


def set_modules(model: nn.Module, found: Dropout) -> None:
    """Set what is above zero in a model that was made of such a config, and note it all for ``dropout_of``.

    Args:
        model: Changed in place.
        found: What ``set_config`` gave.
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
    """What was done to the dropouts of a model.

    Args:
        model: One that was loaded here; of others nothing is known.
    """
    found: Dropout = getattr(model, _KEPT, Dropout(0.0))
    return found


def restore_config(model: Any) -> None:
    """Give a model's config its own dropouts back, for saving.

    Args:
        model: A transformers model.
    """
    found = dropout_of(model)
    own = found.own | found.layers
    for owner, key, path in _keys(model.config):
        # of a text model that was made of a larger config, the section has become the whole
        old = own.get(path, next((rate for name, rate in own.items() if name.partition(".")[2] == path), None))
        if old is not None:
            _values(owner)[key] = old


def _keys(owner: Any, prefix: str = "") -> Iterator[tuple[Any, str, str]]:
    """Every key of a config and of its sections: its owner, its name, its dotted name."""
    for key, value in list(_values(owner).items()):
        if not isinstance(key, str) or key.startswith("_"):
            continue
        if isinstance(value, dict | PreTrainedConfig):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield owner, key, prefix + key


def _values(owner: Any) -> dict[str, Any]:
    """The keys of a config, or of a section that is a plain dictionary, to be read and written."""
    return owner if isinstance(owner, dict) else vars(owner)


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _drops_layers(name: str) -> bool:
    return any(word in name.lower().replace("stochasticdepth", "stochastic_depth") for word in _WHOLE_LAYERS)


def _listed(rates: dict[str, float]) -> str:
    """``dropout 0.1, attn_config.attn_pdrop 0.2``, each once, the first few."""
    names = [f"{name} {rate:g}" for name, rate in rates.items()]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
