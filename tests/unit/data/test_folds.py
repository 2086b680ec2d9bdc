"""Folds by content: copies of one row stand together."""

from __future__ import annotations

import numpy as np

from tamis.data.folds import content_folds


def test_copies_of_a_row_share_a_fold() -> None:
    """Whatever their occurrence number, and in whatever set they are."""
    ids = [f"{content:016x}-{copy}" for content in range(40) for copy in range(3)]
    fold = content_folds(ids, 5, np.random.default_rng(0)).reshape(40, 3)
    assert (fold == fold[:, :1]).all()


def test_folds_hold_equally_many_contents() -> None:
    """Ten of forty each; another generator deals otherwise."""
    ids = [f"{content:016x}-0" for content in range(40)]
    fold = content_folds(ids, 4, np.random.default_rng(0))
    assert np.bincount(fold).tolist() == [10] * 4
    assert not np.array_equal(fold, content_folds(ids, 4, np.random.default_rng(1)))
