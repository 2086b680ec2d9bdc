"""Which rankings chose the rows behind an adapter: manifests lead there, or their end is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tamis.cli.inputs import stage_inputs
from tamis.cli.origins import Origin, origin_of
from tamis.errors import ConfigError
from tamis.runs import Stage


def stage(folder: Path, name: str, results: str, details: Any = None, **inputs: Path) -> Path:
    """Finish a stage that wrote one file; return it, or the folder it lies in below the stage's."""
    with Stage(folder, name, {}, stage_inputs(**inputs), seed=0) as open_stage:
        written = open_stage.folder / results
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(f"what {folder.name} wrote")
        open_stage.finish(details=details or {})
    return folder / Path(results).parts[0]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The user's own rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("rows")
    return path


@pytest.fixture
def chain(tmp_path: Path, rows: Path) -> dict[str, Path]:
    """What every stage on the way from rows to an evaluation wrote, by stage."""
    found = {"rank": stage(tmp_path / "rank", "rank", "scores.parquet", data=rows)}
    found["select"] = stage(tmp_path / "select", "select", "kept.jsonl", scores=found["rank"])
    found["finetune"] = stage(tmp_path / "tuned", "finetune", "adapter/a", data=found["select"])
    found["prune"] = stage(tmp_path / "pruned", "prune", "adapter/a", adapter=found["finetune"])
    found["evaluate"] = stage(
        tmp_path / "after", "evaluate", "metrics.json", adapter=found["prune"]
    )
    return found


@pytest.mark.parametrize("start", ["finetune", "prune", "evaluate", "select", "rank"])
def test_every_way_leads_to_the_ranking(chain: dict[str, Path], start: str) -> None:
    """From any stage: its folder, or a file in it. The rows that were ranked were the user's."""
    ranking = chain["rank"].parent
    assert origin_of([chain[start]]) == Origin((ranking,))
    assert origin_of([chain[start].parent]) == Origin((ranking,))


def test_an_experiments_rows_lead_there_and_unranked_ones_nowhere(
    tmp_path: Path, rows: Path, chain: dict[str, Path]
) -> None:  # fmt: skip
    """An arm of everything has no ranking, and that is known."""
    ranked = stage(tmp_path / "a", "rows", "train.jsonl", data=rows, scores=chain["rank"])
    whole = stage(tmp_path / "b", "rows", "train.jsonl", data=rows)
    assert origin_of([ranked]) == Origin((chain["rank"].parent,))
    assert origin_of([whole]) == Origin()


def test_a_selector_leads_to_the_ranking_that_learned_it(tmp_path: Path, rows: Path) -> None:
    """Rows scored by `tamis score` were chosen by that ranking."""
    selector = stage(tmp_path / "teacher", "rank", "selector/weights", data=rows)
    scores = stage(tmp_path / "scored", "score", "scores.parquet", selector=selector, data=rows)
    kept = stage(tmp_path / "kept", "select", "kept.jsonl", scores=scores)
    assert origin_of([kept]) == Origin((tmp_path / "teacher",))


def test_rows_ranked_twice_have_two_rankings(tmp_path: Path, chain: dict[str, Path]) -> None:
    """What was kept once was ranked again."""
    second = stage(tmp_path / "rank2", "rank", "scores.parquet", data=chain["select"])
    kept = stage(tmp_path / "select2", "select", "kept.jsonl", scores=second)
    assert origin_of([kept]).rankings == (tmp_path / "rank2", tmp_path / "rank")
    assert origin_of([kept, chain["finetune"]]).rankings == (tmp_path / "rank2", tmp_path / "rank")


def test_a_model_without_an_adapter_has_no_origin(tmp_path: Path) -> None:
    """Nothing was fine-tuned, so nothing was chosen."""
    stage(tmp_path / "before", "evaluate", "metrics.json")
    assert origin_of([tmp_path / "before"]) == origin_of([]) == Origin()


