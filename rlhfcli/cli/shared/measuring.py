"""Measuring what a run has trained; torch is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlhfcli import console
from rlhfcli.cli.shared.work import Work, claim, prepare, tokenizer_of
from rlhfcli.errors import ModelError

if TYPE_CHECKING:
    from rlhfcli.data.dialogues.column_use import ColumnUse
    from rlhfcli.data.encoding.encoded import EncodedPreference
    from rlhfcli.data.preparation.prepare import Prepared
    from rlhfcli.data.sources.evaluation_rows import PromptRow


def evaluate(work: Work) -> dict[str, Any]:
    """Measure what this run has trained, and write ``eval/*.json``.

    Args:
        work: The opened project.

    Returns:
        ``{"sft": …, "reward": …}``, whichever is there.

    Raises:
        ModelError: Nothing is trained yet.
    """
    refuse_nothing_trained(work)
    # other data than the models were made of would be measured, and replace theirs
    claim(work, "eval", overwrite=False)
    for line in work.run.trained_otherwise():
        console.message(line, style="yellow")
    tokenizer = tokenizer_of(work)
    prepared = prepare(work, tokenizer)
    results: dict[str, Any] = {}
    if work.run.finished("sft"):
        results["sft"] = _evaluate_sft(work, prepared)
        work.run.write_result("sft", results["sft"])
    if work.run.finished("reward"):
        results["reward"] = _evaluate_reward(work, prepared)
        work.run.write_result("reward", results["reward"])
    work.run.note({"eval": {}})
    return results


def refuse_nothing_trained(work: Work) -> None:
    """Check that there is something to measure.

    Raises:
        ModelError: There is not.
    """
    if not work.run.finished("sft") and not work.run.finished("reward"):
        raise ModelError("nothing is trained yet", where=str(work.run.path), hint="Run rlhf sft and rlhf reward first.")


def _evaluate_sft(work: Work, prepared: Prepared) -> dict[str, Any]:
    from rlhfcli.core.families.embeddings import fit_embeddings
    from rlhfcli.core.models.adapters import language_model
    from rlhfcli.core.models.loading import load_tokenizer
    from rlhfcli.data.dialogues.column_use import ColumnUse
    from rlhfcli.data.sources.evaluation_rows import read_prompts
    from rlhfcli.evaluation.language import LanguageData, evaluate_language

    recipe, trusted = work.recipe, work.recipe.model.trust_remote_code
    with work.sink.stage("loading both models"):
        base, tuned = (
            language_model(name, trust_remote_code=trusted) for name in (recipe.model.name, str(work.run.sft))
        )
        tokenizer = load_tokenizer(str(work.run.sft), trust_remote_code=trusted)
        fit_embeddings(base, tokenizer, recipe.seed)  # the rows that fine-tuning began with
    prompts: list[PromptRow] = []
    for name, file in recipe.eval.prompt_sets.items():
        use = ColumnUse()
        found = read_prompts(file, recipe.seed, use)
        _say(file, use, sum(prompt.unasked for prompt in found))
        prompts += [_of_set(prompt, name) for prompt in found] if name else found
    data = LanguageData(tokenizer, prepared.dialogues("validation"), prompts)
    return evaluate_language(recipe, base, tuned, data, work.sink)


def _evaluate_reward(work: Work, prepared: Prepared) -> dict[str, Any]:
    from rlhfcli.core.models.loading import load_tokenizer
    from rlhfcli.core.models.reward_model import load_reward_model
    from rlhfcli.data.dialogues.column_use import ColumnUse
    from rlhfcli.data.encoding.encode import Encoder
    from rlhfcli.data.sources.evaluation_rows import read_pairs
    from rlhfcli.evaluation.reward import evaluate_reward

    recipe, trusted = work.recipe, work.recipe.model.trust_remote_code
    with work.sink.stage("loading the reward model"):
        model = load_reward_model(work.run.reward, trust_remote_code=trusted)
        tokenizer = load_tokenizer(str(work.run.reward), trust_remote_code=trusted)
    encoder = Encoder(tokenizer, recipe.data.max_length, recipe.data.truncation)
    given: list[EncodedPreference] = []
    sets: list[str] = []
    for name, file in recipe.eval.pair_sets.items():
        use = ColumnUse()
        outcomes = encoder.preferences(read_pairs(file, recipe.seed, use=use))
        _say(file, use)
        found = [outcome.example for outcome in outcomes if outcome.example is not None]
        if len(found) < len(outcomes):
            left = f"{len(outcomes) - len(found):,} of {len(outcomes):,} pairs"
            console.message(f"{name or file}: {left} cannot be used and are left out")
        given += found
        sets += [name] * len(found) if name else []
    pairs: Sequence[EncodedPreference] = given if recipe.eval.pairs else prepared.pairs("validation")
    return evaluate_reward(model, tokenizer, pairs, prepared.pairs("train"), work.sink, sets)


def _of_set(prompt: PromptRow, name: str) -> PromptRow:
    """A prompt of a named set: its skill is not that of another set."""
    return replace(prompt, group=name, skill=f"{name}: {prompt.skill}" if prompt.skill else name)


def _say(name: str, use: ColumnUse, unasked: int = 0) -> None:
    """Say what a set to measure with holds that is not used."""
    from rlhfcli.data.dialogues.column_use import described

    for line in described(use.shares(), {}):
        console.message(f"{name}: {line}")
    if unasked:
        console.message(f"{name}: {unasked:,} further questions of its prompts are not asked")
