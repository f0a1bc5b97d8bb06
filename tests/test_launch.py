"""What is set before torch is imported."""

from __future__ import annotations

import os

import pytest

from rlhfcli import launch

NAMES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "GOMP_SPINCOUNT", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_caches_of_kernels_and_spinning_threads_are_bounded() -> None:
    launch.in_this_process()
    assert [os.environ.get(name) for name in NAMES] == ["64", "64", "2000", None, None]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    launch.in_this_process(offline=True)
    assert [os.environ.get(name) for name in NAMES] == ["7", "64", None, "1", "ACTIVE"]
