"""A benchmark's results as JSON, as tables for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truezram.engine.measure import html_page
from truezram.engine.measure.results import TOTAL, Report, Result, Speed

# ---- JSON ----


def significant(value: float) -> float:
    """Five significant digits: more than was measured."""
    return float(f"{value:.5g}")


def speed_json(speed: Speed) -> dict[str, Any]:
    return {"median": significant(speed.median), "samples": [significant(sample) for sample in speed.samples]}


def to_json(report: Report) -> dict[str, Any]:
    """The document without its `schema`. Speeds in MB/s (10^6 bytes of page data a second), one sample per round."""
    results = []
    for result in report.results:
        entry: dict[str, Any] = {
            "algorithm": result.algorithm,
            "implementation": result.implementation,
            "isa": result.isa,
            "input": result.input,
            "ratio": significant(result.ratio),
            "compress_mb_s": speed_json(result.compress),
            "decompress_mb_s": speed_json(result.decompress),
            "raw_pages": result.raw_pages,
        }
        if result.version:
            entry["version"] = result.version
        results.append(entry)
    known = report.dictionary
    dictionary = {"dictionary": {"file": known.file, "bytes": known.bytes, "id": known.id}} if known else {}
    return {
        "kind": "codec",
        "host": report.host,
        "rounds": report.rounds,
        "cold": report.cold,
        "disturbed": significant(report.disturbed),
        "baseline": {"implementation": report.baseline[0], "algorithm": report.baseline[1]},
        **dictionary,
        "inputs": [{"name": item.name, "pages": item.pages, "same_filled": item.same_filled} for item in report.inputs],
        "results": results,
    }


# ---- what all reports say ----


def host_line(host: dict[str, str | int | float]) -> str:
    """What it was measured on."""
    return f"{host['cpu']}, {host['isa']}, Linux {host['kernel']}, truezram {host['truezram']}, load {host['load']}"


# ---- what both tables show ----


@dataclass(frozen=True, slots=True)
class _Figure:
    """One cell: a value, its multiple of the baseline's (None: no baseline), and its bar, 0 … 1."""

    text: str
    times: float | None
    bar: float


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    detail: str
    is_baseline: bool
    figures: tuple[_Figure, _Figure, _Figure]


TITLES = ("ratio", "compress MB/s", "decompress MB/s")


def _values(result: Result) -> tuple[float, float, float]:
    return result.ratio, result.compress.median, result.decompress.median


def _rows(report: Report, name: str) -> list[_Row]:
    """The rows of one input. Bars are relative to the best codec; memcpy, which is not a codec, may be off the
    scale."""
    results = report.of(name)
    codecs = [_values(result) for result in results if result.implementation != "libc"]
    most = [max(column) for column in zip(*(codecs or map(_values, results)), strict=True)]
    rows = []
    for result in results:
        values = _values(result)
        times = report.relative(result) or (None, None, None)
        texts = (f"{values[0]:.3f}", f"{values[1]:,.0f}", f"{values[2]:,.0f}")
        figures = [
            _Figure(text, factor, min(1.0, value / top))
            for text, factor, value, top in zip(texts, times, values, most, strict=True)
        ]
        detail = result.isa or "" if result.implementation == "truezram" else result.implementation
        rows.append(_Row(result.algorithm, detail, result.key == report.baseline, (figures[0], figures[1], figures[2])))
    return rows


def _names(report: Report) -> list[str]:
    """Inputs that have results, and `total` last if there is more than one."""
    names = [item.name for item in report.inputs if report.of(item.name)]
    return [*names, TOTAL] if len(names) > 1 and report.of(TOTAL) else names


def _pages_of(report: Report, name: str) -> tuple[int, int]:
    """(pages, same-filled among them)."""
    items = [item for item in report.inputs if name in (item.name, TOTAL)]
    return sum(item.pages for item in items), sum(item.same_filled for item in items)


