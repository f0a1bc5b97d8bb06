"""Projects from Python: each method on a small run, what it returns, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from rlhfcli import ChatSession, Project, RewardModel
from rlhfcli.api.options import ExportOptions
from rlhfcli.errors import DataError, Interrupted, ModelError, OutputError, RecipeError, UserError
from rlhfcli.recipe.loader import load_recipe

SMALL: dict[str, Any] = {
    "data.sources": [
        {"path": "builtin:tiny/dialogues", "limit": 120, "phase": "sft"},
        {"path": "builtin:tiny/pairs", "limit": 120, "phase": "reward"},
    ],
    "data.validation": 0.1,
    "sft.max_steps": 3,
    "sft.batch_size": 8,
    "sft.lora": {"rank": 4},
    "reward.max_steps": 3,
    "reward.batch_size": 8,
    "reward.lora": {"rank": 4},
    "eval.every": 2,
    "eval.prompts": None,
    "eval.pairs": None,
    "chat.max_new_tokens": 8,
    "model.dtype": "fp32",
}


def small(folder: Path, **options: Any) -> Project:
    return Project("tiny", SMALL | {"output_dir": str(folder)}, **options)


class Notes:
    """A sink that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun: list[str] = []

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        self.begun.append(title)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        pass

    def end(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose phases are both trained."""
    project = small(tmp_path_factory.mktemp("api") / "run")
    result = project.run()
    assert result.sft.trained and result.reward.trained and result.evaluation is not None
    return project


def test_the_data(tmp_path: Path) -> None:
    project = small(tmp_path / "run")
    data = project.prepare()
    assert data.folder == project.folder / "data"
    assert data.manifest["tokens"]["sft_train"]["rows"] == len(data.store.dialogues("train"))
    assert data.manifest["overlap"] is not None
    assert data.load_tokenizer().chat_template
    assert project.prepare().manifest == data.manifest  # from what is there
    assert json.loads((project.folder / "run.json").read_text())["commands"] == ["Project('tiny').prepare()"]


def test_both_phases(trained: Project) -> None:
    result = trained.sft(resume=True)
    assert not result.trained
    assert result.folder == trained.folder / "sft" / "final"
    assert result.steps == 3 and result.tokens > 0 and result.seconds > 0
    assert result.history[0]["step"] == 0
    assert result.validation["eval_loss"] < result.history[0]["eval_loss"]
    scored = trained.reward(resume=True)
    assert len(repr(result)) < 500  # a notebook shows it
    assert not scored.trained and 0 <= scored.validation["eval_accuracy"] <= 1


def test_a_finished_run_is_left_as_it_is(trained: Project) -> None:
    sink = Notes()
    result = Project(trained.folder, progress=sink).run()
    assert not result.sft.trained and not result.reward.trained
    assert any("sft: already done" in line for line in sink.lines)


def test_the_evaluation(trained: Project) -> None:
    evaluation = trained.evaluate()
    assert evaluation.sft is not None and evaluation.reward is not None
    assert evaluation.sft["perplexity"] < evaluation.sft["base_perplexity"]
    assert evaluation.reward["verdict"] in ("alive", "unclear", "dead")
    assert json.loads((evaluation.folder / "sft.json").read_text()) == evaluation.by_phase()["sft"]


def test_an_export(trained: Project, tmp_path: Path) -> None:
    done = trained.export("reward", tmp_path / "exported")
    assert (done.folder / "model.safetensors").is_file()
    assert done.report is not None and done.report.agrees
    with pytest.raises(OutputError, match="this folder exists"):
        trained.export("reward", tmp_path / "exported")
    assert trained.export("sft", str(tmp_path / "adapter"), "adapter").folder == tmp_path / "adapter"
    with pytest.raises(UserError, match="a phase is sft or reward, not ppo"):
        trained.export("ppo", tmp_path / "none")  # type: ignore[arg-type]


def test_a_conversation(trained: Project) -> None:
    chat = trained.chat()
    assert isinstance(chat, ChatSession)
    reply = "".join(chat.reply("What does a dog say?"))
    assert chat.turns[-1].content == reply
    assert isinstance(chat.score(), float)
    assert trained.chat(reward="none").reward is None


def test_rewards(trained: Project) -> None:
    model = RewardModel.load(trained.folder / "reward" / "final")
    question = {"role": "user", "content": "What does a dog say?"}
    dialogues = [[question, {"role": "assistant", "content": text}] for text in ("A dog says woof.", "Go away.")]
    both = model.score(dialogues)
    assert both == pytest.approx([model.score([each])[0] for each in dialogues], abs=1e-5)
    assert model.score([]) == []
    for dialogue, reason in (
        ([question], "its last message is not the assistant's"),
        ([{"role": "user"}], "is null, not text"),
        ([], "messages .*empty|messages has no|no messages|messages"),
    ):
        with pytest.raises(DataError, match=reason) as caught:
            model.score([dialogues[0], dialogue])
        assert caught.value.where == "dialogue 2"


def test_the_reward_in_a_chat_is_that_of_the_model(trained: Project) -> None:
    chat = trained.chat()
    list(chat.reply("Hello!"))
    messages = [{"role": turn.role, "content": turn.content} for turn in chat.turns]
    assert RewardModel.load(trained.folder / "reward" / "final").score([messages]) == [pytest.approx(chat.score())]


def test_speed_and_memory(trained: Project) -> None:
    (speed,) = trained.bench(["sft"], steps=1)
    assert speed["phase"] == "sft" and speed["tokens_per_second"] > 0
    memory = trained.estimate_memory("reward", ranks=2)
    assert memory["ranks"] == memory["ranks_here"] == 2 and memory["prepared"]


def test_silence(tmp_path: Path) -> None:
    code = (
        "from rlhfcli import Project\n"
        f"project = Project('tiny', {SMALL | {'output_dir': str(tmp_path / 'run')}!r})\n"
        "project.run()\n"
        "list(project.chat().reply('Hello!'))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_progress_in_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path / "run", progress="notebook").sft()
    shown = capsys.readouterr()
    lines = [line.rpartition("\r")[2].rstrip() for line in shown.out.strip().split("\n")]
    assert shown.err == ""
    assert any(line.startswith("sft: 3 of 3 steps in ") for line in lines)
    assert lines[-1].startswith("sft: 3 steps in ") and lines[-1].endswith("sft/final")


def test_progress_of_ones_own(tmp_path: Path) -> None:
    sink = Notes()
    small(tmp_path / "run", progress=sink).sft()
    assert "sft" in sink.begun
    with pytest.raises(UserError, match="progress is silent, terminal, notebook or a Sink, not loud"):
        small(tmp_path / "run", progress="loud")


def test_overrides(tmp_path: Path) -> None:
    texts = Project("tiny", ["sft.learning_rate=1e-5", f"output_dir={tmp_path}"]).recipe
    keys = Project("tiny", {"sft.learning_rate": 1e-5, "output_dir": tmp_path}).recipe
    assert texts == keys and keys.sft.learning_rate == 1e-5
    assert Project("tiny", "sft.learning_rate=1e-5").recipe.sft.learning_rate == 1e-5
    section = Project("tiny", {"sft.lora": {"rank": 3, "alpha": 6}, "eval.prompts": None, "model.name": "a: b"}).recipe
    assert section.sft.lora is not None and (section.sft.lora.rank, section.eval.prompts) == (3, None)
    assert section.model.name == "a: b"
    assert repr(Project("tiny", {"output_dir": "x"})) == "Project('tiny', folder='x')"


BROKEN: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an unknown key": (lambda: Project("tiny", {"sft.learning_rat": 1}), RecipeError, "learning_rate"),
    "a wrong value": (lambda: Project("tiny", {"sft.epochs": -1}), RecipeError, "sft.epochs"),
    "no such recipe": (lambda: Project("none.yaml"), UserError, "there is no such recipe file"),
    "not a value": (lambda: Project("tiny", {"sft.epochs": object()}), UserError, "has no form in YAML"),
    "too late": (lambda: Project(load_recipe("tiny"), ["seed=1"]), UserError, "loaded already"),
    "no recipe": (lambda: Project({"seed": 1}), UserError, "a recipe is a file, a run folder"),  # type: ignore[arg-type]
    "no change": (lambda: Project("tiny", [3]), RecipeError, "write it as key=value"),  # type: ignore[list-item]
    "no progress": (lambda: Project("tiny", progress=None), UserError, "progress is silent"),  # type: ignore[arg-type]
    "no time": (lambda: Project("tiny").sft(max_time="3h"), UserError, "number of seconds"),  # type: ignore[arg-type]
    "no phase": (lambda: Project("tiny").bench("both"), UserError, "a phase is sft or reward"),  # type: ignore[arg-type]
    "no phase to estimate": (lambda: Project("tiny").estimate_memory("rm"), UserError, "sft or reward"),  # type: ignore[arg-type]
    "no rank": (lambda: Project("tiny").estimate_memory("sft", ranks=0), UserError, "ranks must be at least 1"),
    "no step": (lambda: Project("tiny").bench("sft", steps=0), UserError, "steps must be at least 1"),
    "no form": (lambda: Project("tiny").export("sft", "to", "whole"), UserError, "merged, adapter"),  # type: ignore[arg-type]
    "no size": (lambda: ExportOptions(shard_size="big"), UserError, "this is not a size"),
    "no folder": (lambda: RewardModel.load(None), TypeError, "NoneType"),  # type: ignore[arg-type]
    "both": (lambda: Project("tiny").sft(resume=True, overwrite=True), UserError, "exclude each other"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_raised(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, text = BROKEN[name]
    with pytest.raises(kind, match=text):
        call()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_there_before_training(tmp_path: Path) -> None:
    project = small(tmp_path / "run")
    for method in (project.evaluate, project.chat, project.reward, lambda: project.export("sft", tmp_path / "to")):
        with pytest.raises(ModelError):
            method()
    assert not (tmp_path / "run" / "reward").exists() and not (tmp_path / "to").exists()


def test_a_trained_model_is_not_replaced(trained: Project) -> None:
    before = (trained.folder / "sft" / "final" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(OutputError, match="the sft phase of this run is already done"):
        trained.sft()
    assert (trained.folder / "sft" / "final" / "model.safetensors").stat().st_mtime_ns == before


def test_resume_and_overwrite(tmp_path: Path) -> None:
    project = small(tmp_path / "run")
    with pytest.raises(Interrupted, match="rlhf sft --resume"):
        project.sft(max_time=0)
    with pytest.raises(OutputError, match="was stopped after step 1"):
        project.sft()
    result = project.sft(resume=True)
    assert result.trained and result.steps == 3
    assert project.sft(overwrite=True).validation == pytest.approx(result.validation)


def test_two_projects_on_one_folder(tmp_path: Path) -> None:
    locked, release = threading.Event(), threading.Event()

    class Waiting(Notes):
        def note(self, text: str) -> None:
            locked.set()
            assert release.wait(60)

    first = threading.Thread(target=small(tmp_path / "run", progress=Waiting()).prepare)
    first.start()
    try:
        assert locked.wait(60)
        with pytest.raises(OutputError, match=r"in use by Project\('tiny'\).prepare\(\)"):
            small(tmp_path / "run").prepare()
    finally:
        release.set()
        first.join()


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    heavy = {"torch", "transformers", "pydantic", "yaml", "rich"}
    code = (
        "import sys, rlhfcli\n"
        f"assert not set(sys.modules) & {heavy}\n"
        "assert {'Project', 'ChatSession', 'RewardModel'} <= set(dir(rlhfcli))\n"
        "rlhfcli.Project\n"
        f"assert not set(sys.modules) & {heavy}, set(sys.modules) & {heavy}\n"
        "try: rlhfcli.Nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'rlhfcli' has no attribute 'Nothing'\n"
