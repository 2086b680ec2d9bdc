r"""DSIR: prefer rows written in the n-grams of the safe set (Xie et al., NeurIPS 2023).

    tokens of x     matches of \w+|[^\w\s]+ in the lower-cased text
    n-grams of x    all runs of 1 to N tokens, joined by a blank
    b(g)          = SHA-256(g) mod B                                       bucket of an n-gram
    c_b(x)        = n-grams of x in bucket b
    P_S(b)        = sum_{x in S} c_b(x) / sum_{x in S} sum_b' c_b'(x)      share of a set's n-grams
    r_b           = log(P_safe(b) + eps) - log(P_other(b) + eps)           nats
    sum:   w(x)   = sum_b r_b c_b(x)                                       as published
    mean:  w(x)     / sum_b c_b(x)                                         the default

`other` is the fine-tuning set, as published, or the harmful set. The first asks whether a row is
more like the safe set than like its neighbours, the second whether it is more like the safe rows
than like the harmful ones. Both are likelihood ratios of bags of words.

Shapes: n rows, B buckets.

Source: Xie, Santurkar, Ma, Liang 2023, arXiv:2302.03169; the package data-selection 1.0.3
(p-lambda/dsir, hashed_ngram_dsir.py), whose buckets and weights these are.
Differs: scores belong to row ids, and no row is dropped for being short (there: under 100 tokens);
the weight may be a mean, because a sum makes long rows extreme; weights are ranked as they are, as
with its `top_k=True`, without Gumbel noise; shares are always those of all rows; the harmful set as
the other side is ours. Words are cut by Python's `re`, as in the package with nltk 3.9.1; with nltk
3.10.4 it uses another engine, which keeps combining marks in the word and cuts superscripts off.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tamis.data.example import Example, Examples
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Text = Literal["prompt", "response", "both"]
Floats = NDArray[np.float64]
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_ROLES = {
    "prompt": ("system", "user"),
    "response": ("assistant",),
    "both": ("system", "user", "assistant"),
}
REPORT_EVERY = 1_000  # rows
MANY_UNSEEN = 0.01  # share of n-grams: each costs so much that this few can decide a mean


def row_text(example: Example, text: Text) -> str:
    """Join the turns that are read, one a line; n-grams run across turns."""
    return "\n".join(m.content for m in example.messages if m.role in _ROLES[text])


def tokens(text: str) -> list[str]:
    """Cut lower-cased text into runs of letters and digits, and runs of other marks."""
    return _TOKEN.findall(text.lower())


def ngrams(words: Sequence[str], longest: int) -> Iterator[str]:
    """Yield all runs of 1 to `longest` words, joined by a blank."""
    for n in range(1, longest + 1):
        for start in range(len(words) - n + 1):
            yield " ".join(words[start : start + n])


def bucket(ngram: str, n_buckets: int) -> int:
    """Return SHA-256 of the UTF-8 bytes, read as one big-endian number, mod `n_buckets`."""
    return int.from_bytes(hashlib.sha256(ngram.encode()).digest(), "big") % n_buckets


class NGramCounts(NamedTuple):
    """What is counted of a set.

    Attributes:
        counts: c_b(x) (int32, n x B), sparse.
        n_tokens: Tokens of every row (int64, n).
    """

    counts: csr_array
    n_tokens: NDArray[np.int64]


def count_ngrams(texts: Iterable[str], longest: int, n_buckets: int) -> NGramCounts:
    """Count every text's n-grams by bucket; 8 bytes for each bucket that a text fills."""
    from scipy.sparse import csr_array

    places, counts, starts, n_tokens = array("i"), array("i"), array("q", [0]), array("q")
    for text in texts:
        words = tokens(text)
        found = sorted(Counter(bucket(g, n_buckets) for g in ngrams(words, longest)).items())
        places.extend(place for place, _ in found)
        counts.extend(count for _, count in found)
        starts.append(len(places))
        n_tokens.append(len(words))
    shape = len(n_tokens), n_buckets
    table = csr_array((np.asarray(counts), np.asarray(places), np.asarray(starts)), shape=shape)
    return NGramCounts(table, np.array(n_tokens, dtype=np.int64))


def bucket_shares(totals: NDArray[np.int64]) -> Floats:
    """P_S: a set's n-grams by bucket as shares of all of them (B, sums to 1)."""
    shares: Floats = totals / totals.sum()
    return shares


def log_ratio(safe_shares: Floats, other_shares: Floats, smoothing: float) -> Floats:
    """r_b = log(P_safe + eps) - log(P_other + eps), in nats (B)."""
    ratio: Floats = np.log(safe_shares + smoothing) - np.log(other_shares + smoothing)
    return ratio


def log_weights(counts: csr_array, ratio: Floats) -> Floats:
    """w(x) = sum_b r_b c_b(x), in nats (n). Each row is added up alone, in bucket order."""
    return np.asarray(counts @ ratio, dtype=np.float64)


