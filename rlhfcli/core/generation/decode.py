"""Continuing prompts with a causal language model: greedy or by sampling, in batches or token by token.

transformers has ``generate``; the loop here is our own because an answer must not depend on the batch that it is
computed in. ``generate`` draws for all rows of a batch from the global random state, and its padded batches are not
exact in every family. Here each prompt has random numbers of its own, and gets the answer that it gets alone (see
``families.continuation``). Besides, streaming is a plain iterator, without a second thread, and rows leave the batch as
soon as they are finished. The key-value cache is that of transformers.

Sampling reduces the distribution to its ``top_k`` most likely tokens, then to its nucleus: the smallest set whose
probability reaches ``top_p`` (Holtzman et al., arXiv 1904.09751).
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

# Prompt and answer tokens of a batch. They bound the memory of the cache, which grows by copying: a CPU is fastest with
# small copies, a GPU with large batches.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass(frozen=True)
class Decoding:
    """Settings that choose the next token.

    Args:
        max_new_tokens: Largest number of tokens of an answer.
        temperature: Divisor of the logits; 0 takes the most likely token (greedy) and ignores the other settings.
        top_k: Number of tokens to draw from; 0 for all.
        top_p: Probability of the smallest set of tokens to draw from.
        seed: Seed of the random numbers: the same answers for the same prompts, however they are batched.
    """

    max_new_tokens: int
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
    on_progress: Callable[[int], None] = lambda answered: None,
) -> list[list[int]]:
    """Answer many prompts.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids, at least one each.
        settings: How tokens are chosen.
        end_ids: Tokens that end an answer.
        pad_id: Any id of the model's vocabulary, for padding.
        on_progress: Called after each batch with the number of prompts that are answered.

    Returns:
        One answer per prompt, in order, without the end token.

    Raises:
        ModelError: A prompt fills the model's whole context, or contains an id that the model does not know.
    """
    check_ids(model, prompts)
    max_lengths = [_max_answer_length(model, prompt, settings) for prompt in prompts]
    draws = _draws(settings, len(prompts))
    answers: list[list[int]] = [[]] * len(prompts)
    method = continuation_method(model) if prompts else TOGETHER
    answered = 0
    for rows in _batches(model, prompts, settings, can_batch(method)):
        state = start_continuation(model, [prompts[row] for row in rows], pad_id, method)
        batch_answers = _answer_batch(state, settings, draws[rows], [max_lengths[row] for row in rows], end_ids)
        for row, answer in zip(rows, batch_answers, strict=True):
            answers[row] = answer
        answered += len(rows)
        on_progress(answered)
    return answers


def stream(model: PreTrainedModel, prompt: list[int], settings: Decoding, end_ids: Collection[int]) -> Iterator[int]:
    """Answer one prompt token by token, with the same tokens as ``generate``.

    Args:
        model: A causal language model in evaluation mode.
        prompt: Token ids, at least one.
        settings: How tokens are chosen.
        end_ids: Tokens that end the answer; they are not yielded.

    Yields:
        Token ids.

    Raises:
        ModelError: The prompt fills the model's whole context, or contains an id that the model does not know.
    """
    check_ids(model, [prompt])
    max_length = _max_answer_length(model, prompt, settings)
    draws = _draws(settings, 1)
    state = start_continuation(model, [prompt], prompt[0], continuation_method(model))
    for step in range(max_length):
        tokens = pick_tokens(state.logits, settings, draws[:, step])
        token = int(tokens)
        if token in end_ids:
            return
        yield token
        if step + 1 < max_length:
            state.feed(tokens)


def pick_tokens(logits: Tensor, settings: Decoding, draws: Tensor) -> Tensor:
    """Choose the next token of each row.

    A draw ``u`` takes the first token whose cumulative probability exceeds ``u``, with the likeliest tokens first.

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
    likelier = probabilities.cumsum(dim=-1) - probabilities  # probability of all likelier tokens
    likelier[:, 0] = 0  # the likeliest token always stays, rounding or not
    probabilities = probabilities.masked_fill(likelier >= settings.top_p, 0)
    cumulative = probabilities.cumsum(dim=-1)
    targets = draws.to(logits)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, targets, right=True)
    last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1  # a draw close to 1 may round past the end
    return order.gather(1, torch.minimum(chosen, last))[:, 0]


def context_limit(model: PreTrainedModel) -> int | None:
    """Return the largest number of tokens that a model can read; ``None`` if positions are unlimited (ALiBi).

    Args:
        model: A transformers model.
    """
    return context_length(model.config)


def end_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer: of the tokenizer, of its chat template and of the generation config.

    Args:
        model: A causal language model.
        tokenizer: The tokenizer of the model.
    """
    ids = {tokenizer.eos_token_id}
    with contextlib.suppress(DataError, RowProblem):  # the template ends answers with words, or refuses the dialogue
        ids.add(end_token(tokenizer))
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(configured if isinstance(configured, list) else [configured])
    return frozenset(i for i in ids if i is not None)


def _batches(
    model: PreTrainedModel, prompts: Sequence[list[int]], settings: Decoding, can_batch: bool
) -> Iterator[list[int]]:
    """Yield the indices of the prompts of each batch, the longest prompts first.

    Neighbours in length share a batch: little padding, and the batch that needs most memory comes first.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batch_tokens = BATCH_TOKENS.get(next(model.parameters()).device.type, BATCH_TOKENS["cpu"])
    while order:
        longest = len(prompts[order[0]]) + settings.max_new_tokens
        size = max(1, batch_tokens // longest) if can_batch else 1
        yield order[:size]
        order = order[size:]


def _max_answer_length(model: PreTrainedModel, prompt: list[int], settings: Decoding) -> int:
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
    """Draw ``(rows, max_new_tokens)`` uniform numbers at once, so that sampling does not depend on batching."""
    if settings.temperature == 0:
        return torch.zeros(1).expand(rows, settings.max_new_tokens)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand((rows, settings.max_new_tokens), generator=generator)


def _answer_batch(
    state: Continuation, settings: Decoding, draws: Tensor, max_lengths: list[int], end_ids: Collection[int]
) -> list[list[int]]:
    """Continue the rows of a batch until each has an end token or its largest length."""
    answers: list[list[int]] = [[] for _ in max_lengths]
    rows = list(range(len(max_lengths)))  # unfinished
    for step in range(max(max_lengths)):
        tokens = pick_tokens(state.logits, settings, draws[rows, step])
        unfinished = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if token in end_ids:
                continue
            answers[row].append(token)
            if step + 1 < max_lengths[row]:
                unfinished.append(place)
        if not unfinished:
            break
        if len(unfinished) < len(rows):
            rows = [rows[place] for place in unfinished]
            state.keep(unfinished)
        state.feed(tokens[torch.tensor(unfinished, device=tokens.device)])
    return answers
