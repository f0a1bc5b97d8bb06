"""The model card, the ``README.md`` of a model folder: what the model is, how it was trained, its figures, its use."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from rlhfcli import __version__
from rlhfcli.core.publish import markdown
from rlhfcli.core.publish.card_code import Form, loading_section
from rlhfcli.files import strict_yaml
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import REWARD, SFT, Phase
from rlhfcli.recipe.schema import PhaseSection, Recipe

if TYPE_CHECKING:
    from rlhfcli.core.result import Result

_PACKAGES = ("torch", "deepspeed", "transformers")
_LICENCE = (
    "The licence and the terms of use of the base model apply to this model as well, and those of the data may: see "
    "where they come from."
)
_FIGURES = {
    "sft": (
        ("perplexity", "{perplexity:,.3f} (base model: {base_perplexity:,.3f})"),
        ("token accuracy", "{token_accuracy:.3f}, of {tokens:,} tokens"),
        ("exact match, mean of skills", "{exact_match[macro]:.3f}, {exact_match[prompts]:,} prompts"),
    ),
    "reward": (
        (
            "ranking accuracy (a tie counts as half)",
            "{accuracy:.3f}, 95 % interval {accuracy_ci95[0]:.3f} to {accuracy_ci95[1]:.3f}, {pairs:,} pairs",
        ),
        ("nll (guessing: 0.6931)", "{nll:.4f}"),
        ("verdict", "{verdict}: {reason}"),
    ),
}
_VALIDATION_FIGURES = {
    "sft": (("loss on the validation part", "{eval_loss:.4f} nats per token"),),
    "reward": (
        ("ranking accuracy on the validation part (a tie counts as half)", "{eval_accuracy:.3f}"),
        ("nll on the validation part (guessing: 0.6931)", "{eval_nll:.4f}"),
    ),
}
_TASKS = {"sft": "text-generation", "reward": "text-classification"}  # names of the Hub
_TAGS = {"sft": ["rlhf", "sft"], "reward": ["rlhf", "reward-model"]}


@dataclass(frozen=True)
class Trained:
    """A trained model, as its card describes it.

    Args:
        recipe: All settings.
        phase: ``sft`` or ``reward``.
        steps: Number of optimizer steps.
        tokens: Number of tokens trained on.
        validation: Figures on the validation part, measured during training.
        sources: The sources of the data, from the manifest of the prepared data.
        evaluation: Results of ``rlhf eval``, if it ran.
        best: The step of the weights and the criterion, where the recipe asks for the best step (``Result.best``).
    """

    recipe: Recipe
    phase: Phase
    steps: int
    tokens: int
    validation: Mapping[str, float]
    sources: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    best: Mapping[str, Any] = field(default_factory=dict)

    @property
    def section(self) -> PhaseSection:
        """The section of the recipe for this phase."""
        return self.recipe.sft if self.phase == "sft" else self.recipe.reward


def sft_card(recipe: Recipe, result: Result) -> str:
    """Write the card of a fine-tuned language model at the end of its training.

    Args:
        recipe: All settings.
        result: The outcome of the training.

    Returns:
        Markdown.
    """
    return card(Trained(recipe, SFT, result.steps, result.tokens, result.evaluation, best=result.best))


def reward_card(recipe: Recipe, result: Result) -> str:
    """Write the card of a reward model at the end of its training.

    Args:
        recipe: All settings.
        result: The outcome of the training.

    Returns:
        Markdown.
    """
    return card(Trained(recipe, REWARD, result.steps, result.tokens, result.evaluation, best=result.best))


def card(trained: Trained, form: Form = "merged", base: str = "") -> str:
    """Write a model card.

    Args:
        trained: The model.
        form: The format of the folder: a whole model, an adapter, or DeepSpeed-Chat's format.
        base: Hub name or folder of the model that an adapter belongs to.

    Returns:
        Markdown, with the metadata that the Hub reads.
    """
    name = public(trained.recipe.model.name)
    shown = markdown.plain(name)
    on_hub = "/" in name and not name.startswith((".", "~"))
    parts = [
        _metadata(trained.phase, form, name if on_hub else None),
        f"# {shown}, fine-tuned to hold a dialogue" if trained.phase == "sft" else f"# Reward model on {shown}",
        _summary(trained, form),
        "## Figures\n\n" + _figures(trained),
        "## How to load it\n\n" + loading_section(trained.phase, form, base),
        "## Data\n\n" + _data(trained),
        f"## Recipe\n\n{markdown.block(strict_yaml.write(_settings(trained)), 'yaml')}",
        f"## Licence and versions\n\n{_LICENCE}\n\nMade with {_versions()}.",
    ]
    return "\n\n".join(parts) + "\n"


def converted_card(source: str) -> str:
    """Write the card of a reward model that was read from DeepSpeed-Chat's format.

    Args:
        source: Name of the folder in that format.

    Returns:
        Markdown, with the metadata that the Hub reads.
    """
    return (
        f"{_metadata('reward', 'merged', None)}\n\n"
        f"# Reward model, converted from DeepSpeed-Chat's {markdown.plain(source)}\n\n"
        "The weights are unchanged; the score is read at the last token. DeepSpeed-Chat trains on texts that end with "
        "the letters `<|endoftext|>`: so does the chat template, if the tokenizer came without one.\n\n"
        f"## How to load it\n\n{loading_section('reward', 'merged', '')}\n\n"
        f"## Licence and versions\n\n{_LICENCE}\n\nConverted with {_versions()}.\n"
    )


def _metadata(phase: Phase, form: Form, base_model: str | None) -> str:
    """Write the YAML header that the Hub reads."""
    library = "peft" if form == "adapter" else "transformers"
    data = ModelCardData(base_model=base_model, library_name=library, pipeline_tag=_TASKS[phase], tags=_TAGS[phase])
    return f"---\n{data.to_yaml()}\n---"


def public(name: str) -> str:
    """Remove the folders of this machine from a name.

    Args:
        name: Hub name, folder or file.

    Returns:
        The last part of a local path; other names unchanged.
    """
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith("~") else name


def _summary(trained: Trained, form: Form) -> str:
    phase = trained.section
    how = "full fine-tuning" if phase.lora is None else f"LoRA of rank {phase.lora.rank}"
    if phase.lora is not None and form == "merged":
        how += ", merged into the weights"
    text = (
        f"Trained by rlhf with {how}: {trained.steps:,} steps of {phase.batch_size}, {trained.tokens:,} tokens, "
        f"learning rate {phase.learning_rate:g} ({phase.schedule.name}), seed {trained.recipe.seed}."
    )
    with suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        text += " The weights are those after step {step:,}, with the {by}.".format_map(trained.best)
    if trained.phase == "reward":
        text += (
            " Only differences between answers to the same prompt are meaningful; `mean` and `std` in config.json are "
            "those of the rewards of the validation answers. Pad on the right: some families give other scores when "
            "padded on the left."
        )
        if trained.recipe.reward.pooling == "mean":
            text += (
                "\n\nTrained with mean pooling: `rlhf` reads the mean over the answer, other programs the last "
                "token's score."
            )
        if form == "deepspeed-chat":
            text += (
                "\n\nThe score belongs to the end token of the answer. With most families DeepSpeed-Chat takes that "
                "token for padding, and reads the one before it: give its tokenizer another pad token."
            )
    return text


def _figures(trained: Trained) -> str:
    """Write a table of the results of ``rlhf eval``, or of the validation during training where it did not run."""
    results = trained.evaluation or {}
    rows = _fill(_FIGURES[trained.phase], results)
    if trained.phase == "reward":
        shares = results.get("baselines") if isinstance(results.get("baselines"), dict) else {}
        baselines = {name.replace("_", " "): share for name, share in (shares or {}).items()}
        forms = tuple((f"ranking accuracy of a baseline: {name}", f"{{{name}:.3f}}") for name in baselines)
        rows += _fill(forms, baselines)
    if not rows:
        rows = _fill(_VALIDATION_FIGURES[trained.phase], trained.validation)
    if not rows:
        return "Not measured."
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {markdown.plain(value)} |" for name, value in rows)])


def _fill(forms: Sequence[tuple[str, str]], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows whose figures are available and valid."""
    rows = []
    for name, form in forms:
        with suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            rows.append((name, form.format_map(figures)))
    return rows


