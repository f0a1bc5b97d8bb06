"""``rlhf chat``: talk to the model, see the reward of each reply."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console
from rlhfcli.cli.shared.options import LabelOption, OfflineOption, RecipeOption, SetOption

if TYPE_CHECKING:
    from rlhfcli.chat.session import ChatSession
    from rlhfcli.recipe.schema import Recipe


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="FOLDER", help="Talk to this model or adapter folder, not the run's."),
]
RewardOption = Annotated[
    str | None, typer.Option("--reward", metavar="FOLDER", help="Model or adapter folder that scores; or none.")
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Answer this one message and exit.")
]


def chat(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    model: ModelOption = None,
    reward: RewardOption = None,
    label: LabelOption = None,
    prompt: PromptOption = None,
    offline: OfflineOption = False,
) -> None:
    """Talk to the fine-tuned model over several turns, and see the reward of each reply.

    Works in a pipe, too: one line of input is one turn. Type /help for the commands.
    """
    from rlhfcli import launch
    from rlhfcli.cli.shared.options import open_project
    from rlhfcli.cli.shared.typed import typed
    from rlhfcli.errors import ModelError
    from rlhfcli.files import model_place, run_layout
    from rlhfcli.files.run_layout import PHASES, REWARD, SFT

    launch.in_this_process(offline=offline)
    settings = open_project(recipe, overrides or [], "chat" if model is None else "").recipe
    run = Path(settings.output_dir)
    if model is None and not os.path.isdir(run_layout.final(run, SFT)):
        raise ModelError(
            "there is no fine-tuned model to talk to yet",
            where=str(run_layout.final(run, SFT)),
            hint=f"Run {typed('rlhf sft', settings)} or rlhf run first, or name a folder: rlhf chat --model FOLDER",
        )
    for named in (model, reward):
        if named not in (None, "none"):
            model_place.check(named, adapters=True)
    own = {phase: str(run_layout.final(run, phase)) for phase in PHASES}
    if reward is None and os.path.isdir(own[REWARD]):
        reward = own[REWARD]

    scorer = None if reward in (None, "none") else reward
    trusted = list(own.values()) if settings.model.trust_remote_code else []
    session = _open(settings, (model or own[SFT], scorer, label), trusted)

    from rlhfcli.chat.terminal import answer_once, run_terminal

    if prompt is None:
        run_terminal(session)
    else:
        answer_once(session, prompt)


def _open(settings: Recipe, names: tuple[str, str | None, str | None], trusted: list[str]) -> ChatSession:
    """Load what a chat needs, and say so: it takes a while.

    Args:
        settings: The recipe.
        names: The model, the reward model, and which of its outputs counts.
        trusted: Those whose own code may run.
    """
    model, reward, label = names
    sink = console.TerminalSink()
    with sink.stage("starting torch and transformers"):
        from rlhfcli.chat.session import open_session
    with sink.stage("loading the model and the reward model" if reward else "loading the model"):
        return open_session(
            model,
            reward,
            settings.chat,
            template=settings.data.template,
            seed=settings.seed,
            saves=Path(settings.output_dir) / "chat" / "chats.jsonl",
            trusted=trusted,
            label=label,
        )
