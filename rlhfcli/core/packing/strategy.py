"""The way in which a model computes a batch: the fastest of those that give what one sequence at a time gives.

1. Token trees, with the plan of the forest handed on to our attention function (``attention``; to train on a GPU,
   ``flex`` where that works).
2. Token trees, with the forest as a 4-D mask for the family's own attention (``tree_mask``).
3. A padded rectangle, which every family computes.

Which of them a model can take is tried on a few tokens, not looked up in a table of families.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.families.config_checks import set_pad
from rlhfcli.core.families.rotary import by_own_length, length_dependence
from rlhfcli.core.hardware import device
from rlhfcli.core.packing import layout
from rlhfcli.core.packing.backbone import backbone_of, head_is_apart, probe_ids
from rlhfcli.core.packing.last_layer import narrowed, prunable_layers, same_last_layer
from rlhfcli.core.token_trees import tree_attention_flex
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.token_trees.tree_mask import MASK_TOKENS, mask_unsupported, masked
from rlhfcli.recipe.schema import PhaseSection

MASK = "mask"
_PROBE_VOCABULARY = 64


@dataclass(frozen=True)
class Strategy:
    """How a model computes a batch.

    Args:
        packed: As token trees, or as a padded rectangle.
        attention: The registered function that computes attention, ``MASK``, or ``None``: the family's own.
        note: The same for people, with the reason for what is not the fastest.
        narrowed: Linear layers of the last layer that compute only the tokens that are read (see ``last_layer``).
        head_apart: The head of a language model may be computed in parts (see ``causal_lm``).
    """

    packed: bool
    attention: str | None
    note: str
    narrowed: tuple[str, ...] = ()
    head_apart: bool = False

    def whole(self) -> Strategy:
        """The same with a whole last layer: what recomputes activations does not know any more which ones are read."""
        return replace(self, narrowed=())

    def row_budget(self, tokens: int) -> int:
        """How many of so many tokens one row should hold: a mask has their square of cells."""
        return min(tokens, MASK_TOKENS) if self.attention == MASK else tokens

    def fitted(self, phase: PhaseSection) -> PhaseSection:
        """The section of a phase, with micro-batches that fit."""
        return phase.model_copy(update={"micro_batch_tokens": self.row_budget(phase.micro_batch_tokens)})


def choose_strategy(model: Any, longest: int = 0) -> Strategy:
    """Choose the way in which a model computes.

    Args:
        model: A transformers model, with or without a head.
        longest: Tokens of the longest sequence; some families compute long ones in another way.

    Returns:
        The fastest way that gives the right results.
    """
    more: Any = {"narrowed": prunable_layers(model), "head_apart": head_is_apart(model)}
    if lengths := length_dependence(model, longest):
        return Strategy(packed=False, attention=None, note=f"padded: {lengths}", **more)
    why = layout.packing_unsupported(model)
    if why is None:
        return Strategy(packed=True, attention=TREES, note="token trees", **more)
    reason = mask_unsupported(model.config) or _mask_mismatch(model)
    if reason is None:
        return Strategy(packed=True, attention=MASK, note=f"token trees as a 4-D mask: {why}", **more)
    return Strategy(packed=False, attention=None, note=f"padded: {why}", **more)


def _mask_mismatch(model: Any) -> str | None:
    """Try the mask on a row so long that distances in it and on a path differ by hundreds."""
    return layout.probe_mismatch(model, _branching(model, 10), masked(model))


def _branching(model: Any, branches: int) -> list[list[int]]:
    """Sequences with a common beginning, so long that distances in a row and on a path differ by hundreds."""
    vocabulary = model.get_input_embeddings().num_embeddings
    root = probe_ids(model, 4)
    return [root + [(11 * branch + 5 * i) % vocabulary for i in range(60)] for branch in range(branches)]


def small_model(kind: Any, config: Any, *, trust_remote_code: bool) -> Any:
    """A random model of the same family, with as many layers as it has kinds of, to try ways with.

    Args:
        kind: ``AutoModelForCausalLM`` or ``AutoModelForSequenceClassification``.
        config: Of the large model.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The model, on this process's device.
    """
    try:
        model = kind.from_config(_smaller(config), dtype=torch.float32, trust_remote_code=trust_remote_code)
    except Exception:  # a family whose layers are named one by one in some other key, too
        model = kind.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model.to(device()).eval()


def _smaller(config: Any) -> Any:
    config = deepcopy(config)
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["attention"]
    layers = max(kinds.index(kind) for kind in set(kinds)) + 1
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = kinds[:layers]
    text.num_hidden_layers = layers
    text.vocab_size = min(text.vocab_size, _PROBE_VOCABULARY)
    set_pad(config, None)
    return config


def strategy_for(strategy: Strategy, small: Any, model: Any) -> Strategy:
    """The way of a model that was tried on a small one of its kind.

    Args:
        strategy: What ``choose_strategy`` chose for the small one.
        small: What it was tried on.
        model: The model itself; its last layer may be of another kind, such as one with experts.
    """
    return strategy if same_last_layer(small, model) else strategy.whole()


def fastest_strategy(strategy: Strategy, model: Any, *, bf16: bool) -> Strategy:
    """The way to train in: FlexAttention where the plan is handed on and the model is on a GPU that can do it.

    Args:
        strategy: What ``choose_strategy`` chose.
        model: The transformers model.
        bf16: Whether it computes in bfloat16.

    Returns:
        The way, or a faster one; its note says why not.
    """
    if strategy.attention != TREES or model.device.type != "cuda":
        return strategy
    why = flex_unsupported(model, bf16=bf16)
    if why is None:
        return replace(strategy, attention=tree_attention_flex.FLEX, note=f"{strategy.note}, FlexAttention")
    return replace(strategy, note=f"{strategy.note}, without FlexAttention: {why}")


def flex_unsupported(model: Any, *, bf16: bool) -> str | None:
    """Why a model cannot use FlexAttention here: tried on two rows, forwards and backwards, as in training.

    Args:
        model: A transformers model that computes token trees, on its device.
        bf16: Whether it computes in bfloat16.

    Returns:
        The reason, for people, or ``None``: it gives what the rectangles give.
    """
    training = model.training
    model.eval()
    try:
        for branches in (4, 7):  # one length and another: it has to be compiled for any
            expected = _tried(model, branches, bf16, attention(model, TREES))
            for one, other in zip(
                expected, _tried(model, branches, bf16, attention(model, tree_attention_flex.FLEX)), strict=True
            ):
                if not (one - other).abs().max() <= (3e-2 if bf16 else 1e-3) * one.abs().max():
                    return "it gives other results here"
        return None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise anything
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    finally:
        model.train(training)


def _tried(model: Any, branches: int, bf16: bool, strategy: AbstractContextManager[None]) -> list[Tensor]:
    """Hidden states of a forest, and one gradient where something is trained."""
    backbone, sequences = backbone_of(model), _branching(model, branches)
    inputs = layout.lay_out(sequences, packed=True, pad_id=0).to(model.device).inputs()
    with strategy, torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        states = backbone(**inputs).last_hidden_state
    trained = next((parameter for parameter in backbone.parameters() if parameter.requires_grad), None)
    if trained is None:
        return [states.float()]
    return [states.detach().float(), *torch.autograd.grad(states.float().square().sum(), trained)]


@contextmanager
def computing_with(model: Any, strategy: Strategy) -> Iterator[None]:
    """Let a transformers model compute in a certain way for a while."""
    attending = masked(model) if strategy.attention == MASK else attention(model, strategy.attention)
    with narrowed(model, strategy.narrowed), attending, by_own_length(model):
        yield
