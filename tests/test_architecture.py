"""The house rules: who may import whom (import-linter), how large things may be, and what docstrings say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlhfcli"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(file.parent for file in PACKAGE.rglob("__init__.py"))
MAX_ROOM, MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 10, 300, 40, 6
LIGHT = {"rlhfcli.core.parallel.own_rank"}  # reads the environment, and loads no torch
HEAVY = {"torch", "transformers", "datasets", "deepspeed", "peft"}
# every parameter of a verb is one of its options
VERBS = {PACKAGE / "cli" / "verbs", PACKAGE / "cli" / "inspect"}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, *, inside_functions: bool = True) -> Iterator[tuple[str, int]]:
    """Names of imported modules with their lines; imports for type checking are exempt."""

    def walk(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from from_import(child)
            else:
                yield from walk(child)

    def from_import(node: ast.ImportFrom) -> Iterator[tuple[str, int]]:
        package = file.relative_to(ROOT).with_suffix("").parts[: -node.level or None] if node.level else ()
        base = ".".join([*package, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield (inner if inner in MODULES else base), node.lineno

    yield from walk(ast.parse(file.read_text(encoding="utf-8")))


MODULES = {module(file): file for file in FILES}


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names += [each.arg for each in (node.args.vararg, node.args.kwarg) if each]
    return [each for each in names if each not in ("self", "cls") and not each.startswith("_")]


def public(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods that others may call: not those inside functions, nor of private classes."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from walk(node.body)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield node

    yield from walk(ast.parse(file.read_text(encoding="utf-8")).body)


def test_imports_keep_the_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("room", ROOMS, ids=name)
def test_a_room_is_small_and_says_what_lives_in_it(room: Path) -> None:
    files = [file for file in room.glob("*.py") if file.name not in ("__init__.py", "__main__.py")]
    assert len(files) <= MAX_ROOM
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))


def face(room: Path) -> set[str] | None:
    """The files of a room that others may import; ``None`` where its ``__all__`` names other things."""
    for node in ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
            return names if all((room / f"{each}.py").is_file() for each in names) else None
    return None


@pytest.mark.parametrize("file", FILES, ids=name)
def test_other_rooms_are_entered_by_their_face(file: Path) -> None:
    for imported, line in imports(file):
        other = MODULES.get(imported)
        if other is None or other.name == "__init__.py" or other.parent in (file.parent, PACKAGE):
            continue
        names = face(other.parent)
        assert names is None or other.stem in names, f"{name(file)}:{line}: {imported} is private to its room"


@pytest.mark.parametrize("room", [room for room in ROOMS if face(room)], ids=name)
def test_a_face_names_only_what_others_use(room: Path) -> None:
    used = {
        found.stem
        for file in FILES
        if file.parent != room
        for imported, _ in imports(file)
        if (found := MODULES.get(imported)) and found.parent == room
    }
    assert face(room) == used


LAZY = ("api", "cli", "launch", "console", "__main__.py")


@pytest.mark.parametrize("file", [file for file in FILES if name(file).split("/")[0] in LAZY], ids=name)
def test_the_command_line_loads_nothing_heavy_at_module_level(file: Path) -> None:
    for imported, line in imports(file, inside_functions=False):
        assert imported.split(".")[0] not in HEAVY, f"{name(file)}:{line}: import {imported} inside the function"
        heavy = imported.startswith(("rlhfcli.core", "rlhfcli.chat.")) and imported not in LIGHT
        assert not heavy, f"{name(file)}:{line}: {imported}"


def test_help_loads_no_torch() -> None:
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
def test_files_and_functions_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    for node in functions(file):
        lines = (node.end_lineno or 0) - node.lineno + 1
        assert lines <= MAX_FUNCTION, f"{name(file)}:{node.lineno}: {node.name} has {lines} lines"
        if file.parent not in VERBS:
            count = len(parameters(node))
            assert count <= MAX_PARAMETERS, f"{name(file)}:{node.lineno}: {node.name} has {count} parameters"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_public_functions_describe_their_parameters(file: Path) -> None:
    for node in public(file):
        text = ast.get_docstring(node) or ""
        assert text, f"{name(file)}:{node.lineno}: {node.name} has no docstring"
        if file.parent not in VERBS and parameters(node):  # the options of a verb have their help
            assert "Args:\n" in text, f"{name(file)}:{node.lineno}: {node.name} has no Args"
