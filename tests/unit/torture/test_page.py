"""The page: whole in itself, all that happened is in it, and what users wrote stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from overdb_torture import page
from overdb_torture.recorder import LeaderSample
from overdb_torture.timeline import Leading, leading, nice_steps, timeline
from overdb_torture.verdict import judge
from tests.unit.torture.runs import bad_checks, good_checks, good_record

_VOID = {"meta", "br", "img", "link", "input"}


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @classmethod
    def of(cls, content: str) -> Balanced:
        parser = cls()
        parser.feed(content)
        parser.close()
        assert parser.open == []
        return parser

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_good_run_has_headline_numbers_picture_and_tables() -> None:
    record = good_record()
    parsed = Balanced.of(page.html(record, judge(record, good_checks())))
    for said in ("All right", "2,000", "seed", "partition", "apart", "node-2, node-4", "1,000"):
        assert said in parsed.text, said
    assert "Anomalies" not in parsed.text
    assert parsed.seen.count("svg") == 1


def test_nothing_is_fetched_and_nothing_runs() -> None:
    record = good_record()
    content = page.html(record, judge(record, bad_checks()))
    parsed = Balanced.of(content)
    assert not {"script", "link", "img", "iframe"} & set(parsed.seen)
    without_namespace = content.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|@import|url\(", without_namespace)
    assert "prefers-color-scheme: dark" in content


def test_anomalies_come_with_the_operations_and_as_text() -> None:
    record = good_record()
    content = page.html(record, judge(record, bad_checks()))
    parsed = Balanced.of(content)
    assert "1 anomaly found" in parsed.text
    assert "key k&1 is not linearizable" in parsed.text
    assert "process 3 wrote <7>, and was told that it did" in parsed.text
    assert "<7>" not in content


def test_the_picture_has_a_bar_for_each_second_outcome_and_fault() -> None:
    record = good_record(20.0)
    drawing = ElementTree.fromstring(timeline(record))  # noqa: S314  # our own words
    name = "{http://www.w3.org/2000/svg}"
    classes = [element.get("class") for element in drawing.iter(f"{name}rect")]
    assert classes.count("ok") == 20
    assert classes.count("maybe") == 10
    assert classes.count("fault") == classes.count("shade") == 2
    titles = [element.text or "" for element in drawing.iter(f"{name}title")]
    assert "kill node-2, node-4, 1.0 to 3.0 s" in titles
    assert "partition node-3 apart, 6.0 to 9.5 s" in titles
    assert "node-3 leads group 0, 1.5 to 2.0 s" in titles
    for rect in drawing.iter(f"{name}rect"):
        x, width = float(rect.get("x", "")), float(rect.get("width", ""))
        assert 0 <= x <= x + width <= 1000
        assert float(rect.get("height", "")) > 0


def test_a_run_in_which_nothing_happened_has_a_page_too() -> None:
    record = good_record()
    for kind in (record.faults, record.leaders, record.by_second, record.tallies):
        kind.clear()
    record.seconds = 0.0
    Balanced.of(page.html(record, judge(record, [])))


def test_who_led_from_when_to_when() -> None:
    samples = [
        LeaderSample(0.0, (1,)),
        LeaderSample(0.5, (1,)),
        LeaderSample(1.0, (0,)),
        LeaderSample(2.5, (2,)),
    ]
    expected = [Leading(1, 0.0, 1.0), Leading(0, 1.0, 2.5), Leading(2, 2.5, 3.0)]
    assert leading(samples, 60.0) == [expected]
    assert leading([], 60.0) == []


def test_ticks_are_round() -> None:
    assert nice_steps(138, 4) == [0, 50, 100]
    assert nice_steps(60, 12) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
    assert nice_steps(0, 4) == [0.0]
