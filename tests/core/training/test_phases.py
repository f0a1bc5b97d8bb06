"""Both phases through the real DeepSpeed engine, on small random models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhfcli.core.engine.engine import schedule_factor
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.parallel import out_of_memory
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.training import parts, phases
from rlhfcli.core.training.step_plan import plan_steps
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.errors import OutOfMemory, TrainingError, is_out_of_memory
from rlhfcli.evaluation.reward_model import ranking, score_pairs
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import PhaseSection, Recipe, ScheduleSection
from tests.core import families


class Tokenizer:
    """As much of one as the phases touch; the real one is used in tests/e2e."""

    pad_token_id = 1
    chat_template = None

    def __len__(self) -> int:
        return families.VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {f"word{i}": i for i in range(len(self))}

    def save_pretrained(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)


class Data:
    """A rule that two layers can learn: the answer repeats the last word of the prompt."""

    def __init__(self, count: int = 40) -> None:
        self.rows = families.token_ids([4 + i % 7 for i in range(count)])

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        rows = self.rows if part == "train" else self.rows[:8]
        return [EncodedDialogue([2, *row, row[-1], row[-1], 2], [(len(row) + 1, len(row) + 4)]) for row in rows]

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        rows = self.rows if part == "train" else self.rows[:8]
        return [EncodedPreference.pair([2, *row], [row[-1], 5, 2], [row[0], 6, 7, 2]) for row in rows]


def _project(tmp_path: Path, family: str = "opt", data: Any = None, **changes: Any) -> parts.PhaseInputs:
    source = tmp_path / f"base-{family}"
    if not source.exists():
        families.causal_lm(family).save_pretrained(source)
    phase = {"batch_size": 8, "micro_batch_tokens": 48, "epochs": 2, "learning_rate": 1e-2} | changes.pop("phase", {})
    recipe = Recipe.model_validate(
        {
            "output_dir": str(tmp_path / "run"),
            "model": {"name": str(source), "dtype": "fp32"} | changes.pop("model", {}),
            "data": {"sources": [{"path": "unused"}]},
            "sft": phase,
            "reward": phase | changes.pop("reward", {}),
            "logging": {"every": 2},
        }
        | changes
    )
    return parts.PhaseInputs(recipe, data or Data(), Tokenizer(), tmp_path / "run", Silent())  # type: ignore[arg-type]


def _lines(tmp_path: Path, phase: str) -> Iterator[dict[str, float]]:
    yield from map(json.loads, (tmp_path / "run" / phase / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("pooling", ["last", "mean", "tokenwise"])
def test_the_nll_of_a_training_is_that_of_an_evaluation(tmp_path: Path, pooling: str) -> None:
    """Whatever the loss holds besides: guessing costs ln 2 of the nll alone."""
    loss = {"centering": 0.5, "label_smoothing": 0.2}
    project = _project(tmp_path, reward={"init_from": "base", "pooling": pooling, "loss": loss})
    found = phases.train_reward(project)
    model, pairs = load_reward_model(tmp_path / "run" / "reward" / "final"), project.prepared.pairs("validation")
    measured = ranking(*score_pairs(model, pairs))
    assert found.evaluation["eval_nll"] == pytest.approx(measured["nll"], abs=1e-5)
    assert abs(found.evaluation["eval_loss"] - found.evaluation["eval_nll"]) > 1e-3
    nll = found.evaluation["eval_nll"]
    card = (tmp_path / "run" / "reward" / "final" / "README.md").read_text(encoding="utf-8")
    assert f"| nll on the validation part (guessing: 0.6931) | {nll:.4f} |" in card


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_reward_model_as_the_base_keeps_its_head(tmp_path: Path) -> None:
    first = phases.train_reward(
        _project(tmp_path / "first", "llama", phase={"epochs": 4}, reward={"init_from": "base"})
    )
    assert first.evaluation["eval_accuracy"] >= 0.85
    folder, notes = tmp_path / "first" / "run" / "reward" / "final", Notes()
    more = {"init_from": "base", "max_steps": 1, "learning_rate": 1e-9}
    second = _project(tmp_path / "second", "llama", model={"name": str(folder)}, reward=more)
    found = phases.train_reward(replace(second, sink=notes))
    assert found.history[0]["eval_nll"] == pytest.approx(first.evaluation["eval_nll"], abs=1e-5)
    assert f"the reward comes from the head of {folder}" in notes.lines
    third = replace(_project(tmp_path / "third", "llama", reward=more), sink=notes)
    phases.train_reward(third)
    assert "the reward comes from a new head" in notes.lines


@pytest.mark.parametrize("lora", [None, {"rank": 8}])
@pytest.mark.parametrize("family", ["opt", "llama", "bloom"])
def test_both_phases_learn_and_save_what_others_load(tmp_path: Path, family: str, lora: Any) -> None:
    project = _project(tmp_path, family, phase={"lora": lora, "epochs": 4})
    result = phases.train_sft(project)
    first, last = result.history[0], result.evaluation
    assert last["eval_loss"] < first["eval_loss"] - 0.3
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "sft" / "final")
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert (tmp_path / "run" / "sft" / "final" / "adapter").is_dir() == (lora is not None)

    result = phases.train_reward(project)
    assert result.evaluation["eval_accuracy"] >= 0.85
    folder = tmp_path / "run" / "reward" / "final"
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pair = project.prepared.pairs("validation")[0]
    ids = pair.sequences[0]
    with torch.no_grad():
        assert float(theirs(torch.tensor([ids])).logits) == pytest.approx(
            float(load_reward_model(folder).rewards([ids])), abs=1e-4
        )
    rewards = load_reward_model(folder).rewards(
        [sequence for pair in project.prepared.pairs("validation") for sequence in pair.sequences]
    )
    assert theirs.config.mean == pytest.approx(float(rewards.mean()), abs=1e-4)
    assert theirs.config.std == pytest.approx(float(rewards.std(correction=0)), abs=1e-4) and theirs.config.std > 0.1


class Listening(Silent):
    """Keeps the run header."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("deepspeed", "said"),
    [
        ({"zero_stage": 1}, "ZeRO stage 0 (stage 1 has nothing to divide with one rank)"),
        ({"zero_stage": 2, "offload": "optimizer"}, "ZeRO stage 2, optimizer offloaded"),
        ({"zero_stage": 3, "offload": "all"}, "ZeRO stage 3, optimizer and parameters offloaded"),
    ],
)
def test_the_header_names_what_is_offloaded(tmp_path: Path, deepspeed: dict[str, Any], said: str) -> None:
    sink = Listening()
    phases.train_sft(replace(_project(tmp_path, phase={"max_steps": 1}, deepspeed=deepspeed), sink=sink))
    assert sink.notes[0].endswith(said)


