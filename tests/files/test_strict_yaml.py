"""YAML: plain values by version 1.2, and the line of every key. Errors: ``tests/recipe/test_messages.py``."""

import pytest

from rlhfcli.files import strict_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-5", 1e-5),
            ("1E5", 1e5),
            ("-.5", -0.5),
            ("4.", 4.0),
            (".inf", float("inf")),
            ("0", 0),
            ("+3", 3),
        ),
        *(
            ("012", 12),
            ("0o12", 10),
            ("0x1F", 31),
            ("1_000", "1_000"),
            ("1:30", "1:30"),
            ("2026-01-01", "2026-01-01"),
        ),
        *(
            ("no", "no"),
            ("yes", "yes"),
            ("on", "on"),
            ("off", "off"),
            ("true", True),
            ("False", False),
            ("y", "y"),
        ),
        *(
            ("null", None),
            ("~", None),
            ("", None),
            ('"3"', "3"),
            ("'true'", "true"),
            ("=", "="),
            ("<<", "<<"),
        ),
        *(("9" * 5000, "9" * 5000), ("1e", "1e"), ("e5", "e5"), ("builtin:tiny", "builtin:tiny")),
    ],
)
def test_plain_values_follow_yaml_1_2(text, value):
    found = strict_yaml.read(f"a: {text}\n", "f").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_lines_of_keys_and_of_list_entries():
    document = strict_yaml.read("a:\n  - b: 1\n\n    c: 2\n  - {d: 3}\n", "f")
    assert document.data == {"a": [{"b": 1, "c": 2}, {"d": 3}]}
    assert document.line(("a", 0, "c")) == 4
    assert document.line(("a", 1, "d")) == 5
    assert document.line(("a", 1, "missing")) == 5
    assert document.line(("nowhere",)) == 0


def test_an_alias_is_its_anchor():
    assert strict_yaml.read("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}
