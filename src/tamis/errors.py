"""Every error a user can fix, with what was given, why it cannot work and what to set.

::

    TamisError                          shown by the command line without traceback, exit code 2
      x ConfigError(ValueError)         unknown key, contradiction, bad value, missing input
      x DataError(ValueError)           a file or row that cannot be read
          x DuplicateIdError            ids that must be unique are not
          x NoTrainedTokensError        a row, or every row, has no token to learn from
          x TruncatedResponseError      a row is longer than allowed and the policy is "error"
      x MismatchError(ValueError)       scores, selection or checkpoint made for something else
      x MissingDependencyError(ImportError)   names the extra to install
      x JudgeError(RuntimeError)        too many answers could not be judged
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TamisError(Exception):
    """Base of all errors that the user can fix."""


class ConfigError(TamisError, ValueError):
    """A setting is unknown, contradicts another, is out of range, or an input is missing."""


class DataError(TamisError, ValueError):
    """A file or a row cannot be read as fine-tuning data."""


class DuplicateIdError(DataError):
    """Ids that must be unique occur more than once."""


class NoTrainedTokensError(DataError):
    """A row (or every row) has no token the loss is computed on."""


class TruncatedResponseError(DataError):
    """A row is longer than allowed and the user asked to be told."""


class MismatchError(TamisError, ValueError):
    """Scores, a selection or a checkpoint were made for another set, model or config."""


class MissingDependencyError(TamisError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class JudgeError(TamisError, RuntimeError):
    """More answers than allowed could not be judged."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], *, close_to: str | None = None
) -> ConfigError:
    """Build the error for an unknown name, with the closest known ones.

    Args:
        kind: What the name names, in the user's words ("method", "preset").
        name: What was given.
        known: What would have been accepted; of dotted names the last part is compared.
        close_to: What to compare with the known names; None is `name`.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    by_end = {known_name.rpartition(".")[2]: known_name for known_name in names}
    close = [by_end[end] for end in difflib.get_close_matches(close_to or name, by_end, n=2)]
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return ConfigError(f"{kind} {name!r} is unknown.{hint} Known: {', '.join(names)}.")
