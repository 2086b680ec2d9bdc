"""Stage folders: skipped, resumed, refused, and never at the user's cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import ConfigError, DataError, MismatchError
from tamis.files import file_sha256, json_line
from tamis.runs import Stage, read_manifest
from tamis.stage_files import deletions, make_folder


def stage(folder: Path, *, overwrite: bool = False, seed: int = 0, **inputs: Path) -> Stage:
    """Make a stage that reads some files."""
    entries: dict[str, Any] = {
        role: {"path": str(path), "sha256": file_sha256(path)} for role, path in inputs.items()
    }
    return Stage(folder, "rank", {"option": 1}, entries, seed=seed, overwrite=overwrite)


def test_a_finished_stage_says_so_and_drops_its_partial_results(tmp_path: Path) -> None:
    """The manifest is the mark of the end."""
    with stage(tmp_path) as first:
        (first.work / "part").write_text("x")
        assert not first.finished
        first.finish(n_rows=3)
    with stage(tmp_path) as second:
        assert second.finished
    assert read_manifest(tmp_path)["n_rows"] == 3
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a mark of Linux")
def test_a_stages_peak_is_its_own(tmp_path: Path) -> None:
    """300 MB that were held before it, and no longer, are not in its manifest."""
    held = bytearray(b"1") * 300_000_000
    with stage(tmp_path / "large") as first:
        large = first.finish()["memory"]["peak_rss_gib"]
    del held
    with stage(tmp_path / "small") as second:
        small = second.finish()["memory"]["peak_rss_gib"]
    assert small < large - 0.25


def test_another_request_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The message names the setting and both values."""
    with stage(tmp_path) as first:
        first.finish()
    with pytest.raises(MismatchError, match="seed: 0 there, 1 now"), stage(tmp_path, seed=1):
        pass


def test_the_same_bytes_elsewhere_are_the_same_request(tmp_path: Path) -> None:
    """A moved input is no other input; a changed one is."""
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    one.write_text("rows")
    other.write_text("rows")
    third.write_text("other rows")
    with stage(tmp_path / "out", data=one) as first:
        first.finish()
    with stage(tmp_path / "out", data=other) as second:
        assert second.finished
    with pytest.raises(MismatchError, match="sha256"), stage(tmp_path / "out", data=third):
        pass


def test_overwrite_spares_what_the_run_reads(tmp_path: Path) -> None:
    """An input inside the output folder is never deleted."""
    with stage(tmp_path / "out") as first:
        (tmp_path / "out" / "kept.jsonl").write_text("rows")
        first.finish()
    inside = tmp_path / "out" / "kept.jsonl"
    again = stage(tmp_path / "out", overwrite=True, data=inside)
    with pytest.raises(ConfigError, match="would delete"), again:
        pass
    assert inside.read_text() == "rows"


def test_a_failure_before_any_work_does_not_block_the_corrected_command(tmp_path: Path) -> None:
    """Only partial results that can be resumed keep a folder."""
    with pytest.raises(ValueError, match="bad labels"), stage(tmp_path):
        raise ValueError("bad labels")
    with stage(tmp_path, seed=1) as corrected:
        assert not corrected.finished


def test_partial_results_keep_the_folder(tmp_path: Path) -> None:
    """A run that was stopped in the middle is resumed, not overwritten by another."""

    def stopped() -> None:
        with stage(tmp_path) as first:
            (first.work / "part").write_text("hours of work")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with pytest.raises(MismatchError), stage(tmp_path, seed=1):
        pass
    with stage(tmp_path) as again:
        assert (again.work / "part").read_text() == "hours of work"


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    """The second is told so."""
    with stage(tmp_path), pytest.raises(ConfigError, match="in use"), stage(tmp_path):
        pass


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    """Neither into one nor below one, and what the file holds stays."""
    (tmp_path / "notes").write_text("mine")
    for folder in (tmp_path / "notes", tmp_path / "notes" / "below"):
        with (
            pytest.raises(ConfigError, match=r"notes.* is a file or lies below one"),
            stage(folder),
        ):
            pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_where_no_folder_can_be_made_is_said() -> None:
    """The system's reason and what to give, not a bare error number."""
    with pytest.raises(ConfigError, match=r"no folder can be made at /proc/x.* Give another"):
        make_folder(Path("/proc/x/y"))


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str) -> None:
    """Torn, of another kind, not UTF-8: the file and what to do, never a reader's traceback."""
    (tmp_path / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"manifest\.json .*Run its stage again"):
        read_manifest(tmp_path)


