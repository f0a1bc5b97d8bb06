"""What the wheel holds is written down in pyproject.toml; this keeps the list complete."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[\n(.*?)^\]", text, re.S | re.M)
    assert listed
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "rlhfcli").rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"rlhfcli.recipes"}
    assert set(re.findall(r'"(.+?)"', listed[1])) == expected
