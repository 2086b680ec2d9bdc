"""The page: nothing from the data acts, nothing is fetched, nothing missing reads as zero."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from stage_folders import StageFolders

from tamis.errors import ConfigError
from tamis.report.render import write_report

HOSTILE = (
    "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'><svg onload=alert(3)>"
    "</style></title></textarea>{{ 7 * 7 }}{% raw %}&lt;\u202e\u2066\x00\x1b[31m\ud800"
)
# What the page is made of; a tag or attribute beyond these came from the data.
TAGS = re.findall(
    r"[a-z0-9]+",
    "html head meta title style body header main section nav article div span p h1 h2 h3 h4 ul li "
    "a bdi code strong small table caption thead tbody tr th td figure figcaption details summary "
    "svg g rect line circle text polyline",
)
ATTRIBUTES = re.findall(
    r"[a-z0-9-]+",
    "lang charset http-equiv content name class id href title scope role aria-label aria-hidden "
    "tabindex dir width height viewbox preserveaspectratio points x y x1 x2 y1 y2 cx cy r "
    "text-anchor",
)
VOID = frozenset(["meta"])


class Page(HTMLParser):
    """The page's tags, attributes and text; fails on tags that do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag that closes itself."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost open tag closes."""
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        """Record text outside the style."""
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All text a reader sees, spaces made single."""
        return " ".join(" ".join(self.texts).split())


def report(paths: Sequence[Path], folder: Path) -> Page:
    """Write a report and read it back."""
    return Page(write_report(paths, folder / "report.html"))


@pytest.fixture
def hostile(tmp_path: Path) -> Page:
    """A report in which every text that can come from data is hostile."""
    writer = StageFolders(tmp_path / "runs", HOSTILE.replace("\ud800", ""))
    paths = writer.everything()
    broken = tmp_path / "<script>alert(4)</script>"
    (broken / "work").mkdir(parents=True)
    return report([*paths, broken], tmp_path)


def test_data_cannot_add_a_tag_or_an_attribute(hostile: Page) -> None:
    """Only the page's own tags and attributes exist, and they close in order."""
    assert {tag for tag, _ in hostile.tags} <= set(TAGS)
    assert {name for _, attributes in hostile.tags for name in attributes} <= set(ATTRIBUTES)
    assert not hostile.open


def test_hostile_text_is_shown_as_text(hostile: Page) -> None:
    """Every place that shows data shows it literally, templates included."""
    literal = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
    places = [text for text in hostile.texts if literal in text]
    # 2 messages at 2 ends, 4 prompts, 2 answers to 3 of them, 2 reasons for no answer, 5 of the set
    # and its bad records, 2 notes: each of them at least once.
    assert len(places) >= 4 + 4 + 6 + 2 + 5 + 2
    assert all("{{ 7 * 7 }}{% raw %}&lt;" in text for text in places if len(text) > 200)


def test_direction_marks_and_controls_are_visible(hostile: Page) -> None:
    """No such character is left anywhere in the file; its code point is."""
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", hostile.source)
    assert "⟨U+202E⟩⟨U+2066⟩⟨U+0000⟩⟨U+001B⟩[31m" in hostile.text


def test_a_lone_surrogate_does_not_stop_the_report(tmp_path: Path) -> None:
    """JSON can hold what UTF-8 cannot."""
    writer = StageFolders(tmp_path / "runs")
    rank = writer.rank([0.1, 0.2])
    ends = rank / "ends.jsonl"
    ends.write_text(ends.read_text().replace("plain words", "odd \\ud800 text"))
    assert "odd ⟨U+D800⟩ text" in report([rank], tmp_path).text


