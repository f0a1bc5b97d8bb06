"""The arrows between the rooms, held with ast; and the budget of lines."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlhfcli"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 320, 50

# room → rooms that it may import from, besides itself
BELOW_RECIPE = {"errors", "recipe", "progress", "words", "rlhfcli"}
MAY_IMPORT = {
    "rlhfcli": set(),
    "errors": set(),
    "progress": set(),
    "words": set(),
    "recipe": {"errors", "words", "rlhfcli"},
    "tiny": {"errors", "recipe", "data", "core", "progress", "rlhfcli"},  # its build script trains a model
    "data": BELOW_RECIPE | {"tiny"},
    "core": BELOW_RECIPE | {"data"},
    "evaluation": BELOW_RECIPE | {"data", "core"},
    "chat": BELOW_RECIPE | {"data", "core", "console"},
    "launch": BELOW_RECIPE | {"core"},
    "console": {"errors", "progress", "words"},
    "cli": BELOW_RECIPE | {"data", "core", "evaluation", "chat", "launch", "console", "tiny"},
    "__main__": {"cli", "console"},
}
# core/model finds the embedded model's folder; that module imports nothing of core
EXCEPTIONS = {("core/models/loading.py", "tiny")}
HEAVY = {"torch", "transformers", "datasets", "deepspeed", "peft"}


def room(file: Path) -> str:
    part = file.relative_to(PACKAGE).parts[0]
    return "rlhfcli" if part == "__init__.py" else part.removesuffix(".py")


def imports(file: Path, *, inside_functions: bool = True):
    """Names of imported modules with their lines; imports for type checking are exempt."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from walk(other)
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from from_import(child)
            else:
                yield from walk(child)

    def from_import(node):
        package = file.relative_to(ROOT).with_suffix("").parts[: -node.level or None] if node.level else ()
        module = ".".join([*package, *([node.module] if node.module else [])])
        if module == "rlhfcli" or not node.module:  # from rlhfcli import console
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield module, node.lineno

    yield from walk(ast.parse(file.read_text(encoding="utf-8")))


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_arrows_run_one_way(file):
    own = room(file)
    for module, line in imports(file):
        if not module.startswith("rlhfcli"):
            continue
        other = [*module.split("."), ""][1]
        other = "rlhfcli" if other in ("", "__version__") else other
        if other == own or (name(file), other) in EXCEPTIONS:
            continue
        assert other in MAY_IMPORT[own], f"{name(file)}:{line}: {own} must not import {module}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_heavy_libraries_stay_in_their_rooms(file):
    own = room(file)
    for module, line in imports(file):
        top, where = module.split(".")[0], f"{name(file)}:{line}"
        if top == "torch":
            assert own not in ("recipe", "data", "errors", "progress", "console"), f"{where}: {own} imports torch"
        if top == "deepspeed":
            assert name(file) in (
                "core/parallel/process_group.py",
                "core/engine/engine.py",
                "core/engine/engine_state.py",
            ), where
        if top in ("typer", "rich"):
            assert own in ("cli", "console", "chat"), f"{where}: {own} knows about terminals"
        assert top != "click", f"{where}: import typer"


@pytest.mark.parametrize("file", [f for f in FILES if room(f) in ("cli", "launch", "__main__", "console")], ids=name)
def test_the_command_line_loads_nothing_heavy_at_module_level(file):
    for module, line in imports(file, inside_functions=False):
        assert module.split(".")[0] not in HEAVY, f"{name(file)}:{line}: import {module} inside the function"
        assert not module.startswith(("rlhfcli.core", "rlhfcli.chat.")), f"{name(file)}:{line}: {module}"


def test_help_loads_no_torch():
    code = (
        "import sys\n"
        "from rlhfcli.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & {HEAVY | {'pydantic', 'yaml'}!r}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "prepare-data" in done.stdout
    assert done.stderr.strip().endswith("[]")


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_and_functions_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{name(file)}:{node.lineno}: {node.name} has {lines} lines"