class DSIR(Method):
    """Rank by how much better the safe set's n-grams explain a row than the other set's do.

    Higher = keep, in nats. Works on text alone.

    Source: Xie et al. 2023, arXiv:2302.03169.
    Cost: no model.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"safe_set"})

    against: Literal["finetuning_set", "harmful_set"] = "finetuning_set"
    """The other set: the rows to rank, as published, or rows known to be harmful."""
    text: Text = "both"
    """Which turns are read: prompt (system and user), response (assistant) or both."""
    readout: Literal["mean", "sum"] = "mean"
    """What `score` is: the log weight per n-gram, or their sum as published. Both are stored."""
    ngram_tokens: int = Field(2, ge=1, le=5)
    """Longest n-gram, in tokens; all shorter ones are counted too."""
    n_buckets: int = Field(10_000, ge=2)
    """Buckets that n-grams are hashed into."""
    smoothing: float = Field(1e-8, gt=0, lt=1)
    """Added to every share before the logarithm: what a bucket unseen in a set costs."""
    min_tokens: int = Field(0, ge=0)
    """Rows of fewer tokens have no score. The package's default is 100."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; rows without text or under `min_tokens` are NaN, "too_short".

        Raises:
            ConfigError: No harmful set to compare with, a set without text, no row that is long
                enough, or two sets of the same n-grams.
        """
        if self.against == "harmful_set" and inputs.harmful_set is None:
            raise ConfigError(
                "dsir.against=harmful_set compares the safe set with rows known to be harmful, and "
                "none are given: give --harmful-set, or set against=finetuning_set."
            )
        own = self._count(inputs, "finetuning_set")
        sizes = np.asarray(own.counts.sum(axis=1), dtype=np.int64)
        long_enough = (own.n_tokens >= self.min_tokens) & (sizes > 0)
        if not long_enough.any():
            both = "" if self.text == "both" else ", or set text=both"
            raise ConfigError(
                f"none of the {len(sizes)} rows has {max(self.min_tokens, 1)} tokens to count "
                f"(text={self.text}): lower dsir.min_tokens (now {self.min_tokens}){both}."
            )
        safe = self._totals(inputs, "safe_set")
        other = (
            np.asarray(own.counts.sum(axis=0), dtype=np.int64)
            if self.against == "finetuning_set"
            else self._totals(inputs, "harmful_set")
        )
        ratio = log_ratio(bucket_shares(safe), bucket_shares(other), self.smoothing)
        if not ratio.any():
            raise ConfigError(
                f"the safe set and the {self.against} use the same n-grams equally often, so every "
                "row would score 0: give a safe set of other rows."
            )
        total = np.where(long_enough, log_weights(own.counts, ratio), np.nan)
        readouts = {"mean": total / np.maximum(sizes, 1), "sum": total}
        unseen = float(own.counts[:, safe == 0].sum() / sizes.sum())
        return Scores(
            method="dsir",
            ids=inputs.finetuning_set.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=readouts[self.readout],
            outcome=["ok" if enough else "too_short" for enough in long_enough],
            n_trained_tokens=None,
            columns={**{f"score_{name}": v for name, v in readouts.items()}, "n_ngrams": sizes},
            details={
                "readout": self.readout,
                "n_safe_ngrams": int(safe.sum()),
                "n_other_ngrams": int(other.sum()),
                "share_of_ngrams_unseen_in_safe_set": unseen,
                "notes": notes(self, unseen),
            },
        )

    def _count(self, inputs: RankingInputs, which: str) -> NGramCounts:
        """Count one set's n-grams, row by row."""
        rows: Examples = getattr(inputs, which)
        progress = inputs.progress(f"n-grams of {which}")

        def texts() -> Iterator[str]:
            for done, row in enumerate(rows, start=1):
                yield row_text(row, self.text)
                if progress and (done % REPORT_EVERY == 0 or done == len(rows)):
                    progress(done, len(rows), {})

        return count_ngrams(texts(), self.ngram_tokens, self.n_buckets)

    def _totals(self, inputs: RankingInputs, which: str) -> NDArray[np.int64]:
        """Count all n-grams of a set by bucket (B)."""
        totals = np.asarray(self._count(inputs, which).counts.sum(axis=0), dtype=np.int64)
        if not totals.any():
            raise ConfigError(
                f"the {which} has no text to count (text={self.text}): give rows with text."
            )
        return totals


def notes(config: DSIR, unseen: float) -> list[str]:
    """Say what these settings cannot see, for the reader of a report."""
    found = [
        "DSIR compares words, not meaning: benign rows on subjects that the safe set lacks score "
        "low, and harmful rows in its words score high."
    ]
    if unseen >= MANY_UNSEEN:
        found.append(
            f"{unseen:.1%} of the fine-tuning n-grams fall in buckets that the safe set leaves "
            "empty; the smoothing decides what these cost. More safe rows or fewer buckets help."
        )
    if config.text == "prompt":
        found.append("text=prompt: refusals and compliance with the same request score the same.")
    if config.readout == "sum":
        found.append("readout=sum: the longer a row, the more extreme its score.")
    return found
