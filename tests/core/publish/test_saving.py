"""A folder is complete or absent, and every program that loads it computes our numbers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig, pipeline

from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.publish import conformance, exporter
from rlhfcli.core.publish.saving import Adapter, save_model
from rlhfcli.errors import ModelError, OutputError
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.checksums import verify
from rlhfcli.files.run_layout import SUMS
from tests.core import families, folders


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]


# --- complete or absent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_one_error_and_keeps_the_old_folder(tmp_path: Path, error: Exception) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OutputError, match="No space left"), complete_or_absent(folder) as partial:
        (partial / "new").touch()
        raise error
    assert names(tmp_path) == ["final", "final/old"]


def test_the_old_folder_comes_back_if_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OutputError, match="Input/output"), complete_or_absent(folder):
        pass
    assert names(tmp_path) == ["final", "final/old"]


def test_leftovers_of_a_killed_command_are_removed(tmp_path: Path) -> None:
    kept = [".final.mine", ".final.partial-x", ".other-1"]
    for name in [".final.partial-4711", ".final.old-00ff12ab", *kept]:
        (tmp_path / name).mkdir()
    with complete_or_absent(tmp_path / "final"):
        pass
    assert sorted(names(tmp_path)) == sorted(["final", *kept])


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    aside = tmp_path / ".final.old-00ff12ab"
    aside.mkdir()
    (aside / "old").touch()
    with pytest.raises(OutputError), complete_or_absent(tmp_path / "final"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["final", "final/old"]


# --- what is saved ------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    final, _ = folders.save("opt", tmp_path, reward=True)
    modes = {path.relative_to(final).as_posix(): path.stat().st_mode & 0o777 for path in final.rglob("*")}
    assert "adapter/adapter_model.safetensors" in modes
    assert {mode for name, mode in modes.items() if name != "adapter"} == {0o640}
    assert {modes["adapter"], final.stat().st_mode & 0o777} == {0o750}


def test_the_checksums_are_those_of_b2sum(tmp_path: Path) -> None:
    final, _ = folders.save("opt", tmp_path, reward=False)
    for folder in (final, final / "adapter"):
        output = subprocess.run(["b2sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert {line.split(":")[0] for line in output.splitlines()} == {
            file.name for file in folder.iterdir() if file.is_file() and file.name not in (SUMS, "README.md")
        }


def test_shards_have_the_requested_size(tmp_path: Path) -> None:
    model = families.classifier("llama")
    model.config.pad_token_id = 1
    save_model(model, folders.tokenizer(), tmp_path / "m", None, "", "20KB")
    shards = list((tmp_path / "m").glob("model-*.safetensors"))
    assert len(shards) > 3 and (tmp_path / "m" / "model.safetensors.index.json").is_file()
    assert max(shard.stat().st_size for shard in shards) < 22_000
    ids = families.token_ids([7])
    scores = load_reward_model(tmp_path / "m").rewards(ids)
    assert (scores - model(torch.tensor(ids)).logits[:, 0]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), r"config.json is not what was saved"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer.json is missing"),
        (lambda folder: (folder / SUMS).write_text(""), "B2SUMS is damaged"),
        (lambda folder: (folder / SUMS).write_text("00  ../x\n"), "B2SUMS is damaged"),
        (lambda folder: (folder / SUMS).write_bytes(b"\xff"), "B2SUMS cannot be read"),
    ],
)
def test_a_changed_folder_is_refused(tmp_path: Path, break_it: object, message: str) -> None:
    save_model(families.causal_lm("opt"), folders.tokenizer(), tmp_path / "m", None, "")
    verify(tmp_path / "m")
    break_it(tmp_path / "m")  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        load_causal_lm(str(tmp_path / "m"))


def test_one_rank_of_a_machine_verifies_the_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SUMS).write_text(f"{'0' * 128}  gone\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    verify(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ModelError, match="gone is missing"):
        verify(tmp_path)


def test_the_card_may_be_edited_and_a_changed_folder_accepted(tmp_path: Path) -> None:
    save_model(families.causal_lm("opt"), folders.tokenizer(), tmp_path / "m", None, "")
    (tmp_path / "m" / "README.md").write_text("mine")
    load_causal_lm(str(tmp_path / "m"))
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load_causal_lm(str(tmp_path / "m"))
    assert f"remove {tmp_path / 'm' / SUMS}" in str(caught.value.hint)
    (tmp_path / "m" / SUMS).unlink()
    load_causal_lm(str(tmp_path / "m"))


# --- six families, loaded by everybody ----------------------------------------------------------------------

SEQUENCES = families.token_ids([5, 19, 2, 33, 12])


def _scores(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in SEQUENCES])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in SEQUENCES])


@pytest.mark.parametrize("family", families.SIX)
def test_a_reward_model_gives_the_same_scores_everywhere(family: str, tmp_path: Path) -> None:
    final, base = folders.save(family, tmp_path, reward=True)
    ours = load_reward_model(final).rewards(SEQUENCES)
    plain = AutoModelForSequenceClassification.from_pretrained(final).eval()
    trl = AutoModelForSequenceClassification.from_pretrained(final, num_labels=1).eval()
    body = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    adapted = PeftModel.from_pretrained(body, str(final / "adapter")).eval()
    assert ours.std() > 0.1  # else anything would agree
    for theirs in (plain, trl, adapted):
        assert (_scores(theirs) - ours).abs().max() <= 1e-4
    assert (_scores(adapted.merge_and_unload()) - ours).abs().max() <= 1e-4
    texts = [" ".join(f"w{n}" for n in ids) for ids in SEQUENCES]
    classify = pipeline("text-classification", model=plain, tokenizer=folders.tokenizer())
    for options in ({"function_to_apply": "none"}, {}):  # problem_type keeps the sigmoid away
        found = torch.tensor([result["score"] for result in classify(texts, **options)])
        assert (found - ours).abs().max() <= 1e-4


@pytest.mark.parametrize("family", families.SIX)
def test_a_language_model_gives_the_same_logits_everywhere(family: str, tmp_path: Path) -> None:
    final, base = folders.save(family, tmp_path, reward=False)
    ours = _logits(load_causal_lm(str(final)))
    plain = AutoModelForCausalLM.from_pretrained(final).eval()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(final / "adapter")).eval()
    assert (ours - _logits(AutoModelForCausalLM.from_pretrained(base).eval())).abs().max() > 1e-2  # it was trained
    for theirs in (plain, adapted, adapted.merge_and_unload()):
        assert (_logits(theirs) - ours).abs().max() <= 1e-4


@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("family", families.SIX)
def test_the_check_passes_for_every_family(family: str, reward: bool, tmp_path: Path) -> None:
    final, _ = folders.save(family, tmp_path, reward=reward)
    report = exporter.check(final)
    assert report.agrees, report
    assert [result.client for result in report.results if result.difference is None] == []
    assert len(report.results) == (6 if reward else 4)
    left = next(result for result in report.results if "left" in result.client)
    assert ("position_ids" in left.note) == (family == "gpt2")  # the only one without relative or masked positions
    adapter = exporter.check(final / "adapter")
    assert adapter.agrees and len(adapter.results) == 1


# --- where others stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(2, [129, 2]), ([2, 7], [129, 2, 7]), (None, 129), ([129, 2], [129, 2])])
def test_other_programs_stop_at_the_end_token_of_the_template(before: object, after: object, tmp_path: Path) -> None:
    model = folders.adapted(families.causal_lm("llama"))
    model.resize_token_embeddings(len(folders.chatml()), mean_resizing=False)
    model.generation_config.eos_token_id = before
    adapter = Adapter(folders.SETTINGS, "base", "CAUSAL_LM")
    save_model(model, folders.chatml(), tmp_path / "m", adapter, "")
    for folder in (tmp_path / "m", tmp_path / "m" / "adapter"):
        assert GenerationConfig.from_pretrained(folder).eos_token_id == after
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").generation_config.eos_token_id == after


def test_where_the_template_ends_with_eos_nothing_is_added(tmp_path: Path) -> None:
    save_model(families.causal_lm("llama"), folders.tokenizer(), tmp_path / "m", None, "")
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == 2


# --- an adapter's folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("compare", [True, False])
def test_the_folder_of_an_adapter_is_merged(reward: bool, compare: bool, tmp_path: Path) -> None:
    final, _ = folders.save("llama", tmp_path, reward=reward)
    report = exporter.export(
        exporter.of_folder(final / "adapter"), tmp_path / "out", exporter.ExportSettings(compare=compare)
    )
    assert (report is not None) == compare
    plain, found = (load_file(folder / "model.safetensors") for folder in (final, tmp_path / "out"))
    assert plain.keys() == found.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def test_an_adapters_folder_can_be_exported_as_one(tmp_path: Path) -> None:
    final, _ = folders.save("llama", tmp_path, reward=True)
    report = exporter.export(
        exporter.of_folder(final / "adapter"), tmp_path / "out", exporter.ExportSettings("adapter")
    )
    assert report and report.agrees and (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_an_export_that_fails_its_check_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final, _ = folders.save("llama", tmp_path, reward=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    monkeypatch.setattr(conformance, "TOLERANCE", -1.0)
    with pytest.raises(exporter.ExportMismatch, match="other programs would compute other numbers") as caught:
        exporter.export(exporter.of_folder(final), tmp_path / "out")
    assert caught.value.report.results and caught.value.exit_code == 1
    assert names(tmp_path / "out") == ["old"] and not list(tmp_path.glob(".out*"))