def test_text_that_utf8_cannot_hold_is_escaped() -> None:
    """A lone surrogate in a user's field must not stop the writing of its row."""
    assert json.loads(json_line({"note": "\ud800"})) == {"note": "\ud800"}
    assert json_line({"note": "é"}) == '{"note": "é"}\n'


def test_what_is_not_compared_is_recorded(tmp_path: Path) -> None:
    """Another value goes on with the work, and is the one the folder tells."""

    def judged(share: float) -> Stage:
        config = {"judge": {"share": share, "n": 1}}
        return Stage(tmp_path, "judge", config, {}, seed=0, uncompared=("judge.share",))

    with judged(0.1) as first:
        (first.work / "part").write_text("hours of work")
    with judged(0.2) as second:
        assert (second.work / "part").read_text() == "hours of work"
        assert "share: 0.2" in (tmp_path / "config.yaml").read_text()
        assert second.finish()["config"]["judge"] == {"share": 0.2, "n": 1}


def test_overwriting_spares_other_work_in_the_folder(tmp_path: Path) -> None:
    """A finished stage below, and a file of the user's, are named and stay; so does the stage."""
    out = tmp_path / "out"
    with stage(out / "below") as below:
        below.finish()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(MismatchError, match="not written by tamis"), stage(out):
        pass
    (out / "config.yaml").write_text("stage: rank")
    (out / "scores.parquet").write_text("hours of work")
    again = stage(out, overwrite=True, seed=1)
    with pytest.raises(MismatchError, match=r"out/below, .*out/notes\.txt, which"), again:
        pass
    assert (out / "below" / "manifest.json").exists()
    assert (out / "scores.parquet").exists()
    (out / "below").rename(tmp_path / "elsewhere")
    (out / "notes.txt").rename(tmp_path / "notes.txt")
    (out / ".scores.parquet.x1").write_text("left by a killed writer")
    with again:
        assert {path.name for path in out.iterdir()} == {".lock", "config.yaml"}


def test_a_finished_stage_that_lost_a_file_is_done_again_on_demand(tmp_path: Path) -> None:
    """It is refused by the file's name, and --overwrite begins anew."""
    with stage(tmp_path) as first:
        (tmp_path / "scores.parquet").write_text("scores")
        (tmp_path / "quarantine.jsonl").write_text("may go")
        first.finish()
    (tmp_path / "quarantine.jsonl").unlink()
    with stage(tmp_path) as whole:
        assert whole.finished
    (tmp_path / "scores.parquet").unlink()
    again = stage(tmp_path)
    with pytest.raises(MismatchError, match=r"has lost scores\.parquet since.*--overwrite"), again:
        pass
    with stage(tmp_path, overwrite=True) as anew:
        assert not anew.finished


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_killed_overwriting_leaves_a_folder_that_is_known(tmp_path: Path, left: int) -> None:
    """Whatever is deleted when it is killed, it is not finished, and overwriting goes on."""
    with stage(tmp_path) as first:
        for name in ("ends.jsonl", "scores.parquet"):
            (tmp_path / name).write_text("result")
        first.finish()
    names = [path.name for path in deletions(tmp_path)]
    assert names[0] == "manifest.json"
    for name in names[:-left]:
        (tmp_path / name).unlink()
    with stage(tmp_path, seed=1, overwrite=True) as again:
        assert not again.finished
