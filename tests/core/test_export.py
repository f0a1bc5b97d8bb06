"""A folder is complete or it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from rlhfcli.core.export import complete_or_absent
from rlhfcli.errors import OutputError


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OutputError, match="No space left"), complete_or_absent(folder) as partial:
        (partial / "new").touch()
        raise error
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["final", "final/old"]