@pytest.mark.parametrize(
    ("family", "layout"), [("opt", "token trees"), ("bloom", "padded: BloomForCausalLM does not take the positions")]
)
def test_the_header_names_the_layout_and_why(tmp_path: Path, family: str, layout: str) -> None:
    project = replace(_project(tmp_path, family, phase={"max_steps": 1}), sink=Listening())
    phases.train_sft(project)
    assert isinstance(project.sink, Listening)
    assert f"tokens in all · {layout}" in project.sink.notes[1]


def test_metrics_have_all_figures_and_every_step_is_counted(tmp_path: Path) -> None:
    project = _project(tmp_path)
    phases.train_sft(project)
    lines = list(_lines(tmp_path, "sft"))
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6, 8, 10]
    wanted = {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "seconds",
        "memory_gb",
    }
    assert all(set(line) == wanted for line in training)
    dialogues = Data().dialogues("train")
    task = SftTask(dialogues, "all", packed=True, pad_id=1)
    parts = [part for rows in plan_steps(task, project.recipe.sft, project.recipe.seed) for part in task.cut(rows, 48)]
    beginnings = [
        {tuple(dialogues[i].ids[:n]) for i in part for n in range(1, len(dialogues[i].ids) + 1)} for part in parts
    ]
    assert training[-1]["tokens"] == sum(map(len, beginnings)), "every distinct beginning of a micro-batch is one token"
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 10]


