"""Random recipes: one clear error that names the file, or a recipe with the given values."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.errors import RecipeError
from rlhfcli.recipe import builtin
from rlhfcli.recipe.loader import dump, load_recipe

TEXTS = [text for name in builtin.names() if (text := builtin.text(name)) is not None]
SNIPPETS = [
    "", "\t", "\0", "\ufeff", "\u2028", "\x85", "'", '"', "&a ", "*a", "<<: *a", "!!python/object:os.system x", "!x ",
    "- ", "? ", ": ", "{", "}", "[", "[" * 2000, "]", "|", ">", "%YAML 1.2", "---", "...", "# ", "null", "~", ".nan",
    "-.inf", "9" * 5000, "1e999", "1e-5", "0x", "012", "no", "日本", "\U0001f600", "sft:", "seed: 1", "seed: -1",
    "model: {}", "  ",
]  # fmt: skip
BREAKS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "change", "double", "drop"]), st.floats(0, 1), st.sampled_from(SNIPPETS)
    ),
    min_size=1,
    max_size=3,
)


def broken(text: str, breaks: list[tuple[str, float, str]]) -> str:
    for how, where, snippet in breaks:
        at, lines = int(where * len(text)), text.split("\n")
        line = min(int(where * len(lines)), len(lines) - 1)
        if how == "cut":
            text = text[:at]
        elif how in ("insert", "change"):
            text = text[:at] + snippet + text[at + (how == "change") * max(1, len(snippet)) :]
        else:
            text = "\n".join(lines[:line] + lines[line : line + 1] * (2 if how == "double" else 0) + lines[line + 1 :])
    return text


def look(folder: Path, text: str) -> None:
    file = folder / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe = load_recipe(str(file)).recipe
    except RecipeError as error:
        assert error.problems
        assert str(file) in str(error) or file.name in str(error)
        return
    again = folder / "again.yaml"
    again.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(str(again)).recipe == recipe  # nothing is lost on the way to the run's folder


def hunt(times: int) -> None:
    often = settings(
        max_examples=150 * times,
        deadline=None,
        database=None,
        derandomize=times == 1,
        suppress_health_check=[HealthCheck.too_slow],
    )

    def one(text: str, breaks: list[tuple[str, float, str]]) -> None:
        with TemporaryDirectory() as folder:
            look(Path(folder), broken(text, breaks))

    often(given(st.sampled_from(TEXTS), BREAKS)(one))()


def test_broken_recipes() -> None:
    hunt(1)


@pytest.mark.slow
def test_many_broken_recipes() -> None:
    hunt(15)
