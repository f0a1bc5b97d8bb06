"""Loads the models of a run and the evaluation sets of its recipe, and evaluates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.models.any_format import load_language_model
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.data.dialogues.column_use import ColumnUse, column_notes
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.data.sources.evaluation_rows import PromptRow, read_pairs, read_prompts
from rlhfcli.data.store.prepared import DataStore
from rlhfcli.evaluation.language_model import LanguageData, evaluate_language
from rlhfcli.evaluation.reward_model import evaluate_reward
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import Recipe


def evaluate_fine_tuned(recipe: Recipe, folder: Path, prepared: DataStore, sink: Sink) -> dict[str, Any]:
    """Evaluate a fine-tuned model beside its base model.

    Args:
        recipe: Names the base model and the prompts.
        folder: Folder of the fine-tuned model.
        prepared: The prepared data, for its validation part.
        sink: Receives the progress.

    Returns:
        As ``evaluate_language``.
    """
    trusted = recipe.model.trust_remote_code
    with sink.stage("loading both models"):
        base, tuned = (
            load_language_model(name, trust_remote_code=trusted) for name in (recipe.model.name, str(folder))
        )
        tokenizer = load_tokenizer(str(folder), trust_remote_code=trusted)
        fit_embeddings(base, tokenizer, recipe.seed)  # the same new rows that fine-tuning began with
    prompts: list[PromptRow] = []
    for name, file in recipe.eval.prompt_sets.items():
        use = ColumnUse()
        rows = read_prompts(file, recipe.seed, use)
        _report_unused(file, use, sink)
        if unasked := sum(row.unasked for row in rows):
            sink.note(f"{file}: {unasked:,} further questions of its prompts are not asked")
        prompts += [_in_set(row, name) for row in rows] if name else rows
    data = LanguageData(tokenizer, prepared.dialogues("validation"), prompts)
    return evaluate_language(recipe, base, tuned, data, sink)


def evaluate_reward_model(recipe: Recipe, folder: Path, prepared: DataStore, sink: Sink) -> dict[str, Any]:
    """Evaluate a reward model on the pairs that the recipe names, else on the validation part.

    Args:
        recipe: Names the pairs.
        folder: Folder of the reward model.
        prepared: The prepared data; the bag of words is fitted to its training part.
        sink: Receives the progress.

    Returns:
        As ``evaluate_reward``.
    """
    trusted = recipe.model.trust_remote_code
    with sink.stage("loading the reward model"):
        model = load_reward_model(folder, trust_remote_code=trusted)
        tokenizer = load_tokenizer(str(folder), trust_remote_code=trusted)
    encoder = Encoder(tokenizer, recipe.data.max_length, recipe.data.truncation)
    named: list[EncodedPreference] = []
    sets: list[str] = []
    for name, file in recipe.eval.pair_sets.items():
        use = ColumnUse()
        outcomes = encoder.preferences(read_pairs(file, recipe.seed, use=use))
        _report_unused(file, use, sink)
        usable = [outcome.example for outcome in outcomes if outcome.example is not None]
        if len(usable) < len(outcomes):
            left_out = f"{len(outcomes) - len(usable):,} of {len(outcomes):,} pairs"
            sink.note(f"{name or file}: {left_out} cannot be used and are left out")
        named += usable
        sets += [name] * len(usable) if name else []
    pairs: Sequence[EncodedPreference] = named if recipe.eval.pairs else prepared.pairs("validation")
    return evaluate_reward(model, tokenizer, pairs, prepared.pairs("train"), sink, sets)


def _in_set(row: PromptRow, name: str) -> PromptRow:
    """Put a prompt into a named set; skills of different sets are different skills."""
    return replace(row, group=name, skill=f"{name}: {row.skill}" if row.skill else name)


def _report_unused(file: str, use: ColumnUse, sink: Sink) -> None:
    """Report the unused columns of an evaluation set."""
    for line in column_notes(use.shares(), {}):
        sink.note(f"{file}: {line}")
