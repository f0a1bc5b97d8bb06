"""Chats with the models of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rlhfcli.errors import ModelError
from rlhfcli.files import model_path, run_layout
from rlhfcli.files.run_layout import PHASES, REWARD, SFT
from rlhfcli.progress import Sink

if TYPE_CHECKING:
    from rlhfcli.chat.session import ChatSession
    from rlhfcli.recipe.schema import Recipe

NO_REWARD = "none"


def open_chat(recipe: Recipe, model: str | None, reward: str | None, label: str | None, sink: Sink) -> ChatSession:
    """Load the models of a chat.

    Args:
        recipe: Recipe of the run: its models, how answers are drawn, where saved conversations go.
        model: Another model or adapter folder than the run's fine-tuned model.
        reward: Another reward model than the run's; ``none``: replies are not scored.
        label: Which output is the reward, for a reward model that has several.
        sink: Receives the progress.

    Raises:
        ModelError: A model is not there or cannot be loaded.
    """
    run = Path(recipe.output_dir)
    own = {phase: str(run_layout.final(run, phase)) for phase in PHASES}
    if model is None and not os.path.isdir(own[SFT]):
        from rlhfcli.runs.commands import command_for

        raise ModelError(
            "there is no fine-tuned model to talk to yet",
            where=own[SFT],
            hint=f"Run {command_for(recipe, 'rlhf sft')} or rlhf run first, or name a folder: rlhf chat --model FOLDER",
        )
    scorer = None if reward == NO_REWARD else reward
    for named in filter(None, (model, scorer)):
        model_path.check(named, adapters=True)
    if reward is None and os.path.isdir(own[REWARD]):
        scorer = own[REWARD]
    with sink.stage("starting torch and transformers"):
        from rlhfcli.chat.session import ChatOptions, ChatSession
    options = ChatOptions(
        recipe.chat,
        template=recipe.data.template,
        seed=recipe.seed,
        saves=run_layout.saved_chats(run),
        trusted=frozenset(own.values()) if recipe.model.trust_remote_code else frozenset(),
        label=label,
    )
    with sink.stage("loading the model and the reward model" if scorer else "loading the model"):
        return ChatSession.open(model or own[SFT], scorer, options)