def test_where_the_way_ends_is_told(tmp_path: Path, rows: Path, chain: dict[str, Path]) -> None:
    """Rows of no stage, a file that is gone, and one that has changed since."""
    other = stage(tmp_path / "other", "finetune", "adapter/a", data=rows)
    assert "rows.jsonl is of no stage" in origin_of([other]).lost[0]
    assert "elsewhere is of no stage" in origin_of([tmp_path / "elsewhere"]).lost[0]
    chain["rank"].write_text("ranked again by another method")
    changed = origin_of([chain["evaluate"]])
    assert changed.rankings == ()
    assert "scores.parquet has changed" in changed.lost[0]
    shutil.rmtree(chain["rank"].parent)
    assert "is not on this machine" in origin_of([chain["evaluate"]]).lost[0]


def test_a_ranking_that_is_named_is_not_missed(
    tmp_path: Path, rows: Path, chain: dict[str, Path]
) -> None:  # fmt: skip
    """By its folder, its scores, or a selection made from it."""
    other = stage(tmp_path / "other", "finetune", "adapter/a", data=rows)
    for named in (chain["rank"].parent, chain["rank"], chain["select"].parent):
        assert origin_of([other], [named]) == Origin((chain["rank"].parent,))
    with pytest.raises(ConfigError, match=r"--scores .*other leads to no finished ranking"):
        origin_of([], [tmp_path / "other"])


def test_an_evaluation_remembers_what_was_named(
    tmp_path: Path, rows: Path, chain: dict[str, Path]
) -> None:  # fmt: skip
    """Its manifest has the rankings by path and hash, and leads there itself."""
    adapter = stage(tmp_path / "other", "finetune", "adapter/a", data=rows)
    known = origin_of([adapter], [chain["rank"]])
    folder = tmp_path / "evaluated"
    stage(folder, "evaluate", "metrics.json", {"ranked_by": known.to_json()}, adapter=adapter)
    assert origin_of([folder]) == Origin((chain["rank"].parent,))


def test_a_ranking_says_what_it_recorded_of_itself(tmp_path: Path, rows: Path) -> None:
    """Its guard among it; older manifests have nothing."""
    guard = {"guard": {"name": "org/the-guard"}}
    told = stage(tmp_path / "told", "rank", "scores.parquet", guard, data=rows)
    silent = stage(tmp_path / "silent", "rank", "scores.parquet", data=rows)
    assert list(origin_of([told, silent]).details()) == [guard, {}]


@pytest.mark.parametrize(
    "text",
    [
        '{"stage": ["rank"]}',
        '{"stage": "finetune", "inputs": ["x"]}',
        '{"stage": "finetune", "inputs": {"data": null}, "details": "x"}',
        '{"stage": "evaluate", "inputs": {}, "details": {"ranked_by": ["x", null]}}',
    ],
)
def test_foreign_manifests_lead_nowhere(tmp_path: Path, text: str) -> None:
    """Whatever JSON lies beside an adapter."""
    (tmp_path / "manifest.json").write_text(text)
    assert origin_of([tmp_path / "adapter"]).rankings == ()


def test_an_earlier_ranking_that_is_gone_is_told(tmp_path: Path, chain: dict[str, Path]) -> None:
    """Rows ranked, selected and ranked again, and the first selection removed."""
    again = stage(tmp_path / "again", "rank", "scores.parquet", data=chain["select"])
    shutil.rmtree(chain["select"].parent)
    found = origin_of([again])
    assert found.rankings == (again.parent,)
    assert any("is not on this machine" in why for why in found.lost)


def test_links_and_the_folder_itself_are_followed(
    tmp_path: Path, chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter reached by a link, or from inside its folder, has the ranking all the same."""
    link = tmp_path / "elsewhere"
    link.symlink_to(chain["finetune"])
    monkeypatch.chdir(chain["finetune"])
    for path in (link, Path(".")):
        assert origin_of([path]) == Origin((chain["rank"].parent,))
