"""``rlhf prepare-data``: check, split and tokenise the data; show what the model will learn from."""

from __future__ import annotations

import json

from rlhfcli.cli.common import JsonOption, OfflineOption, OverwriteOption, RecipeOption, SetOption


def prepare_data(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check, split and tokenise the data; show what the model will learn from.

    Every row that cannot be used is named with its file, line and reason in data/rejected_rows.jsonl. A second run of
    the same recipe answers from what is already there.
    """
    from rlhfcli import console
    from rlhfcli.cli import tables, work

    job = work.begin(recipe, overrides or [], offline=offline)
    work.claim(job, "data", overwrite=overwrite)
    prepared = work.prepare(job, work.tokenizer_of(job))
    if as_json:
        console.result(json.dumps(prepared.manifest, ensure_ascii=False))
        return
    console.result(tables.data_tables(prepared.manifest))
    console.next_steps(["rlhf sft", "rlhf reward", "rlhf run"])