def test_nothing_is_fetched(hostile: Page) -> None:
    """No address, no attribute that loads, and a policy that forbids everything but our style."""
    for _, attributes in hostile.tags:
        assert not {"src", "srcset", "data", "action", "style", "xlink:href"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert "http://" not in hostile.source
    assert "https://" not in hostile.source
    assert "url(" not in hostile.source
    assert "@import" not in hostile.source


def test_the_policy_admits_exactly_the_pages_style(hostile: Page) -> None:
    """default-src 'none', and the hash of the one style element."""
    policy = next(
        a["content"] for t, a in hostile.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    style = hostile.source.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("left_out", range(5))
def test_any_stage_may_be_missing(folders: StageFolders, tmp_path: Path, left_out: int) -> None:
    """A report is written without it, and one of it alone."""
    paths = folders.everything()
    assert not report([p for i, p in enumerate(paths) if i != left_out], tmp_path).open
    assert not report([paths[left_out]], tmp_path).open


def test_missing_stages_are_said(folders: StageFolders, tmp_path: Path) -> None:
    """By name, so that nobody takes a part for the whole."""
    page = report([folders.rank([0.1, 0.2])], tmp_path)
    assert "No finished stage of: select, finetune, evaluate." in page.text


def test_an_unreadable_stage_is_named(folders: StageFolders, tmp_path: Path) -> None:
    """With the reason."""
    rank, before = folders.rank([0.1]), folders.evaluate(name="evaluate", adapter=None)
    (before / "metrics.json").write_text("{")
    assert "metrics.json cannot be read" in report([rank, before], tmp_path).text


def test_what_was_not_measured_is_not_zero(folders: StageFolders, tmp_path: Path) -> None:
    """A rate over no prompts and a measure that the file lacks read as not measured."""
    text = report([folders.evaluate(name="evaluate", adapter=None)], tmp_path).text
    over_refusal = text.split("benign but touchy prompts declined")[1].split("Loss on")[0]
    assert "not measured n = 0, unscored 0" in over_refusal
    assert "%" not in over_refusal
    preference = text.split("share of prompts, by likelihood; higher is safer")[1][:60]
    assert "not measured n = 0" in preference


def test_estimates_stand_with_interval_and_n(folders: StageFolders, tmp_path: Path) -> None:
    """2 of 4: 50% with Wilson's (2 + 1.92 -+ 1.96 sqrt(1 + 0.96)) / (4 + 3.84) = 15.0% to 85.0%."""
    text = report([folders.evaluate(name="evaluate", adapter=None)], tmp_path).text
    assert "50.0% 15.0% to 85.0% n = 4, unscored 1" in text


def test_no_difference_where_the_evaluations_do_not_say_what_was_asked(
    folders: StageFolders, tmp_path: Path
) -> None:
    """4 of 40 before and 30 of 40 after: both rates, and nowhere the 65 points between them."""
    before = folders.evaluate(name="b", adapter=None, n_harmful=40, n_answered=4)
    after = folders.evaluate(name="a", adapter="x", n_harmful=40, n_answered=30)
    text = report([before, after], tmp_path).text
    assert "10.0%" in text
    assert "75.0%" in text
    assert "does not say what was asked or who judged" in text
    assert "No difference between evaluations is given." in text
    assert "65.0" not in text.split("Versions")[0]


def test_a_true_positive_rate_that_cannot_be_measured_says_so(
    folders: StageFolders, tmp_path: Path
) -> None:
    """At 1% false positives it takes 500 rows that are not harmful."""
    page = report([folders.rank(np.linspace(0, 1, 30), labels=True)], tmp_path)
    row = page.text.split("Found at 1% FPR")[1].split("all rows")[1]
    assert "not measured" in row


def test_counts_of_the_set_are_shown(folders: StageFolders, tmp_path: Path) -> None:
    """Rows, bad records, repeated rows, rows by outcome, rows without a score."""
    text = report([folders.rank([0.1, np.nan, 0.3])], tmp_path).text
    assert "3 rows ranked by seal; 2 have a score." in text
    assert "4 records read, 1 bad records left out (1 plain words), 2 rows repeat" in text
    assert "too_long 1 33.3%" in text
    assert "1 rows without a score are not drawn." in text


def test_long_texts_are_clipped_and_their_length_said(tmp_path: Path) -> None:
    """200,000 characters in a row do not make a page of them."""
    writer = StageFolders(tmp_path / "runs", "word " * 40_000)
    page = report([writer.rank([0.1, 0.2])], tmp_path)
    assert "first 600 of 200,000 characters" in page.text
    assert "first 600 of 400,000 characters" in page.text


def test_the_same_folders_give_the_same_bytes(folders: StageFolders, tmp_path: Path) -> None:
    """No time of writing, no order of a set."""
    paths = folders.everything()
    first = report(paths, tmp_path).source
    assert report(paths, tmp_path).source == first


def test_a_folder_as_output_is_refused(folders: StageFolders, tmp_path: Path) -> None:
    """The error names a file to give."""
    with pytest.raises(ConfigError, match=r"is a folder. Give a file, such as .*report\.html"):
        write_report([folders.rank([0.1])], tmp_path)


def test_a_file_that_is_no_report_is_kept(folders: StageFolders, tmp_path: Path) -> None:
    """Labels given as --out by mistake are refused and stay; a report is replaced."""
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"id": "a", "harmful": true}\n')
    rank = folders.rank([0.1])
    with pytest.raises(ConfigError, match=r"labels\.jsonl is a file that is no report of tamis"):
        write_report([rank], labels)
    assert labels.read_text() == '{"id": "a", "harmful": true}\n'
    page = write_report([rank], tmp_path / "page.html")
    assert write_report([rank], page) == page


def test_both_causes_of_a_row_too_long_are_said(folders: StageFolders, tmp_path: Path) -> None:
    """It is no dropping where long rows were to be shortened."""
    text = report([folders.rank([0.1, np.nan])], tmp_path).text
    assert "either on_too_long is drop or what must stay" in text
    assert "were to be dropped" not in text
