"""What the documentation says is true: commands parse, recipes load, Python runs, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from rlhfcli.cli import app
from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape
from rlhfcli.recipe import loader

ROOT = Path(__file__).parents[1]
README, DATA = ROOT / "README.md", ROOT / "docs" / "data.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
KEY = re.compile(r"(model|data|sft|reward|eval|chat|deepspeed|logging)(\.\w+)+")
MOST_LINES = 260
VERBS: Any = typer.main.get_command(app)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KEYS = set(generator().keys())


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every ``rlhf …`` of every page, in blocks and within sentences, as words."""
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
        lines += [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line[:2] == "$ "]
        lines += CODE.findall(prose(page))
        for line in lines:
            words = shlex.split(line, comments=True) if re.match(r"rlhf\s+\S", line) else []
            if words:
                yield f"{page.name}: {line}", words[1:]


COMMANDS = dict(command_lines())


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    name, words, command = "rlhf", COMMANDS[line], VERBS
    if words == ["--help"]:
        return
    while hasattr(command, "commands") and words:
        name, *words = words
        assert name in command.commands, f"there is no {name}"
        command = command.commands[name]
    complete = words or not any(p.required for p in command.params)  # `rlhf recipes show` as a name alone
    if complete and not hasattr(command, "commands"):
        command.make_context(name, list(words))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--set" in line])
def test_changed_keys_exist(line: str) -> None:
    words = COMMANDS[line]
    changes = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--set"]
    for change in changes:
        assert re.sub(r"\.\d+", ".0", change.partition("=")[0]) in KEYS


def test_the_readme_names_every_verb() -> None:
    text = README.read_text(encoding="utf-8")
    assert [verb for verb in VERBS.commands if f"| `rlhf {verb}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    code = "\n".join([*blocks(page, "bash"), *CODE.findall(prose(page))])
    assert set(re.findall(r"^(?:\w+=\S+ )*make ([\w-]+)", code, re.M)) <= targets


@pytest.mark.parametrize(
    ("page", "text"), [(page.name, text) for page in PAGES for text in blocks(page, "yaml")], ids=lambda part: part[:20]
)
def test_recipes_load(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    loader.load_recipe(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipe_keys_in_sentences_exist(page: Path) -> None:
    named = {match[0] for code in CODE.findall(prose(page)) if (match := KEY.match(code))}
    keys = {re.sub(r"\.\d+", ".0", key).removesuffix(".0") for key in named if not key.endswith(".py")}
    assert keys - KEYS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", found.read_text(encoding="utf-8")), re.M)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
            }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """Files of the package that a sentence names, such as ``core/losses.py``."""
    named = [code for code in CODE.findall(prose(page)) if re.fullmatch(r"(\w+/)+\w+\.py", code)]
    ours = [name for name in named if not name.startswith("step")]  # DeepSpeed-Chat's
    assert [name for name in ours if not ((ROOT / name).exists() or (ROOT / "rlhfcli" / name).exists())] == []


def test_the_transcript_has_the_words_of_the_program() -> None:
    (transcript,) = blocks(README, "console")
    labels = {label.strip() for label in re.findall(r"^ +(\S.*?)(?=   )", transcript, re.M)} - {"base"}
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "rlhfcli").rglob("*.py"))
    assert len(labels) > 6
    assert [label for label in labels if f'"{label}"' not in code and f'"  {label}"' not in code] == []


def example_rows() -> dict[str, str]:
    """The table of formats: name to example row."""
    return dict(re.findall(r"^\| `(\w+)` \| `(\{.+\})` \|$", DATA.read_text(encoding="utf-8"), re.M))


def test_every_format_has_an_example_row() -> None:
    assert set(example_rows()) == {shape.name for shape in SHAPES}


@pytest.mark.parametrize("name", example_rows())
def test_example_rows_are_read_as_the_table_says(name: str) -> None:
    row = json.loads(example_rows()[name])
    shape = detect_shape([row], SHAPES, "data.md")
    assert shape.name == name
    if shape.join is None:  # else a row alone is no example
        convert(row, shape, Origin("data.md", "row 1"))


def test_the_readme_shows_some_of_them() -> None:
    shown = re.findall(r"^\| `(\w+)` \| `(\{.+\})` \|$", README.read_text(encoding="utf-8"), re.M)
    assert len(shown) == 3
    assert all(detect_shape([json.loads(row)], SHAPES, "README.md").name == name for name, row in shown)
    assert "all shapes" in README.read_text(encoding="utf-8")


def test_the_page_of_keys_is_what_the_schema_says() -> None:
    made = generator()
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "python docs/generate.py"
    assert made.DATA_PAGE.read_text(encoding="utf-8") == made.data_page(), "python docs/generate.py"


def test_every_key_is_on_its_page() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert [key for key in KEYS if f"| `{key.rpartition('.')[2]}` |" not in text] == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_figure_was_measured(page: Path) -> None:
    assert re.findall(r"@MEASURE:\w+@", page.read_text(encoding="utf-8")) == []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/tiny: untrained models, saved as the phases of that recipe save them."""
    from rlhfcli.core.models import loading as language
    from rlhfcli.core.models import lora, reward_model, tokenizers
    from rlhfcli.core.publish import saving
    from rlhfcli.recipe.schema import ModelSection

    place = tmp_path_factory.mktemp("readme")
    recipe = loader.load_recipe("tiny").recipe
    base, sft = language.resolve(recipe.model.name), place / "runs" / "tiny" / "sft" / "final"
    tokenizer = tokenizers.load_tokenizer(base, recipe.data.template)
    policy = language.load_causal_lm(base)
    judge = reward_model.reward_model_to_train(ModelSection(name=base, dtype="fp32"), base).model
    for saved, folder, settings, names in (
        (policy, sft, recipe.sft.lora, (base, "CAUSAL_LM")),
        (judge, sft.parents[1] / "reward" / "final", recipe.reward.lora, (str(sft), "SEQ_CLS")),
    ):
        adapter = saving.Adapter(settings, *names) if settings else None
        if settings:
            lora.inject(saved, settings)
        saving.save_model(saved, tokenizer, folder, adapter, "")
    return place


@pytest.mark.parametrize(
    "code", [code for page in PAGES for code in blocks(page, "python")], ids=lambda code: code.splitlines()[0][:60]
)
def test_python_runs(code: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    exec(compile(code, "a page", "exec"), {"__name__": "readme"})
