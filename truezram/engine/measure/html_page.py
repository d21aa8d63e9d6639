"""Self-contained HTML pages for the results of all benchmarks: text, charts and tables in one file.

Nothing is loaded from anywhere: the style is in the page, charts are inline SVG, and there is no script. Light and dark
follow the reader's system; print is light.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_LIGHT = "--ink: #1d2330; --soft: #667085; --line: #d8dde6; --paper: #fff; --ours: #2f6fde; --other: #9aa4b5;"
_DARK = "--ink: #e6e9ef; --soft: #98a2b3; --line: #363d4a; --paper: #151922; --ours: #6ea0ff; --other: #5b6577;"
_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} body {{ margin: 0; max-width: none; font-size: 9pt; }}
  figure, tr {{ break-inside: avoid; }} * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }}
main {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ font-weight: 600; color: var(--soft); }}
p, figcaption {{ color: var(--soft); }}
tr.ours td:first-child {{ color: var(--ours); font-weight: 600; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1rem 2rem; }}
figure {{ margin: 0; }}
figcaption {{ font-weight: 600; }}
svg {{ width: 100%; height: auto; font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }}
svg text {{ fill: var(--ink); }}
svg .group {{ fill: var(--soft); font-weight: 600; }}
svg .other {{ fill: var(--other); }}
svg .ours {{ fill: var(--ours); }}
svg .whisker {{ stroke: var(--soft); }}
"""
_WIDTH, _LABELS, _FIGURES, _ROW, _BAR = 640, 200, 130, 20, 13
_LETTER, _GAP = 7, 8


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: float
    text: str
    """The value as it is shown."""
    ours: bool
    group: str = ""
    """Bars of one group follow each other under its name."""
    upto: float = 0.0
    """A thin line from the bar's end to here, if it is more: a percentile above the median, for example."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars on one scale from 0."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; `ours`: which of them are truezram's."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ours: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its title (empty: none), sentences, charts side by side, then a table."""

    title: str = ""
    about: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], ours: Sequence[bool]) -> Table:
    """A `Table` of any sequences."""
    return Table(tuple(titles), tuple(map(tuple, rows)), tuple(ours))


def _figure(chart: Chart) -> str:
    """A chart as an inline SVG with its caption."""
    most = max((max(bar.value, bar.upto) for bar in chart.bars), default=0.0) or 1.0
    labels = max(_LABELS, _LETTER * max((len(bar.label) for bar in chart.bars), default=0) + _GAP)
    room = _WIDTH - labels - _FIGURES
    parts, y, group = [], 0, ""
    for bar in chart.bars:
        if bar.group and bar.group != group:
            group = bar.group
            parts.append(f'<text class="group" x="0" y="{y + 14}">{html.escape(group)}</text>')
            y += _ROW
        middle, width = y + _BAR / 2, max(1.0, room * bar.value / most)
        end = max(width, room * bar.upto / most)
        kind = "ours" if bar.ours else "other"
        parts.append(
            f'<text x="{labels - _GAP}" y="{y + 11}" text-anchor="end">{html.escape(bar.label)}</text>'
            f'<rect class="{kind}" x="{labels}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
        )
        if end > width:
            parts.append(
                f'<path class="whisker" d="M{labels + width:.1f} {middle}H{labels + end:.1f}m0 -4v8" fill="none"/>'
            )
        parts.append(f'<text x="{labels + end + 6:.1f}" y="{y + 11}">{html.escape(bar.text)}</text>')
        y += _ROW
    title = html.escape(chart.title)
    return (
        f'<figure><figcaption>{title}</figcaption><svg role="img" aria-label="{title}"'
        f' viewBox="0 0 {_WIDTH} {max(y, 1)}">{"".join(parts)}</svg></figure>'
    )


def _table(found: Table) -> str:
    heads = "".join(f"<th>{html.escape(title)}</th>" for title in found.titles)
    starts = ['<tr class="ours">' if own else "<tr>" for own in found.ours]
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in found.rows]
    body = "\n".join(f"{start}{row}</tr>" for start, row in zip(starts, cells, strict=True))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _section(section: Section) -> str:
    lines = [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
    lines += [f"<p>{html.escape(line)}</p>" for line in section.about]
    charts = [_figure(chart) for chart in section.charts if chart.bars]
    if charts:
        lines.append(f'<div class="charts">{"".join(charts)}</div>')
    if section.table is not None:
        lines.append(_table(section.table))
    return "\n".join(lines)


def page(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page."""
    lines = "".join(f"<p>{html.escape(line)}</p>\n" for line in about)
    body = "\n".join(map(_section, sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>'
        f"truezram: {html.escape(title.lower())}</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{lines}<main>\n{body}\n</main>"
        "</body></html>\n"
    )
