"""What commands that were killed left beside a place is found; everything else there is left alone."""

from __future__ import annotations

from pathlib import Path

from rlhfcli.files import atomic


def test_only_what_has_the_form_of_a_leftover_is_found(tmp_path: Path) -> None:
    place = tmp_path / "a[b].json"
    gone = [".a[b].json.partial-4711", ".a[b].json.old-00ff", atomic.temporary(place).name]
    kept = [".a[b].json.mine-12", ".a[b].json.partial-x", "ab.old-12", "a[b].json", ".a[b].json.lock"]
    for name in gone + kept:
        (tmp_path / name).touch()
    assert sorted(path.name for _, path in atomic.leftovers(place)) == sorted(gone)
    assert {kind for kind, _ in atomic.leftovers(place)} == {"partial", "old"}
    assert all(map(atomic.is_leftover, gone)) and not any(map(atomic.is_leftover, kept))


def test_two_processes_never_write_to_one_place(tmp_path: Path) -> None:
    """Not even where both have the same number, as in two containers."""
    assert atomic.temporary(tmp_path / "x").name.startswith(".x.partial-")
    assert len(atomic.temporary(tmp_path / "x").name) == len(".x.partial-") + 8
