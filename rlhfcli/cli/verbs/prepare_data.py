"""``rlhf prepare-data``: check, split and tokenise the data; show what the model will learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlhfcli.cli.shared.options import JsonOption, OfflineOption, OverwriteOption, RecipeOption, SetOption
from rlhfcli.errors import UserError

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
    from rlhfcli.cli.shared import work
    from rlhfcli.cli.views import data_page, preview_view, tables

    if as_json and preview and html is None:
        raise UserError("--json prints no examples", hint="Leave out --json or --preview, or add --html FILE.")
    if html is not None:
        data_page.check(html, overwrite=overwrite)
    job = work.begin(recipe, overrides or [], offline=offline)
    with work.holding(job):
        work.claim(job, "data", overwrite=overwrite)
        prepared, tokenizer = work.prepare_or_take(job, strict=strict, anew=overwrite)
    manifest = prepared.manifest | {"overlap": work.overlap(job, prepared)}
    loss_on = job.recipe.sft.loss_on
    if html is not None:
        shown = preview_view.choose(prepared, tokenizer(), loss_on, preview or _ON_PAGE)
        data_page.write(html, job.recipe, manifest, shown)
        console.message(f"wrote {html}")
    if as_json:
        console.result(json.dumps(manifest, ensure_ascii=False))
        return
    console.result(tables.data_tables(manifest))
    if preview:
        shown = preview_view.choose(prepared, tokenizer(), loss_on, preview)
        console.result(preview_view.previews(shown, console.results))
    work.next_steps(job, "rlhf sft", "rlhf reward", "rlhf run")
