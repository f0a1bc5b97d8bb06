"""What the documentation says of the code is there: names in files, the article's sections, the floors of the rooms."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, HOW, DESIGN = ROOT / "README.md", ROOT / "docs" / "how-it-works.md", ROOT / "docs" / "design.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = r"\[[^\]]*\]\(([^)#\s]+\.py)\)"
NAME = r"`([A-Za-z_][\w.]*)`"
BEHIND = re.compile(rf"{LINK}:?((?:,?\s+(?:and\s+)?{NAME})+)")  # [file](path) `one`, `two` and `three`
BEFORE = re.compile(rf"{NAME} in {LINK}")
WITHIN = re.compile(r"`((?:\w+/)*\w+\.py): ([\w.]+(?:, [\w.]+)*)`")
# what the excerpts of output on the page say, as the code spells it
SHOWN = (
    "words of the template", "where the answers part", " parameters, ", " trained (", "bf16 computation, fp32 weights",
    " examples → ", " steps of ", "in at most ", " tokens in all", "token trees", "LoRA on ",
    "of the weights in matrices", "the reward comes from ", "loss: the nll ", "standard deviations ",
    "nll: -log sigmoid(chosen - rejected) alone; guessing costs 0.6931",
)  # fmt: skip
# the sections of the article that the project follows, with a word of each one's subject
ARTICLE = {
    "1.1": "data sample", "1.2": "training process", "1.3.1": "base model", "1.3.2": "lora", "1.3.3": "perplexity",
    "1.4": "before and after", "1.5.1": "several turns", "1.5.2": "over-fitting", "2.1": "data sample",
    "2.2": "training process", "2.3.1": "structure of the reward model", "2.3.2": "in one batch",
    "2.3.3": "pairwise loss", "2.3.4": "ranking accuracy", "2.4": "good and a bad answer", "2.5.1": "reward",
}  # fmt: skip


@cache
def names_in(file: Path) -> frozenset[str]:
    """Functions, classes, methods, fields and constants of a file; what is in a class with its name before it."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], owner: str = "") -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(owner + node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{owner}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(owner + target.id for target in targets if isinstance(target, ast.Name))

    walk(ast.parse(file.read_text(encoding="utf-8")).body)
    return frozenset(found)


def named(page: Path) -> list[tuple[Path, str]]:
    """Every name that a page says is in a file."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in BEHIND.finditer(text):
        found += [((page.parent / match[1]).resolve(), name) for name in re.findall(NAME, match[2])]
    found += [((page.parent / file).resolve(), name) for name, file in BEFORE.findall(text)]
    for file, names in WITHIN.findall(text):
        found += [(ROOT / "rlhfcli" / file, name) for name in names.split(", ")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_are_in_their_files(page: Path) -> None:
    missing = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, name in named(page)
        if not file.is_file() or name not in names_in(file)
    ]
    assert missing == []


def test_there_are_names_to_check() -> None:
    assert len(named(HOW)) > 60
    assert len(named(DESIGN)) > 10


def test_the_walk_has_the_sections_of_the_article() -> None:
    headings = dict(re.findall(r"^#{2,4} (\d(?:\.\d)+) (.+)$", HOW.read_text(encoding="utf-8"), re.M))
    assert [number for number in headings if number in ARTICLE] == list(ARTICLE)
    assert [number for number, subject in ARTICLE.items() if subject not in headings[number].lower()] == []


def test_the_readme_has_a_row_for_each_section_of_the_article() -> None:
    rows = re.findall(r"^\| \[(\d(?:\.\d)+)\]", README.read_text(encoding="utf-8"), re.M)
    assert rows == list(ARTICLE)


def code() -> str:
    return "".join(file.read_text(encoding="utf-8") for file in (ROOT / "rlhfcli").rglob("*.py"))


def test_the_excerpts_have_the_words_of_the_program() -> None:
    page, program = HOW.read_text(encoding="utf-8"), code()
    assert [words for words in SHOWN if words not in page or words not in program] == []
    tables = re.findall(r"^\$ rlhf eval\n(.*?)^```$", page, re.M | re.S)
    labels = {label.strip() for label in re.findall(r"^ +(\S.*?)(?=   )", "".join(tables), re.M)} - {"base"}
    assert len(labels) > 10
    assert [label for label in labels if f'"{label}"' not in program and f'"  {label}"' not in program] == []


def contracts() -> dict[str, list[str]]:
    """The layers of each contract, from the top down."""
    pattern = r'^name = "(.+)"\ntype = "layers"\ncontainers = .+\nlayers = (\[[^\]]*\])'
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {name: ast.literal_eval(layers) for name, layers in re.findall(pattern, text, re.M)}


@pytest.mark.parametrize("name", contracts())
def test_the_floors_are_those_of_the_contract(name: str) -> None:
    """A block of text in design.md has a line for each layer: ``room · room   what is there``."""
    wanted = [set(layer.split(" : ")) for layer in contracts()[name]]
    blocks = re.findall(r"^```text\n(.*?)^```$", DESIGN.read_text(encoding="utf-8"), re.M | re.S)
    floors = [[set(re.split(r"\s{2,}", line)[0].split(" · ")) for line in block.splitlines()] for block in blocks]
    assert wanted in floors


def test_there_are_floors_to_check() -> None:
    assert len(contracts()) >= 5
