"""Redaction of secrets in command lines and settings before they are saved: others read a run folder, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

HIDDEN = "***"
_NAMES = r"(?:api_?key|key|token|secret|password|passwd|credentials?)"
_PATTERNS = (
    # settings named like a secret: logging.wandb_key=…, {wandb_key: …}, --hf-token=…
    (re.compile(rf"(?i)((?<![a-z0-9]){_NAMES}[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}\]]+)"), rf"\1{HIDDEN}"),
    # user:password@host
    (re.compile(r"(\w://)[^/\s@]+@"), rf"\1{HIDDEN}@"),
    # tokens of hubs and clouds, anywhere: long, and without the separators of file names
    (
        re.compile(
            r"\b(?:(?:hf_|sk-|ghp_|gho_)[A-Za-z0-9]{20,}|sk-(?:proj|ant|or)-[A-Za-z0-9_-]{20,}|github_pat_\w{20,}|"
            r"glpat-[A-Za-z0-9_-]{20,}|xox[abp]-[A-Za-z0-9-]{20,}|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35})"
        ),
        HIDDEN,
    ),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), HIDDEN),  # a JSON web token
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*"), HIDDEN),
)
_KEY = re.compile(rf"(?i)(?:.*[^a-z0-9])?{_NAMES}")
_OPTION = re.compile(rf"(?i)-{{1,2}}(?:[a-z0-9]+[-_])*{_NAMES}")


def command_line(arguments: Sequence[str]) -> str:
    """Join a command line into one text in which each secret is replaced by ``***``.

    Args:
        arguments: As received from the shell.
    """
    shown: list[str] = []
    for argument in arguments:
        if shown and _OPTION.fullmatch(shown[-1]) and not argument.startswith("-"):
            argument = HIDDEN
        for pattern, hidden in _PATTERNS:
            argument = pattern.sub(hidden, argument)
        shown.append(argument)
    return " ".join(shown)


def without_secrets(settings: Any) -> Any:
    """Return a copy of settings in which each secret, by its key or its value, is replaced by ``***``.

    Args:
        settings: Dictionaries, lists and plain values.
    """
    return _redacted(settings, secret=False)


def hidden_keys(settings: Any, key: str = "") -> Iterator[str]:
    """List the dotted keys of redacted values.

    Args:
        settings: As returned by ``without_secrets``.
        key: Dotted key of these settings; empty at the top.

    Yields:
        One key for each redacted value.
    """
    if isinstance(settings, dict | list):
        inner = settings.items() if isinstance(settings, dict) else enumerate(settings)
        for name, value in inner:
            yield from hidden_keys(value, f"{key}.{name}".lstrip("."))
    elif isinstance(settings, str) and HIDDEN in settings:
        yield key


def _redacted(value: Any, *, secret: bool) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(inner, secret=_KEY.fullmatch(str(key)) is not None) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner, secret=secret) for inner in value]
    if not isinstance(value, str):
        return value
    if secret and value:
        return HIDDEN
    for pattern, hidden in _PATTERNS:
        value = pattern.sub(hidden, value)
    return value
