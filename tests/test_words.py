"""Formatting of foreign text, sizes, shares and counts."""

import pytest

from rlhfcli import words


def test_control_characters_are_shown_and_not_obeyed():
    shown = words.visible("a\x1b[31mb\x07\r\x7f\x9b\u202e\u2028\udcffc\n\td")
    assert shown == "a\u241b[31mb\u2407\u240d\u2421\\x9b\\u202e\\u2028\\udcffc\n\td"
    assert words.visible("Grüße, 你好 – “ok” 👩‍🌾") == "Grüße, 你好 – “ok” 👩‍🌾"


@pytest.mark.parametrize("text", ["a\x1b", "\u202e", "\x85", "\udc80"])
def test_hidden_things_are_noticed(text):
    assert words.has_control_characters(text)
    assert not words.has_control_characters(words.visible(text))


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (4096, "4.10 kB"),
        (999_600, "1.00 MB"),
        (3_170_000, "3.17 MB"),
        (25_260_000_000, "25.3 GB"),
        (800e9, "800 GB"),
        (3e15, "3000 TB"),
    ],
)
def test_sizes(count, shown):
    assert words.size(count) == shown


def test_shares_counts_and_ranges():
    assert words.percent(0.3678) == "36.8 %"
    assert words.percent(0.98, 0) == "98 %"
    assert words.counted(1, "row") == "1 row"
    assert words.counted(12000, "row") == "12,000 rows"
    assert words.span("507", "1,493") == "507 – 1,493"
    assert words.span("3", "3") == "3"


def test_long_lists_are_shortened():
    assert words.shortened([]) == ""
    assert words.shortened(["a", "b", "c"]) == "a, b, c"
    assert words.shortened(["a", "b", "c", "d"]) == "a, b, c …"
    assert words.shortened(["a", "b"], 1) == "a …"
