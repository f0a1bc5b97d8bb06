"""Takes secrets out of command lines before they are written down: ``run.json`` is read by others."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
_NAMES = r"(?:api_?key|key|token|secret|password|passwd|credentials?)"
_PATTERNS = (
    # a setting whose name says it: logging.wandb_key=…, {wandb_key: …}, --hf-token=…
    (re.compile(rf"(?i)((?<![a-z0-9]){_NAMES}[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}\]]+)"), rf"\1{HIDDEN}"),
    # user:password@host
    (re.compile(r"(\w://)[^/\s@]+@"), rf"\1{HIDDEN}@"),
    # what hubs and clouds give out, wherever it stands
    (re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"), HIDDEN),
)
_OPTION = re.compile(rf"(?i)-{{1,2}}(?:[a-z0-9]+[-_])*{_NAMES}")


def command_line(arguments: Sequence[str]) -> str:
    """A command line as one text, without what looks like a secret.

    Args:
        arguments: As the shell gave them.

    Returns:
        The text; each secret is ``***``.
    """
    shown: list[str] = []
    for argument in arguments:
        if shown and _OPTION.fullmatch(shown[-1]) and not argument.startswith("-"):
            argument = HIDDEN
        for pattern, hidden in _PATTERNS:
            argument = pattern.sub(hidden, argument)
        shown.append(argument)
    return " ".join(shown)
