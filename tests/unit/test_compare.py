"""``--compare OLD.json`` of all benchmarks, and the page with charts that all of them write."""

from __future__ import annotations

import copy
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pagegen
import pytest
import test_device_benchmark
import test_tiers_benchmark

from truezram.cli import main
from truezram.engine.errors import Failed, UsageError
from truezram.engine.measure import compare, device_report, html_page, report, store_report, tiers_report
from truezram.engine.measure.results import InputInfo, Report, Result, Speed
from truezram.engine.measure.store_results import StoreReport, StoreResult, Usage

# ---- whether samples differ ----


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 4), (3, 6)])
def test_the_chance_is_that_of_all_orders(n: int, m: int) -> None:
    """Counted by trying each way to divide the ranks."""
    ranks = range(n + m)

    def pairs(first: tuple[int, ...]) -> float:
        rest = [r for r in ranks if r not in first]
        found = sum(a > b for a in first for b in rest)
        return min(found, n * m - found)

    ways = list(itertools.combinations(ranks, n))
    for first in ways:
        expected = sum(pairs(other) <= pairs(first) for other in ways) / len(ways)
        rest = [r for r in ranks if r not in first]
        # (In the middle, where both tails meet, the doubled tail is more than 1.)
        assert compare.chance(first, rest) == pytest.approx(min(1.0, expected), abs=0.5 if expected > 0.7 else 1e-9)


def test_many_samples() -> None:
    a, b = [float(i) for i in range(60)], [float(i) + 0.5 for i in range(60)]
    assert compare.chance(a, b) > 0.5
    assert compare.chance(a, [x + 40 for x in b]) < 1e-6


@pytest.mark.parametrize(
    ("before", "now", "more", "word"),
    [
        ((1, 2, 3, 4), (5, 6, 7, 8), True, compare.BETTER),
        ((1, 2, 3, 4), (5, 6, 7, 8), False, compare.WORSE),
        ((5, 6, 7, 8), (1, 2, 3, 4), True, compare.WORSE),
        ((1, 2, 3, 9), (5, 6, 7, 8), True, compare.NOISE),
        ((1, 2, 3, 4), (1, 2, 3, 4), True, compare.NOISE),
        ((1, 2, 3), (5, 6, 7), True, compare.FEW),
        ((), (5, 6, 7, 8), True, compare.ALONE),
    ],
)
def test_verdicts(before: tuple[float, ...], now: tuple[float, ...], more: bool, word: str) -> None:
    assert compare.verdict(before, now, more) == word


# ---- documents ----


def device(iops: list[float]) -> dict[str, Any]:
    entry = {
        "target": "truezram", "algorithm": "fast", "mode": None, "queues": 1, "workload": "randread",
        "block_size": 4096, "depth": 1, "jobs": 1, "iops": sorted(iops)[len(iops) // 2],
        "latency_us": {"p50": 20.0}, "cpu": {"us_per_request": 9.0},
        "samples": {"iops": iops, "p50_us": [20.0] * len(iops), "cpu_us": [9.0] * len(iops)},
    }  # fmt: skip
    host = {"cpu": "one", "cores": 2, "isa": "avx2", "kernel": "7.2", "time": "then"}
    return {"schema": compare.SCHEMA, "kind": "device", "host": host, "results": [entry]}


def test_a_run_beside_an_earlier_one() -> None:
    old, new = device([100, 101, 102, 103, 104]), device([200, 201, 202, 203, 204])
    found = compare.compare("old.json", old, new)
    rates, times, cpu = found.differences
    assert (rates.metric, rates.verdict, rates.ratio) == ("requests/s", compare.BETTER, pytest.approx(202 / 102))
    assert (times.verdict, times.ratio, cpu.verdict) == (compare.NOISE, 1.0, compare.NOISE)
    assert rates.result == "truezram fast"
    assert found.hosts == ()
    assert compare.rows(found)[0] == ["truezram fast", "requests/s", "102", "202", "1.980x", "better"]
    assert compare.to_json(found)["differences"][0]["difference"] == "better"


def test_what_only_one_has_and_another_machine() -> None:
    old, new = device([100.0]), device([100.0])
    other = copy.deepcopy(new["results"][0])
    other["depth"] = 32
    new["results"].append(other)
    new["host"]["kernel"] = "6.12"
    found = compare.compare("old.json", old, new)
    assert (found.only_before, found.only_now) == (0, 1)
    assert found.hosts == ("kernel: 7.2 then, 6.12 now",)
    text = " ".join(compare.about(found))
    assert "Not the same machine: kernel" in text
    assert "1 only in this one" in text
    # With more than one depth, it is part of the name.
    assert found.differences[0].result == "truezram fast depth 1"


def test_nothing_in_common() -> None:
    old, new = device([100.0]), device([100.0])
    old["results"] = []
    assert "No result is in both." in compare.about(compare.compare("old.json", old, new))


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        (None, Failed, "No such file"),
        ("nonsense", UsageError, "it is not JSON"),
        ("[]", UsageError, "not the results of a benchmark"),
        ('{"schema": "truezram.stat/1", "results": []}', UsageError, "not the results of a benchmark"),
        (json.dumps(device([1.0])), UsageError, "it is of `benchmark device`, and this is `benchmark codec`"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, text: str | None, error: type[Exception], why: str) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=re.escape(why)):
        compare.read(str(path), "codec")


