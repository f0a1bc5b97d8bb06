"""``rlhf chat``: talk to the model, see the reward of each reply."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhfcli.cli.shared.options import LabelOption, OfflineOption, RecipeOption, SetOption, open_project

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
    project = open_project(recipe, overrides, "chat" if model is None else "", offline=offline, brief=True)
    session = project.chat(model, reward, label=label)

    from rlhfcli.chat.terminal import answer_once, run_terminal

    if prompt is None:
        run_terminal(session)
    else:
        answer_once(session, prompt)
