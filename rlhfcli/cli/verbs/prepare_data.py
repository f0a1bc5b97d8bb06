"""``rlhf prepare-data``: check, split and tokenise the data; show what the model will learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli.cli.shared.options import (
    JsonOption,
    OfflineOption,
    OverwriteOption,
    RecipeOption,
    SetOption,
    open_project,
)
from rlhfcli.errors import UserError

if TYPE_CHECKING:
    from rlhfcli.api.project import Project
    from rlhfcli.api.results import PreparedData
    from rlhfcli.cli.views.preview_view import Shown

StrictOption = Annotated[bool, typer.Option("--strict", help="End with an error if a row cannot be used.")]
PreviewOption = Annotated[
    int | None,
    typer.Option(
        "--preview",
        metavar="N",
        min=1,
        help="Show N training examples of each phase: what is trained on, where answers part.",
        show_default=False,
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write it all as one page for a browser.", show_default=False),
]
_ON_PAGE = 20  # examples of each phase, if --preview does not say how many


def prepare_data(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
    strict: StrictOption = False,
    preview: PreviewOption = None,
    html: HtmlOption = None,
) -> None:
    """Check, split and tokenise the data; show what the model will learn from.

    Every row that cannot be used is named with its file, line and reason in data/rejected_rows.jsonl. A second run of
    the same recipe answers from what is already there.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.views import data_page, preview_view, tables

    if as_json and preview and html is None:
        raise UserError("--json prints no examples", hint="Leave out --json or --preview, or add --html FILE.")
    if html is not None:
        data_page.check(html, overwrite=overwrite)
    project = open_project(recipe, overrides, offline=offline)
    data = project.prepare(overwrite=overwrite, strict=strict)
    if html is not None:
        data_page.write(html, project.recipe, data.manifest, _examples(project, data, preview or _ON_PAGE))
        console.message(f"wrote {html}")
    if as_json:
        console.result(json.dumps(data.manifest, ensure_ascii=False))
        return
    console.result(tables.data_tables(data.manifest))
    if preview:
        console.result(preview_view.previews(_examples(project, data, preview), console.results))
    show_next(project.recipe, "rlhf sft", "rlhf reward", "rlhf run")


def _examples(project: Project, data: PreparedData, count: int) -> list[Shown]:
    """Choose training examples of each phase to show."""
    from rlhfcli.cli.views import preview_view

    return preview_view.choose(data.store, data.load_tokenizer(), project.recipe.sft.loss_on, count)
