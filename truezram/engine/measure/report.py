"""A benchmark's results as JSON, as tables for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --line: #d8dde6; --paper: #fff; --ours: #2f6fde;
  --other: #9aa4b5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #363d4a; --paper: #151922;
  --ours: #6ea0ff; --other: #5b6577; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); }
small, p { color: var(--soft); }
.bar { width: 22%; text-align: left; }
.bar i { display: block; height: .8rem; background: var(--other); border-radius: 2px; min-width: 1px; }
tr.ours .bar i { background: var(--ours); }
tr.baseline { font-weight: 600; }
"""


def _html_row(row: _Row, ours: bool) -> str:
    classes = " ".join(name for name, yes in (("ours", ours), ("baseline", row.is_baseline)) if yes)
    cells = [f"<td>{html.escape(row.name)} <small>{html.escape(row.detail)}</small></td>"]
    for i, figure in enumerate(row.figures):
        cells.append(f"<td>{figure.text}</td><td><small>{_times(figure)}</small></td>")
        if i:
            cells.append(f'<td class="bar"><i style="width:{100 * figure.bar:.1f}%"></i></td>')
    return f'<tr class="{classes}">{"".join(cells)}</tr>'


def to_html(report: Report) -> str:
    """One self-contained page: a table with bars per input, the total first."""
    heads = '<th>algorithm</th><th colspan="2">ratio</th>' + "".join(
        f'<th colspan="2">{title}</th><th></th>' for title in TITLES[1:]
    )
    parts = []
    names = _names(report)
    for name in [*names[-1:], *names[:-1]] if TOTAL in names else names:
        pages, same = _pages_of(report, name)
        rows = zip(_rows(report, name), report.of(name), strict=True)
        body = "\n".join(_html_row(row, result.implementation == "truezram") for row, result in rows)
        parts.append(
            f"<h2>{html.escape(name)}</h2>\n<p>{pages:,} pages, {same:,} of them same-filled and left out</p>\n"
            f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"
        )
    return html_page("Page codecs", [*_about(report), str(report.host["time"])], "".join(parts))


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]], ours: Sequence[bool]) -> str:
    """A table; `ours`: which of its rows are truezram's."""
    heads = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    starts = ['<tr class="ours">' if own else "<tr>" for own in ours]
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    body = "\n".join(f"{start}{row}</tr>" for start, row in zip(starts, cells, strict=True))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"


def html_page(title: str, about: Sequence[str], body: str) -> str:
    """The self-contained page around some tables."""
    lines = "".join(f"<p>{html.escape(line)}</p>\n" for line in about)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>'
        f"truezram: {title.lower()}</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n{lines}{body}</body></html>\n"
    )