def test_every_kind_finds_its_figures() -> None:
    """A document beside itself: every figure is found, and nothing has changed."""
    documents = {
        "codec": report.to_json(codec()),
        "store": store_report.to_json(store()),
        "tiers": tiers_report.to_json(test_tiers_benchmark.report()),
        "device": device_report.to_json(test_device_benchmark.report()),
    }
    assert documents.keys() == compare.KINDS.keys()
    for kind, document in documents.items():
        found = compare.compare("x", document, document)
        assert {item.ratio for item in found.differences} == {1.0}, kind
        named = {item.metric for item in found.differences}
        # (tiers: that report has hot reads only.)
        missing = {metric.name for metric in compare.KINDS[kind].metrics} - named
        assert missing <= {"read dense p50", "read cold p50", "read hot p50"}, kind
        assert len({tuple(e.get(k) for k in compare.KINDS[kind].keys) for e in document["results"]}) == len(
            document["results"]
        )


def test_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line: text, JSON and page."""
    pages, old, new, page = (tmp_path / name for name in ("a.pages", "old.json", "new.json", "new.html"))
    pages.write_bytes(b"".join(pagegen.sample(64, seed=1)))
    argv = ["benchmark", "codec", "--pages", str(pages), "--algorithm", "fast", "--rounds", "4"]
    assert main.main([*argv, "--json", str(old)]) == 0
    capsys.readouterr()
    assert main.main([*argv, "--compare", str(old), "--json", str(new), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert f"Compared with {old}" in out
    document = json.loads(new.read_text())
    figures = [item["figure"] for item in document["compare"]["differences"]]
    assert {"ratio", "compress MB/s", "decompress MB/s"} == set(figures)
    assert "Before and now" in page.read_text()
    assert main.main([*argv, "--compare", str(tmp_path / "none")]) == 1


# ---- the page ----


def codec() -> Report:
    host: dict[str, str | int | float] = {
        "cpu": "a <CPU>", "isa": "avx2", "kernel": "7.2", "truezram": "1", "load": 0.1, "time": "now", "cores": 2,
    }  # fmt: skip
    results = tuple(
        Result(name, kind, None, "some", 2.5, 0, Speed((1.0, 2.0)), Speed((3.0, 4.0)))
        for name, kind in (("fast", "truezram"), ("lz4", "liblz4"), ("memcpy", "libc"))
    )
    return Report(host, (InputInfo(name="some", pages=3, same_filled=1),), results, ("liblz4", "lz4"), False, 2, 0.0)


def store() -> StoreReport:
    usage, lat = Usage(8192, 4000, 4096, 0), test_device_benchmark.Latency(1, 2, 3)
    results = tuple(
        StoreResult(
            kind, name, 1, 8192, usage, Speed((1.0,)), Speed((2.0,)), lat, lat, 0.1, 0.1, usage, usage, 0.1
        )
        for kind, name in (("truezram", "fast"), ("zram", "lz4"))
    )  # fmt: skip
    return StoreReport(codec().host, (), 8192, 1, results, (), ())


class Page(HTMLParser):
    """Fails for tags that do not nest and for anything that would be loaded or run; counts charts and bars."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "image", "use")
        for name, value in attrs:
            assert name not in ("src", "href", "srcset", "xlink:href", "data", "action")
            assert not name.startswith("on")
            assert "url(" not in (value or "")
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


PAGES = {
    "codec": lambda: report.to_html(codec()),
    "store": lambda: store_report.to_html(store()),
    "tiers": lambda: tiers_report.to_html(test_tiers_benchmark.report()),
    "device": lambda: device_report.to_html(test_device_benchmark.report()),
}


@pytest.mark.parametrize("kind", PAGES)
def test_pages_need_no_network(kind: str) -> None:
    text = PAGES[kind]()
    page = Page(text)
    assert page.seen.count("svg") >= 1
    assert page.seen.count("rect") >= page.seen.count("svg")
    assert page.seen.count("table") == 1
    for bad in ("http:", "https:", "//", "@import", "url("):
        assert bad not in text
    for wanted in ("prefers-color-scheme: dark", "@media print", "color-scheme: light dark"):
        assert wanted in text


def test_what_is_shown_is_escaped() -> None:
    page = Page(PAGES["device"]())
    assert "a <CPU>" in page.text


def test_bars_are_to_scale() -> None:
    bars = (
        html_page.Bar("a", 50.0, "50", True, "one"),
        html_page.Bar("b", 100.0, "100", False, "one", upto=200.0),
        html_page.Bar("c", 0.0, "0", False, "two"),
    )
    text = html_page.page("x", [], [html_page.Section(charts=(html_page.Chart("t", bars),))])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', text)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)
    assert widths[2] == 1.0
    assert text.count('class="whisker"') == 1
    assert re.findall(r'class="(ours|other)"', text) == ["ours", "other", "other"]
    assert text.count('class="group"') == 2
