"""Text and numbers as a reader sees them. Text from data is foreign: nothing in it may act.

Escaping for HTML is the template engine's; here is what escaping leaves: characters that do not
show, that reorder what does, or that no file can hold.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

NOT_MEASURED = "not measured"
_KEPT_CONTROLS = frozenset("\n\t")
# Joiners belong to emoji and to several scripts; they neither hide nor reorder text.
_KEPT_FORMATS = frozenset("\u200c\u200d")
_HIDDEN_SELECTORS = range(0xE0100, 0xE01F0)  # variation selectors that can carry hidden bytes
_SHOWN_ID_CHARACTERS = 12
_MAX_MARKS = 4  # combining marks in a row; scripts use up to three, stacks of them cover the page


def visible(text: str) -> str:
    """Spell out characters that hide, reorder or break text, as in ⟨U+202E⟩.

    Args:
        text: Anything, lone surrogates included.

    Returns:
        Text that shows all it holds and can be written as UTF-8. Line ends are newlines.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = (
            (category == "Cc" and character not in _KEPT_CONTROLS)
            or (category == "Cf" and character not in _KEPT_FORMATS)
            or category in ("Cs", "Zl", "Zp")
            or ord(character) in _HIDDEN_SELECTORS
            or marks > _MAX_MARKS
        )
        shown.append(f"⟨U+{ord(character):04X}⟩" if hidden else character)
    return "".join(shown)


def clipped(text: str, limit: int) -> tuple[str, str]:
    """Return the first characters of a text and a note on its full length, "" when whole."""
    if len(text) <= limit:
        return text, ""
    return text[:limit], f"first {limit:,} of {len(text):,} characters"


def number(value: float | int | None) -> str:
    """Return a number with 3 significant digits and thousands separators.

    Digits before the decimal point are never rounded away; counts are shown whole.
    """
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if isinstance(value, int):
        return f"{value:,}"
    rounded = float(f"{value:.2e}")
    if rounded == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(rounded)))
    if magnitude < -4 or magnitude > 14:
        return f"{value:.2e}"
    return f"{value:,.{max(0, 2 - magnitude)}f}"


def percent(rate: float | None) -> str:
    """Return a rate in [0, 1] as a percentage with 3 significant digits."""
    if rate is None or not math.isfinite(rate):
        return NOT_MEASURED
    if rate == 1:
        return "100%"  # without digits that would speak of precision
    return f"{number(100 * float(rate))}%"


def share(part: int, whole: int) -> str:
    """Return a count's share of another as a percentage, "" without a whole."""
    return percent(part / whole) if whole else ""


def duration(seconds: float | None) -> str:
    """Return a time in the largest two of hours, minutes and seconds."""
    if seconds is None or not math.isfinite(seconds):
        return NOT_MEASURED
    if seconds < 60:
        return f"{number(float(seconds))} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def short_id(identifier: str) -> str:
    """Return the first characters of a long id and, of tamis' own ids, an occurrence above 0."""
    if len(identifier) <= _SHOWN_ID_CHARACTERS:
        return identifier
    stem, _, occurrence = identifier.rpartition("-")
    repeated = f"-{occurrence}" if stem and occurrence.isdigit() and occurrence != "0" else ""
    return f"{identifier[:8]}…{repeated if len(repeated) <= 4 else ''}"


def setting(value: Any) -> str:
    """Return a setting's value as YAML would show it, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(setting(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) + "}"
    return str(value)
