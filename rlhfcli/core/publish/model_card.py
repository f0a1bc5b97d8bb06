"""The README.md that lies in every model folder: what it is, how it was made, how good it is, how to load it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhfcli import __version__
from rlhfcli.core.publish import markdown
from rlhfcli.files import strict_yaml
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import REWARD, SFT, Phase
from rlhfcli.recipe.schema import PhaseSection, Recipe

if TYPE_CHECKING:
    from rlhfcli.core.result import Result

Form = Literal["merged", "adapter", "deepspeed-chat"]
_PACKAGES = ("torch", "deepspeed", "transformers")
_LICENCE = (
    "The licence and the terms of use of the base model hold for this one, too, and those of the data may: see where "
    "they come from."
)
_LOADING = {
    "sft": """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
dialogue = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100{stops})[0]))""",
    "reward": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
dialogue = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hello! How can I help you?"}}]
inputs = tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True)
print(model(**inputs).logits.item())""",
}
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
_TRAINING = {
    "sft": (("loss on the validation part", "{eval_loss:.4f} nats per token"),),
    "reward": (
        ("ranking accuracy on the validation part (a tie counts as half)", "{eval_accuracy:.3f}"),
        ("nll on the validation part (guessing: 0.6931)", "{eval_nll:.4f}"),
    ),
}
_CLASSES = {"sft": "AutoModelForCausalLM", "reward": "AutoModelForSequenceClassification"}
_TAGS = {"sft": ("text-generation", "[rlhf, sft]"), "reward": ("text-classification", "[rlhf, reward-model]")}


@dataclass(frozen=True)
class Trained:
    """What is known of a model when its card is written.

    Args:
        recipe: All settings.
        phase: ``sft`` or ``reward``.
        steps: Optimizer steps.
        tokens: Tokens trained on.
        validation: Figures of the weights on the validation part.
        sources: What the prepared data's manifest says of each source.
        measured: What ``rlhf eval`` found, if it ran.
        best: Which step's weights these are and why, where the recipe asks for the best; see ``Result.best``.
    """

    recipe: Recipe
    phase: Phase
    steps: int
    tokens: int
    validation: Mapping[str, float]
    sources: Sequence[Mapping[str, Any]] = ()
    measured: Mapping[str, Any] | None = None
    best: Mapping[str, Any] = field(default_factory=dict)

    @property
    def section(self) -> PhaseSection:
        """The recipe's section of the phase."""
        return self.recipe.sft if self.phase == "sft" else self.recipe.reward


def sft_card(recipe: Recipe, result: Result) -> str:
    """Model card of a fine-tuned language model, as training leaves it."""
    return card(Trained(recipe, SFT, result.steps, result.tokens, result.evaluation, best=result.best))


def reward_card(recipe: Recipe, result: Result) -> str:
    """Model card of a reward model, as training leaves it."""
    return card(Trained(recipe, REWARD, result.steps, result.tokens, result.evaluation, best=result.best))


def card(made: Trained, form: Form = "merged", base: str = "") -> str:
    """A model card.

    Args:
        made: What is known of the model.
        form: What lies beside the card: a model, an adapter, or DeepSpeed-Chat's keys.
        base: What an adapter belongs to.

    Returns:
        Markdown, with the header that the hub reads.
    """
    name = public(made.recipe.model.name)
    task, tags = _TAGS[made.phase]
    library = "peft" if form == "adapter" else "transformers"
    header = ["---", f"library_name: {library}", f"pipeline_tag: {task}", f"tags: {tags}"]
    if "/" in name and not name.startswith((".", "~")):  # the hub knows no other names
        header.append(strict_yaml.write({"base_model": name}).rstrip())
    shown = markdown.plain(name)
    title = f"# {shown}, fine-tuned to hold a dialogue" if made.phase == "sft" else f"# Reward model on {shown}"
    parts = [
        "\n".join([*header, "---"]),
        title,
        _summary(made, form),
        "## Figures\n\n" + _figures(made),
        "## How to load it\n\n" + _loading(made.phase, form, base),
        "## Data\n\n" + _data(made),
        f"## Recipe\n\n{markdown.block(strict_yaml.write(_settings(made)), 'yaml')}",
        f"## Licence and versions\n\n{_LICENCE}\n\nMade with {_versions()}.",
    ]
    return "\n\n".join(parts) + "\n"


def converted_card(source: str) -> str:
    """Model card of a reward model that was read from DeepSpeed-Chat's format.

    Args:
        source: The folder's name.
    """
    task, tags = _TAGS["reward"]
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {task}\ntags: {tags}\n---\n\n"
        f"# Reward model, converted from DeepSpeed-Chat's {markdown.plain(source)}\n\n"
        "The weights are unchanged; the score is read at the last token. DeepSpeed-Chat trains on texts that end with "
        "the letters `<|endoftext|>`: so does the chat template, if the tokenizer came without one.\n\n"
        f"## How to load it\n\n{_loading('reward', 'merged', '')}\n\n"
        f"## Licence and versions\n\n{_LICENCE}\n\nConverted with {_versions()}.\n"
    )


