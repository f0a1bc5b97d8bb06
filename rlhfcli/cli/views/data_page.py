"""Writes the counts and examples of ``rlhf prepare-data`` as one page, without scripts and without the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rlhfcli.cli.views import data_view, preview_view
from rlhfcli.data.encoding.preview import PreviewDialogue
from rlhfcli.errors import OutputError
from rlhfcli.files.atomic import write_file
from rlhfcli.recipe.schema import Recipe
from rlhfcli.words import visible

_MARK = "<!-- rlhf prepare-data -->"
_PAGE = (
    "<!doctype html>\n"
    + _MARK
    + """
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data of {{ name }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5d6875; --paper: #fdfdfc; --line: #dcdfe3;
        --said: #0b6b3a; --said-back: #e3f4ea; --bar: #3f7fbf; --warn: #8a5a00; --warn-back: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde3ea; --soft: #93a0ae; --paper: #15191e; --line: #333b45;
          --said: #8fe0b0; --said-back: #163526; --bar: #5c9bd6; --warn: #f2c869; --warn-back: #3a2e12; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.warning { background: var(--warn-back); color: var(--warn); padding: .6rem .9rem; border-radius: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; margin-top: 2.2rem; }
.charts > div { flex: 1 1 22rem; }
.bin { display: grid; grid-template-columns: 7.5rem 4.5rem 1fr; gap: .6rem; font-size: .85rem; line-height: 1.45;
       font-variant-numeric: tabular-nums; }
.bin span { text-align: right; } .bin i { display: block; height: .75rem; margin: .22rem 0; background: var(--bar);
       border-radius: 2px; min-width: 1px; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: .9rem 0; }
.lines { white-space: pre-line; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.trained { color: var(--said); background: var(--said-back); } .template { color: var(--soft); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; margin-top: .8rem;
       border-top: 1px solid var(--line); padding-top: .8rem; }
.fork { color: var(--bar); font-weight: bold; }
@media (max-width: 40rem) {  /* a telephone: every row a block of its own, each figure below its name */
  body { padding: 1.25rem 1rem 3rem; }
  table, tbody { display: block; } thead { display: none; }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(4rem, 1fr)); gap: .1rem .6rem;
       border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { padding: 0; overflow-wrap: anywhere; } td.number { text-align: left; }
  td:not(.number) { grid-column: 1 / -1; } td:first-child { font-weight: 600; } td:empty { display: none; }
  td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .75rem; line-height: 1.3; }
  .bin { grid-template-columns: 6.5rem 3.5rem 1fr; } article { padding: .7rem .8rem; }
}
</style>
</head>
<body>
<h1>Data of {{ name }}</h1>
<p class="soft">template {{ template }}, at most {{ max_length }} tokens, seed {{ seed }}</p>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div class="wide"><table>
<thead><tr>{% for column in table.columns -%}
<th{% if column.number %} class="number"{% endif %}>{{ column.name }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row -%}
{% set column = table.columns[loop.index0] -%}
<td data-name="{{ column.name }}"{% if column.number %} class="number"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if table.note %}<p class="soft lines">{{ table.note }}</p>{% endif %}
{% endfor %}
<div class="charts">
{% for histogram in histograms %}<div><h3>{{ histogram.title }}</h3>
{% for label, rows, share in histogram.bins -%}
<div class="bin"><span>{{ label }}</span><span class="soft">{{ "{:,}".format(rows) }}</span>
<div>{% if rows %}<i style="width: {{ "%.1f" | format(100 * share) }}%"></i>{% endif %}</div></div>
{% endfor %}</div>
{% endfor %}</div>
<h2>Examples</h2>
<p class="soft"><span class="trained">trained on</span>, <span class="template">words of the template</span>,
<span class="fork">▸</span> where the answers part</p>
{% macro pieces(found) %}<div class="text">{% for piece in found -%}
<span class="{{ 'trained' if piece.trained }} {{ 'template' if piece.template and not piece.trained }}">
{{- piece.text }}</span>
{%- endfor %}</div>{% endmacro %}
{% for each in shown %}<article>
<p class="soft">{{ each.title }}</p>
{% if each.example is dialogue %}{{ pieces(each.example.pieces) }}
{% else %}{{ pieces(each.example.prompt) }}
{% if each.example | comparisons %}<p class="soft">{{ each.example | comparisons }}</p>{% endif %}
<div class="answers">{% for answer in each.example.answers -%}
<div><h3>{{ (each.example | names)[loop.index0] }}</h3><div class="text"><span class="template">
{{- each.example.shared }}</span><span class="fork">▸</span>{{ answer }}</div></div>
{%- endfor %}</div>{% endif %}
</article>
{% endfor %}</body>
</html>
"""
)


def check(file: Path, *, overwrite: bool) -> None:
    """Check that the page may be written, before anything expensive; an older page is replaced.

    Args:
        file: File of the page.
        overwrite: Replace any file.

    Raises:
        OutputError: Another file is there, or the folder does not exist.
    """
    if file.is_dir():
        raise OutputError("this is a folder", where=str(file), hint="Name a file: --html data.html")
    if not file.parent.is_dir():
        raise OutputError("the folder is not there", where=str(file), hint=f"Make it: mkdir -p {file.parent}")
    if not file.exists() or overwrite:
        return
    try:
        with file.open(encoding="utf-8", errors="replace") as old:
            ours = _MARK in old.read(200)
    except OSError:
        ours = False
    if not ours:
        raise OutputError("this file exists", where=str(file), hint="Choose another name, or add --overwrite.")


def write(file: Path, recipe: Recipe, manifest: Mapping[str, Any], shown: Sequence[preview_view.Shown]) -> None:
    """Write the page.

    Args:
        file: File of the page.
        recipe: Recipe of the data.
        manifest: Manifest of the prepared data, with ``overlap`` where it was searched for.
        shown: Examples.

    Raises:
        OutputError: The file cannot be written.
    """
    write_file(file, page(recipe, manifest, shown))


def _harmless(value: Any) -> Any:
    """Replace control characters by signs; the page's own markup stays."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def page(recipe: Recipe, manifest: Mapping[str, Any], shown: Sequence[preview_view.Shown]) -> str:
    """Return the page; text of the data is escaped, and never read as HTML.

    Args:
        recipe: Recipe of the data.
        manifest: Manifest of the prepared data, with ``overlap`` where it was searched for.
        shown: Examples.

    Returns:
        HTML.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_harmless)
    environment.filters.update(comparisons=preview_view.comparisons, names=preview_view.answer_names)
    environment.tests["dialogue"] = lambda example: isinstance(example, PreviewDialogue)
    return environment.from_string(_PAGE).render(
        name=recipe.output_dir,
        template=recipe.data.template,
        max_length=f"{recipe.data.max_length:,}",
        seed=manifest["seed"],
        warnings=data_view.warnings(manifest),
        tables=data_view.tables(manifest),
        histograms=data_view.histograms(manifest),
        shown=shown,
    )