def test_the_loss_is_the_mean_over_the_global_batch_however_it_is_cut(tmp_path: Path) -> None:
    histories = []
    for number, budget in enumerate((16, 48, 4096)):
        folder = tmp_path / str(number)
        phases.train_sft(_project(folder, phase={"micro_batch_tokens": budget}))
        histories.append([(line["loss"], line["grad_norm"]) for line in _lines(folder, "sft") if "loss" in line])
    for history in histories[1:]:
        for a, b in zip(history, histories[0], strict=True):
            assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path, stage: int) -> None:
    for folder, number in ((tmp_path / "a", 1), (tmp_path / "b", stage)):
        project = _project(
            folder,
            deepspeed={"zero_stage": number, "config": families.DIVIDED},
            phase={"lora": {"rank": 4}, "max_steps": 6},
        )
        phases.train_sft(project)
        phases.train_reward(project)
    for phase in ("sft", "reward"):
        for a, b in zip(_lines(tmp_path / "a", phase), _lines(tmp_path / "b", phase), strict=True):
            for name in {"loss", "grad_norm", "eval_loss"} & a.keys():
                assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name


def test_bf16_stays_near_fp32_and_trains_float32_weights(tmp_path: Path) -> None:
    for name in ("fp32", "bf16"):
        phases.train_sft(_project(tmp_path / name, model={"name": str(_base(tmp_path)), "dtype": name}))
    pairs = list(zip(_lines(tmp_path / "fp32", "sft"), _lines(tmp_path / "bf16", "sft"), strict=True))
    assert all(a["loss"] == pytest.approx(b["loss"], abs=5e-2) for a, b in pairs if "loss" in a)
    assert any(a["loss"] != b["loss"] for a, b in pairs if "loss" in a)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16" / "run" / "sft" / "final")
    assert model.dtype == torch.float32


def _base(tmp_path: Path) -> Path:
    families.causal_lm("opt").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    for flag in (False, True):
        model = {"name": str(_base(tmp_path)), "dtype": "fp32", "gradient_checkpointing": flag}
        phases.train_sft(_project(tmp_path / str(flag), model=model, phase={"max_steps": 4, "lora": {"rank": 4}}))
    for a, b in zip(_lines(tmp_path / "False", "sft"), _lines(tmp_path / "True", "sft"), strict=True):
        assert all(a[name] == pytest.approx(b[name], rel=1e-5) for name in {"loss", "grad_norm"} & a.keys())


def test_the_same_seed_gives_the_same_losses(tmp_path: Path) -> None:
    for name in ("a", "b"):
        phases.train_sft(
            _project(tmp_path / name, model={"name": str(_base(tmp_path)), "dtype": "fp32", "dropout": 0.1})
        )
    for a, b in zip(_lines(tmp_path / "a", "sft"), _lines(tmp_path / "b", "sft"), strict=True):
        assert all(a[name] == b[name] for name in {"loss", "grad_norm", "eval_loss"} & a.keys())


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    project = _project(tmp_path)
    model = families.causal_lm("opt")
    with torch.no_grad():
        model.lm_head.weight[99] = 3e38  # finite, unlike what it makes of the loss
    model.save_pretrained(project.recipe.model.name)
    with pytest.raises(TrainingError, match="the loss is nan at step") as caught:
        phases.train_sft(project)
    assert "training example" in str(caught.value.where) and "learning rate" in str(caught.value.hint)
    assert not (tmp_path / "run" / "sft" / "final").exists()


