"""The schema of a recipe: every key with its meaning, unit, range and default. Defaults live here and nowhere else.

Sections are strict (``"3"`` is not 3), frozen, and refuse unknown keys; ``loader`` reports the problems.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Sets = dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]]
Probability = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    """The base model that both phases start from."""

    name: str = Field(min_length=1, description="hub name, local folder, or builtin:tiny; any causal language model")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="precision of the computation; auto: bf16 where the hardware has it, else fp32"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    dropout: Share = Field(
        0.0,
        description="replaces every dropout rate above zero in the model's own config; 0: no dropout; layers are never "
        "dropped",
    )
    trust_remote_code: bool = Field(
        False,
        description="run Python code that comes with the model; counts with --set and in a recipe file of your own, "
        "not in the recipe of a run folder, which may be somebody else's",
    )
    label: int | str | None = Field(
        None,
        description="of a reward model with several outputs (init_from: base): name or number, from 0, of the one that "
        "is the reward",
    )


class SourceSection(Section):
    """One source of rows."""

    path: str = Field(
        min_length=1,
        description="hub name, file (.jsonl .ndjson .json .csv .tsv .parquet .arrow, or .gz .zst .bz2 .xz of these), "
        "folder, pattern (data/*.jsonl), or builtin:tiny",
    )
    format: str = Field(
        "auto",
        description="row shape: messages, sharegpt, alpaca, pairs ..., or a data set of the catalogue; "
        "auto: look at the rows",
    )
    columns: dict[str, str] = Field(
        {}, description="names that the shape knows for columns with other names: {prompt: question, chosen: best}"
    )
    subset: str | None = Field(
        None, description="configuration of a data set that has several: of the hub, or of a folder"
    )
    split: str | None = Field(None, description="which split, where the source has several; left out: train")
    weight: float = Field(1.0, gt=0, description="share of the rows that is used; 2.0 takes every row twice")
    limit: Positive | None = Field(None, description="use at most this many rows")
    phase: Literal["both", "sft", "reward"] = Field(
        "both", description="which phase learns from it; SFT learns the chosen answers of preference rows"
    )


class PhaseSplitSection(Section):
    """Relative shares of the conversations for the three phases of RLHF."""

    sft: float = Field(ge=0, description="share of phase 1")
    reward: float = Field(ge=0, description="share of phase 2")
    rlhf: float = Field(0.0, ge=0, description="kept aside for a later PPO phase")


class DataSection(Section):
    """The training data."""

    sources: list[SourceSection] = Field(min_length=1, description="where rows come from")
    template: str = Field(
        "human_assistant",
        description="how turns become text: human_assistant (DeepSpeed-Chat's words), model (the tokenizer's own), "
        "or a .jinja file",
    )
    max_length: int = Field(512, ge=8, description="tokens; longer dialogues are cut by the truncation policy")
    truncation: Literal["drop_oldest_turns", "keep_start", "drop"] = Field(
        "drop_oldest_turns", description="what to do with a dialogue that is longer than max_length"
    )
    phase_split: PhaseSplitSection | None = Field(None, description="without it both phases use all rows")
    validation: float = Field(0.02, gt=0, lt=1, description="share of the conversations kept aside to measure with")
    split_by: Literal["conversation", "row"] = Field(
        "conversation",
        description="what is never divided between two parts: a conversation is all rows that begin with the same "
        "question; row is for data with one question only",
    )
    duplicates: Literal["drop", "drop_exact", "keep"] = Field(
        "drop",
        description="rows that repeat an earlier one: drop, also those that differ in upper case or white space only; "
        "drop_exact, only those with the same text; keep",
    )


class LoraSection(Section):
    """Low-rank adaptation: a trained product ``B A`` of small rank beside each frozen weight."""

    rank: Positive = Field(16, description="inner dimension of the update")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: Share = Field(
        0.0, description="on the input of the update; experts stacked in one parameter are adapted with 0 only"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead")
    targets: str | list[str] = Field(
        "all-linear",
        description="all-linear (with the experts of a mixture, without its routers), or names (or ends "
        "of names) of the layers and experts to adapt, such as q_proj or experts.down_proj",
    )


class ScheduleSection(Section):
    """The learning rate schedule."""

    name: Literal["cosine", "linear", "constant"] = Field("cosine", description="its decay after the warm-up")
    warmup_ratio: Share = Field(0.03, description="share of the steps in which the rate rises from zero")
    final_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="rate of the last step as a share of the highest; 0 would be reached one step later, so that every "
        "step has an effect",
    )


class PhaseSection(Section):
    """The settings that both training phases have."""

    lora: LoraSection | None = Field(None, description="leave out for full fine-tuning")
    epochs: float = Field(1.0, gt=0, description="passes over the training rows; may be a fraction")
    max_steps: Positive | None = Field(None, description="stop after this many optimizer steps")
    batch_size: Positive = Field(64, description="sequences (or pairs) per optimizer step, all devices together")
    micro_batch_tokens: int = Field(
        8192, ge=8, description="tokens that one device holds at a time; gradient accumulation is derived"
    )
    learning_rate: float = Field(gt=0, description="AdamW's, at its highest")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, not on biases and norms")
    betas: tuple[Share, Share] = Field((0.9, 0.95), strict=False, description="AdamW's moments")
    max_grad_norm: float = Field(1.0, gt=0, description="clip the gradient to this norm")
    schedule: ScheduleSection = Field(ScheduleSection(), description="the learning rate schedule")


class SftSection(PhaseSection):
    """Phase 1: supervised fine-tuning."""

    learning_rate: float = Field(2e-5, gt=0, description="AdamW's, at its highest; LoRA wants about ten times more")
    loss_on: Literal["assistant", "last", "all"] = Field(
        "assistant",
        description="train on the assistant's turns, on the last one of each dialogue, or on every token as "
        "DeepSpeed-Chat does",
    )


class RewardLossSection(Section):
    """Bradley-Terry's pairwise loss and its variations."""

    name: Literal["bradley_terry"] = Field("bradley_terry", description="-log sigmoid(chosen - rejected)")
    margin: bool = Field(False, description="subtract the margin column of the data from the score difference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="probability that a label is taken to be wrong")
    centering: float = Field(0.01, ge=0, description="weight of the squared sum of both scores; keeps them near zero")


class RewardSection(PhaseSection):
    """Phase 2: the reward model."""

    learning_rate: float = Field(1e-5, gt=0, description="AdamW's, at its highest; LoRA wants about ten times more")
    init_from: Literal["sft", "base"] = Field("sft", description="the fine-tuned model, or the base model")
    pooling: Literal["last", "mean", "tokenwise"] = Field(
        "last",
        description="last: score of the end token; mean: over the answer; tokenwise: DeepSpeed-Chat's loss over the "
        "differing tokens",
    )
    loss: RewardLossSection = Field(RewardLossSection(), description="the pairwise loss")


def _named(files: str | dict[str, str] | None) -> dict[str, str]:
    return {} if files is None else {"": files} if isinstance(files, str) else files


class EvalSection(Section):
    """Evaluation, during training and afterwards."""

    every: Positive = Field(200, description="optimizer steps between two evaluations on the validation part")
    batches: Literal["all"] | Positive = Field("all", description="how many of its batches, during training")
    prompts: str | Sets | None = Field(
        None,
        description="file of prompts for generated answers (messages, accepted answers, skill), or builtin:tiny; "
        "or several by name: {easy: a.jsonl, hard: b.jsonl}",
    )
    pairs: str | Sets | None = Field(
        None,
        description="file of pairs for ranking accuracy, or several by name; without it, the validation part",
    )
    samples: Positive = Field(8, description="answers shown side by side, before and after fine-tuning")

    @property
    def prompt_sets(self) -> dict[str, str]:
        """Files of ``prompts`` by name; a single file has an empty name."""
        return _named(self.prompts)

    @property
    def pair_sets(self) -> dict[str, str]:
        """Files of ``pairs`` by name; a single file has an empty name."""
        return _named(self.pairs)


class ChatSection(Section):
    """Sampling of answers."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    top_p: Probability = Field(0.9, description="draw from the smallest set of tokens with this probability")
    top_k: int = Field(0, ge=0, description="draw from this many tokens; 0: all")
    max_new_tokens: Positive = Field(256, description="longest answer, in tokens")


class DeepspeedSection(Section):
    """DeepSpeed: how the training state is distributed over the devices."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what is partitioned: 0 nothing, 1 optimizer states, 2 and gradients, 3 and parameters"
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="state in host memory; optimizer: its states and float32 weights (stages 1 to 3); all: the "
        "parameters, too (stage 3)",
    )
    nvme: str | None = Field(
        None,
        min_length=1,
        description="folder on a fast disk that holds offloaded state instead of memory; stage 3, needs libaio",
    )
    config: dict[str, Any] | str = Field(
        {},
        description="more of DeepSpeed's own configuration, or a JSON file of it; not the keys that the recipe decides",
    )