def public(name: str) -> str:
    """A name without the folders of the machine it is on."""
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith("~") else name


def _summary(made: Trained, form: Form) -> str:
    phase = made.section
    how = "full fine-tuning" if phase.lora is None else f"LoRA of rank {phase.lora.rank}"
    if phase.lora is not None and form == "merged":
        how += ", merged into the weights"
    text = (
        f"Trained by rlhf with {how}: {made.steps:,} steps of {phase.batch_size}, {made.tokens:,} tokens, learning "
        f"rate {phase.learning_rate:g} ({phase.schedule.name}), seed {made.recipe.seed}."
    )
    with suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        text += " The weights are those after step {step:,}, with the {by}.".format_map(made.best)
    if made.phase == "reward":
        text += (
            " Only differences between answers to the same prompt mean something; `mean` and `std` in config.json are "
            "those of the rewards of the validation answers. Pad on the right: some families give other scores when "
            "padded on the left."
        )
        if made.recipe.reward.pooling == "mean":
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


def _figures(made: Trained) -> str:
    """What was measured; without ``rlhf eval`` what training saw."""
    found = made.measured or {}
    rows = _filled(_FIGURES[made.phase], found)
    if made.phase == "reward":
        shares = found.get("baselines") if isinstance(found.get("baselines"), dict) else {}
        named = {name.replace("_", " "): share for name, share in (shares or {}).items()}
        rows += _filled(tuple((f"the same of a baseline: {name}", f"{{{name}:.3f}}") for name in named), named)
    if not rows:
        rows = _filled(_TRAINING[made.phase], made.validation)
    if not rows:
        return "Not measured."
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {markdown.plain(value)} |" for name, value in rows)])


def _filled(forms: Sequence[tuple[str, str]], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows whose figures are there."""
    rows = []
    for name, form in forms:
        with suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            rows.append((name, form.format_map(figures)))
    return rows


def _loading(phase: str, form: Form, base: str) -> str:
    if form == "deepspeed-chat":
        return (
            "DeepSpeed-Chat's phase 3 reads it: `--critic_model_name_or_path` with this folder. Nothing else does; "
            "`rlhf export FOLDER TO` makes a plain transformers model of it."
        )
    load = f"model = {_CLASSES[phase]}.from_pretrained(folder)"
    if form == "adapter":
        options = ", num_labels=1" if phase == "reward" else ""
        load = (
            f"base = {_CLASSES[phase]}.from_pretrained({base!r}{options})\n"
            "model = PeftModel.from_pretrained(base, folder).eval()"
        )
    if form != "adapter":
        return markdown.block(_LOADING[phase].format(load=load, stops=""), "python")
    stops = ""
    if phase == "sft":  # the base model's own settings do not know the end token that the adapter has learnt
        load += "\nsettings = GenerationConfig.from_pretrained(folder)"
        stops = ", generation_config=settings"
    code = f"from peft import PeftModel\n{_LOADING[phase].format(load=load, stops=stops)}"
    if phase == "sft":
        code = code.replace("AutoTokenizer\n", "AutoTokenizer, GenerationConfig\n", 1)
    return markdown.block(code, "python")


def _data(made: Trained) -> str:
    if not made.sources:
        names = ", ".join(markdown.code(public(source.path)) for source in made.recipe.data.sources)
        return f"Trained on {names}."
    rows = ["| source | shape of its rows | read | to train | to validate | left out |", "|---|---|---|---|---|---|"]
    for source in made.sources:
        used = source.get(made.phase) or {}
        shapes = ", ".join(source.get("shapes") or []) or "none"
        reasons = {**(source.get("dropped") or {}), **(used.get("dropped") or {})}
        left = "; ".join(f"{count:,}: {markdown.plain(reason)}" for reason, count in reasons.items()) or "none"
        counts = " | ".join(f"{count:,}" for count in (source["read"], used.get("train", 0), used.get("validation", 0)))
        name = markdown.code(public(source["path"]), cell=True)
        rows.append(f"| {name} | {markdown.plain(shapes)} | {counts} | {left} |")
    return "\n".join(rows)


def _settings(made: Trained) -> dict[str, Any]:
    """What the weights depend on; folders of this machine are nobody's business."""
    recipe = without_secrets(made.recipe.model_dump(mode="json"))
    kept = {key: recipe[key] for key in ("seed", "model", "data", made.phase, "deepspeed")}
    kept["model"]["name"] = public(kept["model"]["name"])
    for source in kept["data"]["sources"]:
        source["path"] = public(source["path"])
    kept["deepspeed"].pop("nvme")
    kept["data"]["template"] = public(kept["data"]["template"])
    return kept


def _versions() -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return f"rlhf {__version__}, Python {platform.python_version()}, {packages}"