@pytest.mark.parametrize(
    ("error", "place", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore"), 1, "rehearsing the largest batch: CUDA out"),
        (MemoryError(), 2, "in an evaluation: MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 9, "at step 3: [enforce"),
    ],
)
def test_out_of_memory_says_where_and_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: int, told: str
) -> None:
    """The error comes out of the model itself, at one of its passes."""
    num_passes, step = [0], SftTask.step

    def failing(self: SftTask, forward: Any, batch: Any) -> Any:
        num_passes[0] += 1
        if num_passes[0] == place:
            raise error
        return step(self, forward, batch)

    monkeypatch.setattr(SftTask, "step", failing)
    with pytest.raises(OutOfMemory) as caught:
        phases.train_sft(_project(tmp_path))
    assert caught.value.what.startswith(told) and "\n" not in caught.value.what
    assert "Lower sft.micro_batch_tokens (now 48): rlhf bench --phase sft --find-size" in caught.value.hint  # type: ignore[operator]


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), out_of_memory.explained("sft", "at step 1", 10):
        raise ZeroDivisionError
    for text in ("CUDA error: an illegal memory access", "cannot allocate a name"):
        assert not is_out_of_memory(RuntimeError(text))


def test_pooling_and_init_from_base(tmp_path: Path) -> None:
    for pooling in ("mean", "tokenwise"):
        project = _project(
            tmp_path / pooling, reward={"pooling": pooling, "init_from": "base", "epochs": 20, "learning_rate": 3e-3}
        )
        assert phases.train_reward(project).evaluation["eval_accuracy"] >= 0.85
        assert load_reward_model(project.folder / "reward" / "final").config.rlhf == {"pooling": pooling}


@pytest.mark.parametrize(
    ("epochs", "sizes"), [(1.0, [4, 4, 2]), (2.0, [4, 4, 2, 4, 4, 2]), (0.5, [4, 1]), (1.5, [4, 4, 2, 4, 1])]
)
def test_every_epoch_takes_each_example_once_in_a_new_order(epochs: float, sizes: list[int]) -> None:
    task = SftTask([EncodedDialogue([2, 3, 4], [(1, 3)])] * 10, "all", packed=True, pad_id=1)
    steps = plan_steps(task, PhaseSection(batch_size=4, epochs=epochs, learning_rate=1e-3), seed=5)
    assert [len(rows) for rows in steps] == sizes
    flat = [row for rows in steps for row in rows]
    if epochs == 2.0:
        assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10)) and flat[:10] != flat[10:]


def test_schedules_against_their_definitions() -> None:
    factor = schedule_factor(ScheduleSection(name="cosine", warmup_ratio=0.1, final_ratio=0.1), 100)
    assert factor(0) == pytest.approx(1 / 11) and factor(10) == pytest.approx(1.0)
    assert factor(54) == pytest.approx(0.56, abs=1e-2) and factor(99) == pytest.approx(0.1)
    for name in ("linear", "cosine"):  # the last step that is made is number steps - 1
        for steps, warmup in ((1, 0.0), (2, 0.0), (7, 0.0), (7, 0.3), (100, 0.03)):
            last = schedule_factor(ScheduleSection(name=name, warmup_ratio=warmup, final_ratio=0.25), steps)
            assert last(steps - 1) == pytest.approx(0.25 if steps > 1 else 1.0), (name, steps, warmup)
            zero = schedule_factor(ScheduleSection(name=name, warmup_ratio=warmup), steps)
            assert zero(steps - 1) > 0 and zero(steps) == pytest.approx(0.0)
    assert schedule_factor(ScheduleSection(name="linear", warmup_ratio=0.0), 10)(5) == pytest.approx(0.5)
    constant = schedule_factor(ScheduleSection(name="constant", warmup_ratio=0.0), 10)
    assert {constant(step) for step in range(10)} == {1.0}
