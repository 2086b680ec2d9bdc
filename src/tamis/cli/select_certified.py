"""`tamis select --certificate`: the threshold of a certificate, for what was certified alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tamis.cli.certify_results import CERTIFICATE, REFUSED
from tamis.errors import ConfigError, MismatchError
from tamis.files import file_sha256
from tamis.selection.select import SelectConfig, Selection


class CertifiedScores(BaseModel):
    """The scores that a certificate is about."""

    sha256: str


class Certificate(BaseModel):
    """What a selection must know of a certificate; see `tamis.cli.certify_results`."""

    model_config = ConfigDict(frozen=True)

    certified: Literal[True]
    threshold: float
    readout: str | None
    n_kept: int
    alpha: float
    delta: float
    attempt: int = 1
    scores: CertifiedScores
    guarantee: str

    def refuse_other(self, rule: SelectConfig, scores: Path) -> None:
        """Refuse another threshold, readout or ranking than the certified one.

        Raises:
            MismatchError: Something differs (all of it is named).
        """
        differing = [
            f"{name} ({was!r} certified, {now!r} now)"
            for name, was, now in (("threshold", self.threshold, rule.threshold),
                                   ("readout", self.readout, rule.readout))
            if was != now
        ]  # fmt: skip
        if not scores.exists() or file_sha256(scores) != self.scores.sha256:
            differing.append(f"scores ({scores} is not what the rows were drawn from)")
        if differing:
            raise MismatchError(
                f"this certificate is about other {', '.join(differing)}, and says nothing of "
                "these. Give the ranking that it was made for, or draw and label rows for this one."
            )

    def details(self, file: Path, selection: Selection) -> dict[str, Any]:
        """Return what the selection's manifest says of its certificate.

        Raises:
            MismatchError: The selection keeps other rows than were certified.
        """
        n_kept = int(selection.kept.sum())
        if n_kept != self.n_kept:
            raise MismatchError(
                f"{self.n_kept:,} rows were certified and {n_kept:,} would be kept. Select from "
                "all ranked rows (as `tamis certify` prints it), with unscored=drop."
            )
        return {
            "rule": "certificate", "threshold": self.threshold, "alpha": self.alpha,
            "delta": self.delta, "attempt": self.attempt,
            "certificate": {"path": str(file.resolve()), "sha256": file_sha256(file)},
            "notes": [self.guarantee],
        }  # fmt: skip


def certificate_file(path: Path) -> Path:
    """Name the file of a certificate, which may be given by its folder."""
    return path / CERTIFICATE if path.is_dir() else path


def read_certificate(path: Path) -> Certificate:
    """Read a certificate, or the one in a folder of `tamis certify`.

    Raises:
        ConfigError: There is none, or the file is no certificate.
    """
    file = certificate_file(path)
    if file.with_name(REFUSED).exists():
        raise ConfigError(
            f"{file.with_name(REFUSED)} says that the labels certify nothing: there is no "
            "threshold to select by. See its `refusal`."
        )
    try:
        return Certificate.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror or error}. Give the folder in which `tamis "
            "certify --labels` has certified a threshold, or its certificate.json."
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{file} is no certificate that `tamis certify` wrote.") from error


def certified_flags(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Add a certificate's threshold and readout to what the flags of a selection gave.

    Raises:
        ConfigError: There is no certificate, or a flag says otherwise where to cut.
    """
    other = [f"--{name}" for name in ("ratio", "count", "threshold", "rule") if name in asked]
    if other:
        raise ConfigError(f"--certificate says where to cut: leave out {' and '.join(other)}.")
    found = read_certificate(path)
    return {**asked, "threshold": found.threshold, "readout": found.readout}