def _data(trained: Trained) -> str:
    if not trained.sources:
        names = ", ".join(markdown.code(public(source.path)) for source in trained.recipe.data.sources)
        return f"Trained on {names}."
    rows = ["| source | shape of its rows | read | to train | to validate | left out |", "|---|---|---|---|---|---|"]
    for source in trained.sources:
        used = source.get(trained.phase) or {}
        shapes = ", ".join(source.get("shapes") or []) or "none"
        reasons = {**(source.get("dropped") or {}), **(used.get("dropped") or {})}
        left = "; ".join(f"{count:,}: {markdown.plain(reason)}" for reason, count in reasons.items()) or "none"
        counts = " | ".join(f"{count:,}" for count in (source["read"], used.get("train", 0), used.get("validation", 0)))
        name = markdown.code(public(source["path"]), cell=True)
        rows.append(f"| {name} | {markdown.plain(shapes)} | {counts} | {left} |")
    return "\n".join(rows)


def _settings(trained: Trained) -> dict[str, Any]:
    """Return the settings that the weights depend on; local paths are not published."""
    recipe = without_secrets(trained.recipe.model_dump(mode="json"))
    kept = {key: recipe[key] for key in ("seed", "model", "data", trained.phase, "deepspeed")}
    kept["model"]["name"] = public(kept["model"]["name"])
    for source in kept["data"]["sources"]:
        source["path"] = public(source["path"])
    kept["deepspeed"].pop("nvme")
    kept["data"]["template"] = public(kept["data"]["template"])
    return kept


def _versions() -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return f"rlhf {__version__}, Python {platform.python_version()}, {packages}"
