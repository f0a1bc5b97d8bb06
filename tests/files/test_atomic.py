"""Atomic writing: files and folders are complete or absent, and leftovers of killed processes are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.errors import OutputError
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


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with atomic.complete_or_absent(folder) as partial:
        (partial / "x").write_text("1")
        assert not folder.exists()
    with (
        pytest.raises(OutputError, match="the prepared data cannot be written: No space left"),
        atomic.complete_or_absent(folder, "the prepared data") as partial,
    ):
        (partial / "x").write_text("2")
        raise OSError(28, "No space left on device")
    assert (folder / "x").read_text() == "1" and [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_what_a_kill_between_the_two_renames_has_left_is_restored(tmp_path: Path) -> None:
    (tmp_path / ".data.old-00ff").mkdir()
    (tmp_path / ".data.old-00ff" / "x").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic.complete_or_absent(tmp_path / "data"):
        _ = 1 / 0
    assert (tmp_path / "data" / "x").read_text() == "1" and [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_file_is_replaced_and_its_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".run.json.partial-00ff").touch()
    atomic.write_text(tmp_path / "run.json", "\udcff")
    assert (tmp_path / "run.json").read_text() == "\\udcff"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
