"""What the wheel holds is written down in pyproject.toml; this keeps the list complete."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[\n(.*?)^\]", text, re.S | re.M)
    assert listed
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "rlhfcli").rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"rlhfcli.recipes"}
    assert set(re.findall(r'"(.+?)"', listed[1])) == expected


# where a module is not called as its distribution
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "huggingface_hub": "huggingface-hub",
}


def test_every_library_that_is_imported_is_declared():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {name.lower() for name in re.findall(r'^\s*"?(?:\w+ = \[)?"([A-Za-z0-9-]+)[>=<]', text, re.M)}
    assert {"torch", "wandb"} <= declared
    for file in (ROOT / "rlhfcli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in (each.split(".")[0] for each in modules):
                known = module in sys.stdlib_module_names or module == "rlhfcli"
                assert known or DISTRIBUTIONS.get(module, module) in declared, f"{file}:{node.lineno}: {module}"
