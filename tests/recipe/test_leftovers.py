"""What a killed process leaves beside its place goes; what a process that runs writes there stays."""

import os
import subprocess

from rlhfcli.recipe import leftovers


def ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_what_the_dead_left_is_found(tmp_path):
    dead, place = ended(), tmp_path / "a[b].json"
    gone = [f".a[b].json.partial-{dead}", f".a[b].json.old-{dead}", f".a[b].json.partial-{10**20}"]
    kept = [f".a[b].json.partial-{os.getppid()}", f".a[b].json.mine-{dead}", ".a[b].json.partial-x", f".ab.old-{dead}"]
    for name in gone + kept:
        (tmp_path / name).touch()
    assert sorted(path.name for _, path in leftovers.left(place)) == sorted(gone)
    assert {kind for kind, _ in leftovers.left(place)} == {"partial", "old"}


def test_an_earlier_process_with_our_number_is_dead(tmp_path):
    place = tmp_path / "final"
    leftovers.beside(place).mkdir()  # a container gives every command the same number
    assert list(leftovers.left(place)) == [("partial", leftovers.beside(place))]
