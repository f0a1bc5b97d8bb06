"""Hashes of files; how a changed model folder is refused is tested in ``tests/core/publish/test_saving.py``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rlhfcli.files import checksums
from rlhfcli.files.run_layout import SUMS


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("content", [b"", b"abc", b"0123456789" * 10])
def test_a_hash_is_that_of_the_library(
    tmp_path: Path, content: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_BLOCK", 7)  # several blocks
    (tmp_path / "x").write_bytes(content)
    expected = hashlib.blake2b(content, digest_size=size).hexdigest()
    assert checksums.file_hash(tmp_path / "x", size) == expected
    assert checksums.text_hash(content.decode(), size) == expected


def test_the_format_is_that_of_b2sum(tmp_path: Path) -> None:
    """``printf abc | b2sum``."""
    (tmp_path / "x").write_text("abc")
    (tmp_path / "README.md").write_text("people edit this")
    checksums.write(tmp_path)
    abc = (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )
    assert (tmp_path / SUMS).read_text() == f"{abc}  x\n"
