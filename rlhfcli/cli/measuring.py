"""Measuring what a run has trained; torch is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhfcli import console
from rlhfcli.cli.work import Work, claim, prepare, tokenizer_of
from rlhfcli.errors import ModelError

if TYPE_CHECKING:
    from rlhfcli.data.column_use import ColumnUse
    from rlhfcli.data.encoded import EncodedPreference
    from rlhfcli.data.prepare import Prepared


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
    from rlhfcli.core.adapted import language_model
    from rlhfcli.core.embeddings import fit_embeddings
    from rlhfcli.core.model import load_tokenizer
    from rlhfcli.data.column_use import ColumnUse
    from rlhfcli.data.evaluation_rows import read_prompts
    from rlhfcli.evaluation.language import LanguageData, evaluate_language

    recipe, trusted = work.recipe, work.recipe.model.trust_remote_code
    with work.sink.stage("loading both models"):
        base, tuned = (
            language_model(name, trust_remote_code=trusted) for name in (recipe.model.name, str(work.run.sft))
        )
        tokenizer = load_tokenizer(str(work.run.sft), trust_remote_code=trusted)
        fit_embeddings(base, tokenizer, recipe.seed)  # the rows that fine-tuning began with
    prompts, use = [], ColumnUse()
    if recipe.eval.prompts:
        prompts = read_prompts(recipe.eval.prompts, recipe.seed, use)
        _say(recipe.eval.prompts, use, sum(prompt.unasked for prompt in prompts))
    data = LanguageData(tokenizer, prepared.dialogues("validation"), prompts)
    return evaluate_language(recipe, base, tuned, data, work.sink)


def _evaluate_reward(work: Work, prepared: Prepared) -> dict[str, Any]:
    from rlhfcli.core.model import load_tokenizer
    from rlhfcli.core.reward_model import load_reward_model
    from rlhfcli.data.column_use import ColumnUse
    from rlhfcli.data.encode import Encoder
    from rlhfcli.data.evaluation_rows import read_pairs
    from rlhfcli.evaluation.reward import evaluate_reward

    recipe, trusted = work.recipe, work.recipe.model.trust_remote_code
    with work.sink.stage("loading the reward model"):
        model = load_reward_model(work.run.reward, trust_remote_code=trusted)
        tokenizer = load_tokenizer(str(work.run.reward), trust_remote_code=trusted)
    pairs: Sequence[EncodedPreference] = prepared.pairs("validation")
    if recipe.eval.pairs:
        encoder = Encoder(tokenizer, recipe.data.max_length, recipe.data.truncation)
        use = ColumnUse()
        outcomes = encoder.preferences(read_pairs(recipe.eval.pairs, recipe.seed, use=use))
        _say(recipe.eval.pairs, use)
        pairs = [outcome.example for outcome in outcomes if outcome.example is not None]
        if len(pairs) < len(outcomes):
            console.message(
                f"{len(outcomes) - len(pairs):,} of {len(outcomes):,} pairs cannot be used and are left out"
            )
    return evaluate_reward(model, tokenizer, pairs, prepared.pairs("train"), work.sink)


def _say(name: str, use: ColumnUse, unasked: int = 0) -> None:
    """Say what a set to measure with holds that is not used."""
    from rlhfcli.data.column_use import described

    for line in described(use.shares(), {}):
        console.message(f"{name}: {line}")
    if unasked:
        console.message(f"{name}: {unasked:,} further questions of its prompts are not asked")