def _about(report: Report) -> list[str]:
    """Sentences on how it was measured."""
    baseline = f"{report.baseline[1]} of {report.baseline[0]}"
    lines = [
        host_line(report.host),
        f"One thread, {'cold' if report.cold else 'warm'} caches, median of {report.rounds} rounds; MB = 10^6 bytes of"
        f" pages; every page verified. x: times {baseline}, in the same rounds.",
    ]
    ours = [r.version for r in report.results if r.implementation == "truezram" and r.version]
    others = dict.fromkeys(
        f"{r.implementation} {r.version}" for r in report.results if r.implementation != "truezram" and r.version
    )
    if others:
        lines.append(f"Baselines: {', '.join(others)}.")
    if ours:
        lines.append(f"zstd is {ours[0]}.")
    if report.dictionary is not None:
        known = report.dictionary
        lines.append(
            f"zstd+dictionary uses the dictionary {known.file} ({known.bytes:,} bytes, id {known.id}); the baselines"
            " use none. A dictionary does better on pages that it was trained on than on others."
        )
    if any(r.implementation == "zram" for r in report.results):
        lines.append("zram was measured last, as a device: requests of 256 KiB through the block layer.")
    if report.disturbed > 0.05:
        lines.append(
            f"{report.disturbed:.0%} of the timings were disturbed by other work and are less exact: repeat it on"
            " an idle machine."
        )
    return lines


# ---- terminal ----


_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"


def _bar(share: float, width: int, unicode: bool) -> str:
    if not unicode:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    return ("\u2588" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _times(figure: _Figure) -> str:
    return "" if figure.times is None else f"{figure.times:.2f}x"


def _table(rows: Sequence[_Row], width: int | None, unicode: bool) -> list[str]:
    names = [f"{row.name} ({row.detail})" if row.detail else row.name for row in rows]
    first = max(map(len, names))
    wide = [max(len(TITLES[i]) - 8, *(len(row.figures[i].text) for row in rows)) for i in range(3)]
    # Name, then per figure: two blanks, value, blank, multiple (7), blank, bar.
    room = ((width or 120) - 1 - first - sum(wide) - 3 * 11) // 2
    bars = min(24, room) if room >= 4 else 0
    lines = []
    head = " " * first
    for i in range(3):
        bar = bars if i else 0
        head += "  " + TITLES[i].rjust(wide[i] + 8).ljust(wide[i] + 8 + (1 + bar if bar else 0))
    lines.append(head.rstrip())
    for name, row in zip(names, rows, strict=True):
        line = name.ljust(first)
        for i, figure in enumerate(row.figures):
            line += f"  {figure.text:>{wide[i]}} {_times(figure):>7}"
            if i and bars:
                line += " " + _bar(figure.bar, bars, unicode).ljust(bars)
        lines.append(line.rstrip())
    return lines


def to_text(report: Report, width: int | None = None, unicode: bool = True) -> str:
    """Tables with bars, one per input and the total last. `width`: columns of the terminal; a narrow one gets no
    bars."""
    lines = []
    for name in _names(report):
        pages, same = _pages_of(report, name)
        lines.append(f"{name}: {pages:,} pages, {same:,} of them same-filled and left out")
        lines += [*_table(_rows(report, name), width, unicode), ""]
    return "\n".join([*lines, *_about(report)])


# ---- HTML ----


def _chart(report: Report, name: str, number: int) -> html_page.Chart:
    """One of the three figures of an input; memcpy, which is not a codec, does not make the scale."""
    shown = [
        (row, result)
        for row, result in zip(_rows(report, name), report.of(name), strict=True)
        if result.implementation != "libc"
    ]
    bars = [
        html_page.Bar(
            f"{row.name} {row.detail}".strip(),
            _values(result)[number],
            f"{row.figures[number].text} {_times(row.figures[number])}".strip(),
            result.implementation == "truezram",
        )
        for row, result in shown
    ]
    return html_page.Chart(TITLES[number], tuple(bars))


def _table_of(report: Report, name: str) -> html_page.Table:
    titles = ["algorithm", "implementation", *(part for title in TITLES for part in (title, "x"))]
    rows = [
        [row.name, row.detail, *(part for figure in row.figures for part in (figure.text, _times(figure)))]
        for row in _rows(report, name)
    ]
    return html_page.table(titles, rows, [result.implementation == "truezram" for result in report.of(name)])


def to_html(report: Report, more: Sequence[html_page.Section] = ()) -> str:
    """One self-contained page: charts and a table per input, the total first; then `more`."""
    sections = []
    names = _names(report)
    for name in [*names[-1:], *names[:-1]] if TOTAL in names else names:
        pages, same = _pages_of(report, name)
        about = f"{pages:,} pages, {same:,} of them same-filled and left out"
        charts = tuple(_chart(report, name, number) for number in range(3))
        sections.append(html_page.Section(name, (about,), charts, _table_of(report, name)))
    return html_page.page("Page codecs", [*_about(report), str(report.host["time"])], [*sections, *more])