class CheckpointSection(Section):
    """Checkpoints, from which a stopped run resumes (``--resume``)."""

    every: Positive | None = Field(
        500, description="optimizer steps between two checkpoints; null: only when the run is asked to stop"
    )
    keep: Positive = Field(2, description="how many of the newest are kept; all are removed when the phase is finished")
    patience: Positive | None = Field(
        None, description="with best_by: stop after this many evaluations in a row without improvement; null: never"
    )
    best_by: Literal["loss", "accuracy"] | None = Field(
        None,
        description="also keep the checkpoint of the best evaluation, and save its weights at the end; loss: in the "
        "reward phase the nll, without centering, margin and smoothing; accuracy: of the ranking, in SFT of the "
        "tokens; null: the weights of the last step",
    )


class LoggingSection(Section):
    """Metrics during training."""

    every: Positive = Field(10, description="optimizer steps between two lines of metrics.jsonl")
    to: list[Literal["jsonl", "tensorboard", "wandb"]] = Field(
        ["jsonl"],
        description="where the metrics are written: always metrics.jsonl; also tensorboard (TensorBoard) and wandb "
        "(Weights & Biases), if installed",
    )


class Recipe(Section):
    """All settings of a project in one file; every verb reads it."""

    output_dir: str = Field(
        min_length=1, description="folder of the run: data, models, metrics and results go below it"
    )
    seed: int = Field(1234, ge=0, description="same seed, same order of the data, same new weights, same draws")
    model: ModelSection
    data: DataSection
    sft: SftSection = SftSection()
    reward: RewardSection = RewardSection()
    eval: EvalSection = EvalSection()
    chat: ChatSection = ChatSection()
    deepspeed: DeepspeedSection = DeepspeedSection()
    checkpoint: CheckpointSection = CheckpointSection()
    logging: LoggingSection = LoggingSection()
