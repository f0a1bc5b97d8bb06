"""Finding, loading, changing and writing recipes."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.errors import RecipeError, UserError
from rlhfcli.files import strict_yaml
from rlhfcli.recipe import builtin
from rlhfcli.recipe.loader import dump, load_recipe
from rlhfcli.recipe.schema import LoraSection, Recipe
from rlhfcli.runs.opening import find_recipe, open_recipe

BASE = "output_dir: runs/x\nmodel: {name: builtin:tiny}\ndata: {sources: [{path: builtin:tiny}]}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text, *changes, file="r.yaml"):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    return load_recipe(file, changes).recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-5", 1e-5),
            ("1E5", 1e5),
            ("-.5", -0.5),
            ("4.", 4.0),
            (".inf", float("inf")),
            ("0", 0),
            ("+3", 3),
        ),
        *(
            ("012", 12),
            ("0o12", 10),
            ("0x1F", 31),
            ("1_000", "1_000"),
            ("1:30", "1:30"),
            ("2026-01-01", "2026-01-01"),
        ),
        *(
            ("no", "no"),
            ("yes", "yes"),
            ("on", "on"),
            ("off", "off"),
            ("true", True),
            ("False", False),
            ("y", "y"),
        ),
        *(
            ("null", None),
            ("~", None),
            ("", None),
            ('"3"', "3"),
            ("'true'", "true"),
            ("=", "="),
            ("<<", "<<"),
        ),
        *(("9" * 5000, "9" * 5000), ("1e", "1e"), ("e5", "e5"), ("builtin:tiny", "builtin:tiny")),
    ],
)
def test_plain_values_follow_yaml_1_2(text, value):
    found = strict_yaml.read(f"a: {text}\n", "f").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_lines_of_keys_and_of_list_entries():
    document = strict_yaml.read("a:\n  - b: 1\n\n    c: 2\n  - {d: 3}\n", "f")
    assert document.data == {"a": [{"b": 1, "c": 2}, {"d": 3}]}
    assert document.line(("a", 0, "c")) == 4
    assert document.line(("a", 1, "d")) == 5
    assert document.line(("a", 1, "missing")) == 5
    assert document.line(("nowhere",)) == 0


def test_an_alias_is_its_anchor():
    assert strict_yaml.read("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("name", builtin.names())
def test_built_in_recipes_load(name):
    loaded = load_recipe(name)
    assert loaded.recipe.output_dir == f"runs/{name}"
    assert builtin.summary(name).endswith(".")


def test_changes():
    recipe = load(
        BASE,
        *(
            "sft.learning_rate=1e-4",
            "sft.lora.rank=8",
            "data.sources.0.limit=5",
            "data.sources.1.path=a=b.jsonl",
        ),
        *("reward.lora={rank: 4}", "reward.lora=null", "reward.lora.alpha=3", "data.template=model"),
    )
    assert recipe.sft.learning_rate == 1e-4
    assert recipe.sft.lora and recipe.sft.lora.rank == 8
    assert [source.path for source in recipe.data.sources] == ["builtin:tiny", "a=b.jsonl"]
    assert recipe.data.sources[0].limit == 5
    assert recipe.reward.lora and (recipe.reward.lora.rank, recipe.reward.lora.alpha) == (16, 3)
    assert recipe.data.template == "model"


def test_data_lies_beside_the_recipe_or_in_the_working_directory(tmp_path):
    for file in ("there/my.jsonl", "here.jsonl", "there/both.jsonl", "both.jsonl", "there/t.jinja"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    text = BASE.replace(
        "sources: [{path: builtin:tiny}]",
        "template: t.jinja, sources: [{}]".replace(
            "{}",
            ", ".join(
                f"{{path: {path}}}" for path in ("my.jsonl", "here.jsonl", "both.jsonl", "no/where", "Dahoas/rm-static")
            ),
        ),
    )
    recipe = load(text, file="there/r.yaml")
    assert [source.path for source in recipe.data.sources] == [
        *(str(tmp_path / "there/my.jsonl"), str(tmp_path / "here.jsonl"), str(tmp_path / "there/both.jsonl")),
        *("no/where", "Dahoas/rm-static"),
    ]
    assert recipe.data.template == str(tmp_path / "there/t.jinja")
    sets = load(f"{text}\neval: {{pairs: {{easy: my.jsonl, hard: here.jsonl}}}}\n", file="there/r.yaml").eval
    assert sets.pair_sets == {"easy": str(tmp_path / "there/my.jsonl"), "hard": str(tmp_path / "here.jsonl")}
    assert recipe.output_dir == "runs/x"
    typed = load(text, "data.sources.2.path=both.jsonl", file="there/r.yaml")
    assert typed.data.sources[2].path == str(tmp_path / "both.jsonl")


def test_a_dumped_recipe_means_the_same_from_its_run():
    Path("data").mkdir()  # each run has a folder of that name, too
    recipe = load(BASE.replace("builtin:tiny}]", "data}]"))
    Path("runs/x/data").mkdir(parents=True)
    assert load(dump(recipe), file="runs/x/recipe.yaml") == recipe


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
numbers = st.floats(min_value=1e-30, max_value=1e30)
phases = st.fixed_dictionaries(
    {"learning_rate": numbers, "epochs": numbers},
    optional={
        "lora": st.none() | st.fixed_dictionaries({"rank": st.integers(1), "targets": names | st.lists(names)}),
        "max_steps": st.none() | st.integers(1),
        "betas": st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    },
)
recipes = st.builds(
    lambda path, seed, sft, reward, batches: Recipe.model_validate(
        {
            "output_dir": "runs/x",
            "seed": seed,
            "model": {"name": "builtin:tiny"},
            "data": {"sources": [{"path": f"x{path}", "format": path}]},
            "sft": sft,
            "reward": reward,
            "eval": {"batches": batches},
        }
    ),
    names | st.sampled_from(["no", "1e-5", "012", "0o7", "0x1f", "~", "null", "a: b", "- a", "#", "=", "1_0", "y"]),
    st.integers(0),
    phases,
    phases,
    st.just("all") | st.integers(1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipes)
def test_what_is_written_loads_again(recipe):
    text = dump(recipe)
    assert load(text) == recipe
    assert dump(load(text)) == text


def run(name, updated=None, age=0.0):
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(BASE)
    os.utime(folder / "recipe.yaml", (1e9 - age, 1e9 - age))
    if updated is not None:
        (folder / "run.json").write_text(json.dumps({"updated": updated}))
    return folder


def test_without_a_run_the_tiny_recipe_is_taken():
    assert find_recipe(None, Path("runs")) == ("tiny", "built in; no --recipe, and no run in runs/ yet")
    assert open_recipe(None).first_line == "recipe: tiny (built in; no --recipe, and no run in runs/ yet)"


def test_the_newest_run_is_taken():
    run("a", "2026-11-24T02:00:00+00:00")
    run("b", "2026-11-24T02:30:00.123+00:00")
    run("c", "2026-11-24T03:15:00+01:00")  # earlier than b
    Path("runs/no_recipe").mkdir()
    Path("runs/file").touch()
    loaded = open_recipe(None, ["seed=3"])
    assert loaded.first_line == "recipe: runs/b/recipe.yaml (the newest run in runs/), with seed=3"
    assert loaded.recipe.seed == 3


def test_a_run_that_was_renamed_is_still_that_run():
    run("a", "2026-11-24T02:00:00+00:00")
    Path("runs/a").rename("runs/b")
    assert open_recipe(None).recipe.output_dir == "runs/b"
    assert open_recipe("runs/b").recipe.output_dir == "runs/b"
    assert open_recipe("runs/b", ["output_dir=runs/c"]).recipe.output_dir == "runs/c"
    Path("mine.yaml").write_text(BASE)
    assert open_recipe("mine.yaml").recipe.output_dir == "runs/x"


TRUSTED = BASE.replace("builtin:tiny}\n", "builtin:tiny, trust_remote_code: true}\n", 1)


def test_a_run_folder_does_not_decide_whose_code_runs():
    run("a", "2025-11-24T02:00:00+00:00").joinpath("recipe.yaml").write_text(TRUSTED)
    Path("mine.yaml").write_text(TRUSTED)
    for option in (None, "runs/a", "runs/a/recipe.yaml"):
        loaded = open_recipe(option)
        assert not loaded.recipe.model.trust_remote_code
        assert "--set model.trust_remote_code=true" in loaded.notes[0]
        assert open_recipe(option, ["model.trust_remote_code=true"]).recipe.model.trust_remote_code
    assert open_recipe("mine.yaml").recipe.model.trust_remote_code and not open_recipe("mine.yaml").notes
    Path("runs/a/run.json").unlink()  # a stranger may leave it out
    for option in (None, "runs/a"):
        assert not open_recipe(option).recipe.model.trust_remote_code
    Path("runs/a/sft/final").mkdir(parents=True)
    assert not open_recipe("runs/a/recipe.yaml").recipe.model.trust_remote_code


def test_a_secret_that_was_not_written_down_is_asked_for():
    hidden = BASE.replace("path: builtin:tiny", 'path: "https://***@host/rows.jsonl"')
    run("a", "2025-11-24T02:00:00+00:00").joinpath("recipe.yaml").write_text(hidden)
    with pytest.raises(RecipeError) as caught:
        open_recipe(None)
    what = "*** stands where a secret was, which is not written down; give it again: --set data.sources.0.path=…"
    assert str(caught.value.problems[0]) == f"runs/a/recipe.yaml:3: data.sources.0.path: {what}"
    assert open_recipe(None, ["data.sources.0.path=builtin:tiny"]).recipe.data.sources[0].path == "builtin:tiny"


def test_a_broken_newest_run_says_how_to_take_another():
    (run("a") / "recipe.yaml").write_text("lr: 3")
    with pytest.raises(UserError) as caught:
        open_recipe(None)
    assert "--recipe takes another one" in str(caught.value.hint)


def test_a_verb_takes_the_newest_run_that_has_what_it_needs():
    (run("a", "2025-11-24T02:00:00+00:00") / "sft" / "final").mkdir(parents=True)
    run("b", "2025-11-24T02:30:00+00:00")
    why = "the newest run in runs/ with sft/final; runs/b is newer and has none"
    assert open_recipe(None, verb="chat").first_line == f"recipe: runs/a/recipe.yaml ({why})"
    assert open_recipe(None, verb="sft").first_line == "recipe: runs/b/recipe.yaml (the newest run in runs/)"


def test_a_recipe_by_path_run_or_name():
    run("a")
    Path("mine.yaml").write_text(BASE)
    Path("tiny").mkdir()  # a built-in name stays one
    assert find_recipe("mine.yaml") == (Path("mine.yaml"), "from --recipe")
    assert find_recipe("runs/a")[0] == Path("runs/a/recipe.yaml")
    assert find_recipe("tiny")[0] == "tiny"


@pytest.mark.parametrize("option", ["nothing.yaml", "small", "tiny", "\0"])
def test_no_such_recipe(option):
    Path("tiny").mkdir(exist_ok=True)
    if option == "tiny":
        option = "./tiny"
    with pytest.raises(UserError):
        find_recipe(option)


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029"])
def test_line_breaks_of_unicode_are_kept(text, tmp_path):
    recipe = load_recipe("tiny").recipe
    lora = LoraSection(targets=text)
    changed = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"lora": lora})})
    (tmp_path / "recipe.yaml").write_text(dump(changed), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").recipe.sft.lora == lora
