"""Loading, changing and writing recipes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.recipe import builtin
from rlhfcli.recipe.loader import dump, load_recipe
from rlhfcli.recipe.schema import LoraSection, Recipe

BASE = "output_dir: runs/x\nmodel: {name: builtin:tiny}\ndata: {sources: [{path: builtin:tiny}]}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text, *changes, file="r.yaml"):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    return load_recipe(file, changes).recipe


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


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029"])
def test_line_breaks_of_unicode_are_kept(text, tmp_path):
    recipe = load_recipe("tiny").recipe
    lora = LoraSection(targets=text)
    changed = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"lora": lora})})
    (tmp_path / "recipe.yaml").write_text(dump(changed), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").recipe.sft.lora == lora
