"""Token trees: sequences that begin alike share their beginning, so that every token is computed once.

Because attention is causal, the hidden state of a token depends on nothing but the tokens before it. Two dialogues that
begin alike therefore have the same hidden states as far as they agree: the answers to one prompt, the turns of one
conversation, every dialogue under one system prompt. A batch of sequences is a *forest*; its trees branch where
sequences part, and stand in one row of tokens, one branch behind the other:

    sequences   the cat sat .        row        the cat sat . ran away ! who ?
                the cat ran away !   position    0   1   2  3  2   3   4  0  1
                who ?                index[1]    0   1          4   5   6

The branches are found by sorting the sequences: each then shares as much with its neighbour as with any sequence
before it, so the shared part stands in the row already, and the rest is a new branch.

The row is a walk through each tree, depth first: whatever grows from token ``k`` follows it without a gap, up to
``ends[k]``. Token ``q`` sees token ``k`` exactly when ``k <= q < ends[k]``: one vector describes the whole forest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Forest:
    """Sequences merged where they begin alike.

    Args:
        ids: ``(tokens,)`` the row: every token once.
        positions: ``(tokens,)`` the position of each within its sequences.
        index: ``(sequences, longest)`` the index of token ``t`` of sequence ``s`` in the row; 0 behind its end.
        lengths: ``(sequences,)`` number of tokens of each.
        shared: ``(sequences,)`` how many tokens at its beginning belong to the branch of another sequence.
        ends: ``(tokens,)`` where in the row the part that grows from each token ends.
    """

    ids: Tensor
    positions: Tensor
    index: Tensor
    lengths: Tensor
    shared: Tensor
    ends: Tensor


def build_forest(sequences: Sequence[Sequence[int]], *, share: bool = True) -> Forest:
    """Merge sequences where they begin alike.

    Args:
        sequences: Token ids, none empty.
        share: Whether to merge them; else every sequence is a tree of its own.

    Returns:
        The forest.
    """
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    lengths, ids = pad_right([sequences[i] for i in order], pad_id=-1)
    columns = torch.arange(ids.shape[1])
    real = columns < lengths[:, None]
    alike = (ids[1:] == ids[:-1]) & real[1:] & share
    shared = nn.functional.pad(alike.cumprod(1).sum(1), (1, 0))
    new = real & (columns >= shared[:, None])
    number = new.flatten().cumsum(0).view_as(new) - 1
    # a shared token is that of the last branch above, in its column
    index = torch.where(new, number, 0).cummax(0).values.where(real, 0)
    # a tree ends where the last sequence through its root ends
    last = index.max(1, keepdim=True).values.expand_as(index)[real] + 1
    ends = last.new_zeros(int(new.sum())).scatter_reduce(0, index[real], last, "amax")
    back = torch.tensor(order).argsort()
    return Forest(ids[new], columns.expand_as(new)[new], index[back], lengths[back], shared[back], ends)


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Write sequences as rows of a rectangle, padded on the right.

    Args:
        sequences: Token ids.
        pad_id: Id of the padding.

    Returns:
        ``(sequences,)`` lengths and ``(sequences, longest)`` ids.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    # numpy reads Python's integers several times faster than torch
    flat = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    longest = int(lengths.max())
    ids = torch.full((len(sequences), longest), pad_id)
    ids[torch.arange(longest) < lengths[:, None]] = torch.from_numpy(flat)
    return lengths, ids
