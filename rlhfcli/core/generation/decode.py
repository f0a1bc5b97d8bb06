"""Continue prompts with a causal language model: greedy or by sampling, in batches or token by token.

The loop is our own and not ``transformers.generate`` for three reasons: a seed of its own (``generate``
draws from the global state), a plain iterator for streaming (``generate`` needs a second thread), and rows
that leave the batch as soon as they are finished. The key-value cache is transformers' own.

A prompt gets the answer that it gets alone, whatever it shares a batch with (see ``continuation``).

Sampling cuts the distribution to its ``top_k`` most likely tokens, then to its nucleus: the smallest set
whose probability reaches ``top_p`` (Holtzman et al., arXiv 1904.09751).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.config_checks import context_length
from rlhfcli.core.families.continuation import (
    TOGETHER,
    Continuation,
    can_batch,
    continuation_method,
    start_continuation,
)
from rlhfcli.core.families.embeddings import check_ids
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import end_token
from rlhfcli.errors import DataError, ModelError

# Prompt and answer tokens that one batch holds. It bounds the memory of the cache, which grows by copying: a
# CPU is fastest while the copies are small, a GPU while it has much to do at once.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Args:
        max_new_tokens: Longest answer.
        temperature: Divides the logits; 0 takes the most likely token (greedy) and ignores the rest.
        top_k: Draw from so many tokens; 0: from all.
        top_p: Draw from the smallest set of tokens that has this probability.
        seed: Same seed, same prompts, same answers, however they are batched.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    settings: Decoding,
    end_ids: Collection[int],
    pad_id: int,
    told: Callable[[int], None] = lambda answered: None,
) -> list[list[int]]:
    """Answer many prompts.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids, each at least one; any lengths, any order.
        settings: How tokens are chosen.
        end_ids: Tokens that end an answer.
        pad_id: Any id of the model's vocabulary; it stands where nobody looks.
        told: Hears after each batch how many prompts are answered.

    Returns:
        One answer per prompt, in order, without the end token.

    Raises:
        ModelError: A prompt fills the model's whole context, or has an id that the model does not know.
    """
    check_ids(model, prompts)
    rooms = [_room(model, prompt, settings) for prompt in prompts]
    draws = _draws(settings, len(prompts))
    answers: list[list[int]] = [[]] * len(prompts)
    # Neighbours in length share a batch: little padding, and the batch that needs most memory comes first.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batch_tokens = BATCH_TOKENS.get(next(model.parameters()).device.type, BATCH_TOKENS["cpu"])
    method = continuation_method(model) if prompts else TOGETHER
    while order:
        longest = len(prompts[order[0]]) + settings.max_new_tokens
        rows_at_once = max(1, batch_tokens // longest) if can_batch(method) else 1
        rows, order = order[:rows_at_once], order[rows_at_once:]
        cache = start_continuation(model, [prompts[i] for i in rows], pad_id, method)
        room = [rooms[i] for i in rows]
        for i, answer in zip(rows, _answer(cache, settings, draws[rows], room, end_ids), strict=True):
            answers[i] = answer
        told(len(prompts) - len(order))
    return answers


def stream(model: PreTrainedModel, prompt: list[int], settings: Decoding, end_ids: Collection[int]) -> Iterator[int]:
    """Answer one prompt, token by token: the same tokens as ``generate`` gives it.

    Args:
        model: A causal language model in evaluation mode.
        prompt: Token ids, at least one.
        settings: How tokens are chosen.
        end_ids: Tokens that end the answer; they are not handed out.

    Yields:
        Token ids.

    Raises:
        ModelError: The prompt fills the model's whole context, or has an id that the model does not know.
    """
    check_ids(model, [prompt])
    room = _room(model, prompt, settings)
    draws = _draws(settings, 1)
    cache = start_continuation(model, [prompt], prompt[0], continuation_method(model))
    for step in range(room):
        tokens = pick(cache.logits, settings, draws[:, step])
        token = int(tokens)
        if token in end_ids:
            return
        yield token
        if step + 1 < room:
            cache.feed(tokens)


def pick(logits: Tensor, settings: Decoding, draws: Tensor) -> Tensor:
    """Choose the next tokens.

    A draw ``u`` takes the first token whose cumulative probability is above ``u``; the likeliest comes first.

    Args:
        logits: ``(rows, vocabulary)``.
        settings: Temperature, ``top_k``, ``top_p``.
        draws: ``(rows,)`` uniform numbers in [0, 1).

    Returns:
        ``(rows,)`` token ids.
    """
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    logits, order = (logits.float() / settings.temperature).sort(dim=-1, descending=True, stable=True)
    if settings.top_k:
        logits, order = logits[:, : settings.top_k], order[:, : settings.top_k]
    probabilities = logits.softmax(dim=-1)
    likelier = probabilities.cumsum(dim=-1) - probabilities  # what comes before each token
    likelier[:, 0] = 0  # the likeliest token always stays, rounding or not
    probabilities = probabilities.masked_fill(likelier >= settings.top_p, 0)
    cumulative = probabilities.cumsum(dim=-1)
    targets = draws.to(logits)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, targets, right=True)
    last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1  # a draw near 1 may round past the end
    return order.gather(1, torch.minimum(chosen, last))[:, 0]


def context_limit(model: PreTrainedModel) -> int | None:
    """How many tokens the model can read at once; None where its positions have no end (ALiBi)."""
    return context_length(model.config)


def end_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, the template's and those of the generation settings."""
    ids = {tokenizer.eos_token_id}
    with contextlib.suppress(DataError, RowProblem):  # a template may end answers with words, or refuse
        ids.add(end_token(tokenizer))
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(also if isinstance(also, list) else [also])
    return frozenset(i for i in ids if i is not None)


def _room(model: PreTrainedModel, prompt: list[int], settings: Decoding) -> int:
    """How long the answer to ``prompt`` may be."""
    if not prompt:
        raise ValueError("a prompt needs at least one token")
    limit = context_limit(model)
    if limit is None:
        return settings.max_new_tokens
    if len(prompt) >= limit:
        raise ModelError(
            f"a prompt of {len(prompt):,} tokens leaves no room for an answer: the model reads {limit:,}",
            hint="Shorten the prompt, or lower data.max_length.",
        )
    return min(settings.max_new_tokens, limit - len(prompt))


def _draws(settings: Decoding, rows: int) -> Tensor:
    """``(rows, max_new_tokens)`` uniform numbers, drawn at once: a row's luck does not hang on its batch."""
    if settings.temperature == 0:
        return torch.zeros(1).expand(rows, settings.max_new_tokens)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand((rows, settings.max_new_tokens), generator=generator)


def _answer(
    cache: Continuation, settings: Decoding, draws: Tensor, rooms: list[int], end_ids: Collection[int]
) -> list[list[int]]:
    """Continue all rows of a batch until each has said its end token or filled its room."""
    answers: list[list[int]] = [[] for _ in rooms]
    rows = list(range(len(rooms)))  # those still going
    for step in range(max(rooms)):
        tokens = pick(cache.logits, settings, draws[rows, step])
        said = tokens.tolist()
        going = []
        for place, (row, token) in enumerate(zip(rows, said, strict=True)):
            if token in end_ids:
                continue
            answers[row].append(token)
            if step + 1 < rooms[row]:
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            cache.keep(going)
        cache.feed(tokens[torch.tensor(going, device=tokens.device)])
    return answers
