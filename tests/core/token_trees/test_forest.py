"""Merging sequences: every prefix occurs once in the row, and every token is indexed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfcli.core.token_trees.attention_plan import make_plan
from rlhfcli.core.token_trees.forest import Forest, build_forest
from tests.core import families

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=20)


def _paths(forest: Forest) -> list[list[int]]:
    return [cells[:n].tolist() for cells, n in zip(forest.index, forest.lengths.tolist(), strict=True)]


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
def test_each_distinct_prefix_occurs_once_and_every_token_is_indexed(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    beginnings = {tuple(ids[: t + 1]) for ids in sequences for t in range(len(ids))}
    assert len(forest.ids) == len(beginnings) == int((forest.lengths - forest.shared).sum())
    for ids, cells in zip(sequences, _paths(forest), strict=True):
        assert forest.ids[cells].tolist() == ids
        assert forest.positions[cells].tolist() == list(range(len(ids)))
    assert {cell for cells in _paths(forest) for cell in cells} == set(range(len(beginnings)))


@settings(max_examples=100, deadline=None)
@given(SEQUENCES)
def test_two_sequences_share_tokens_exactly_as_far_as_they_agree(sequences: list[list[int]]) -> None:
    paths = _paths(build_forest(sequences))
    for a, left in zip(sequences, paths, strict=True):
        for b, right in zip(sequences, paths, strict=True):
            for t, (i, j) in enumerate(zip(left, right, strict=False)):
                assert (i == j) == (a[: t + 1] == b[: t + 1])


@settings(max_examples=100, deadline=None)
@given(SEQUENCES)
def test_without_sharing_the_sequences_stand_side_by_side(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences, share=False)
    cells = [cell for path in _paths(forest) for cell in path]
    assert sorted(cells) == list(range(sum(map(len, sequences))))
    assert not forest.shared.any()


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
def test_in_the_plan_every_token_asks_once_and_sees_its_path(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    plan = make_plan(forest)
    asked, seen = [], []
    for group in plan.groups:
        asked += group.queries.flatten().tolist()
        for keys, sees in zip(group.keys, group.sees(None).expand(len(group.keys), -1, -1, -1), strict=True):
            seen += [keys[row].tolist() for row in sees[0]]
    assert [asked[cell] for cell in plan.cells.tolist()] == list(range(len(forest.ids)))
    paths = {path[-1]: path for whole in _paths(forest) for path in (whole[: t + 1] for t in range(len(whole)))}
    assert all(seen[cell] == paths[token] for token, cell in enumerate(plan.cells.tolist()))


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.booleans())
def test_the_ends_describe_which_tokens_a_token_sees(sequences: list[list[int]], share: bool) -> None:
    forest = build_forest(sequences, share=share)
    paths = {path[t]: path[: t + 1] for path in _paths(forest) for t in range(len(path))}
    for query in range(len(forest.ids)):
        seen = [key for key in range(query + 1) if query < forest.ends[key]]
        assert seen == paths[query]
        assert forest.positions[seen].tolist() == list(range(len(seen)))  # so positions give the distance for a window


def test_the_row_of_the_introduction() -> None:
    the, cat, sat, dot, ran, away, mark, who, what = range(9)
    sequences = [[the, cat, sat, dot], [the, cat, ran, away, mark], [who, what]]
    forest = build_forest(sequences)
    assert forest.ids.tolist() == [the, cat, sat, dot, ran, away, mark, who, what]
    assert forest.positions.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1]
    assert _paths(forest)[1] == [0, 1, 4, 5, 6]
    assert forest.shared.tolist() == [0, 2, 0]
    assert forest.ends.tolist() == [7, 7, 4, 4, 7, 7, 7, 9, 9]


def test_the_plan_of_the_introduction() -> None:
    the, cat, sat, dot, mark, who, ran, what = range(8)
    plan = make_plan(build_forest([[the, cat, sat, dot], [the, cat, sat, mark], [who, ran, what]]))
    roots, branch = plan.groups
    assert roots.from_root and roots.queries.tolist() == roots.keys.tolist() == [[0, 1, 2, 3], [5, 6, 7, 0]]
    assert roots.positions.tolist() == [[0, 1, 2, 3]]
    assert not branch.from_root and branch.queries.tolist() == [[4]] and branch.keys.tolist() == [[0, 1, 2, 4]]
    assert branch.positions.tolist() == [[3]] and (roots.visible_keys, branch.visible_keys) == ((4,), (4,))
    assert plan.cells.tolist() == [0, 1, 2, 3, 8, 4, 5, 6]


def test_a_branch_that_shares_little_asks_with_its_whole_path() -> None:
    """And so needs no mask; each token still takes one answer, that of the branch it belongs to."""
    start, *rest = families.token_ids([5, 20, 19, 18])
    forest = build_forest([start + ids for ids in rest])
    (group,) = make_plan(forest).groups
    assert group.from_root and group.keys.shape == (3, 25) and group.queries.shape == (3, 25)
    assert len(forest.ids) == 5 + 20 + 19 + 18


def test_a_branch_asks_with_its_own_tokens_only() -> None:
    prompt, *answers = families.token_ids([30, 4, 5, 6, 7])
    plan = make_plan(build_forest([prompt + answer for answer in answers]))
    root, branches = plan.groups
    assert root.from_root and not branches.from_root
    assert max(root.queries.shape[1], root.keys.shape[1]) <= 37 and len(root.keys) == 1
    assert branches.queries.shape[0] == 3 and branches.queries.shape[1] <= 7 and branches.keys.shape[1] > 30
