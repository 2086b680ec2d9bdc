"""Numbers with three digits, and text that shows all it holds."""

from __future__ import annotations

import unicodedata

import pytest

from tamis.report.text import clipped, duration, number, percent, setting, short_id, visible


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not measured"), (float("nan"), "not measured"), (float("inf"), "not measured"),
        (0, "0"), (0.0, "0"), (1234567, "1,234,567"), (0.8765, "0.876"), (0.85, "0.850"),
        (9.999, "10.0"), (-3.14159, "-3.14"), (123.456, "123"), (12345.6, "12,346"),
        (0.000123456, "0.000123"), (0.0000123456, "1.23e-05"), (1e300, "1.00e+300"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | int | None, shown: str) -> None:
    """Three significant digits, thousands separators, no missing number as zero."""
    assert number(value) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(None, "not measured"), (0.0, "0%"), (1.0, "100%"), (0.425, "42.5%"), (0.00521, "0.521%"),
     (0.99999, "100%")],
)  # fmt: skip
def test_rates_are_shown_as_percentages(rate: float | None, shown: str) -> None:
    """A rate without data is never 0%."""
    assert percent(rate) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "not measured"), (3.14159, "3.14 s"), (59.99, "60.0 s"), (61, "1 min 1 s"),
     (3599.9, "1 h 00 min"), (7325, "2 h 02 min")],
)  # fmt: skip
def test_times_are_shown_in_two_units(seconds: float | None, shown: str) -> None:
    """Carried over, never 60 minutes."""
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [("demo-0001", "demo-0001"), ("9f3a12bc00112233-0", "9f3a12bc…"),
     ("9f3a12bc00112233-2", "9f3a12bc…-2"), ("a" * 64, "aaaaaaaa…")],
)  # fmt: skip
def test_long_ids_are_shortened(identifier: str, shown: str) -> None:
    """Short ones stay; the occurrence of a repeated row stays."""
    assert short_id(identifier) == shown


@pytest.mark.parametrize(
    "character",
    ["\u202e", "\u2066", "\u200b", "\u00ad", "\ufeff", "\x00", "\x1b", "\x85", "\ud800", "\u2028",
     "\U000e0041", "\U000e0100"],
)  # fmt: skip
def test_characters_that_do_not_show_are_spelled_out(character: str) -> None:
    """Direction marks, zero widths, controls, lone surrogates, tags that hide text."""
    assert visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


@pytest.mark.parametrize("text", ["plain", "a\n\tb", "naïve 日本語 עברית", "👩‍👩‍👧", "ก็ที่", "é"])
def test_ordinary_text_stays(text: str) -> None:
    """Scripts, emoji with joiners, accents, line ends and tabs."""
    assert visible(text) == text


def test_stacked_marks_are_cut_down() -> None:
    """A tower of combining marks cannot cover the lines above it."""
    shown = visible("z" + "\u0301" * 50)
    assert sum(unicodedata.category(c) == "Mn" for c in shown) == 4


def test_a_clipped_text_says_its_length() -> None:
    """What is shown and how much there is."""
    assert clipped("x" * 200_000, 3) == ("xxx", "first 3 of 200,000 characters")
    assert clipped("xxx", 3) == ("xxx", "")


def test_settings_read_as_yaml() -> None:
    """As they would be written in a config file."""
    assert setting({"a": [1, None, True], "b": "x"}) == "{a: [1, null, true], b: x}"
