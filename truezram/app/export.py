"""Exports: the screen as SVG, the devices as CSV, the history as JSON lines, and a report as HTML that needs nothing
else; of a page with a result of its own (a benchmark, an estimate), that result in the same formats."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from truezram.app.columns import COLUMNS, Row
from truezram.app.series import History
from truezram.engine.device.events import Event
from truezram.engine.units import format_size


@dataclass(frozen=True, slots=True)
class Table:
    """A page's result: what it is called (one word), what was measured, and lines of the same keys, in plain units."""

    name: str
    about: str
    rows: Sequence[Mapping[str, object]]


def table_to_csv(table: Table) -> str:
    """A heading, and a line for each; what is not known is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table.rows[0]) if table.rows else [])
    writer.writeheader()
    writer.writerows(table.rows)
    return out.getvalue()


def table_to_json_lines(table: Table) -> str:
    """A JSON object for each line."""
    schema = f"truezram.{table.name}-row/1"
    lines = ({"schema": schema, "about": table.about, "row": dict(row)} for row in table.rows)
    return "".join(json.dumps(line) + "\n" for line in lines)


def table_to_html(table: Table, now: float) -> str:
    """A report with the table."""

    def cell(value: object) -> str:
        text = "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
        return f"<td>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(key)}</th>" for key in (table.rows[0] if table.rows else ()))
    body = "".join("<tr>" + "".join(map(cell, row.values())) + "</tr>" for row in table.rows)
    return _document(
        f"truezram {table.name}",
        now,
        html.escape(table.about),
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    )


def _document(title: str, now: float, about: str, content: str) -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}, {stamp}</title><style>
body {{ font: 14px/1.4 sans-serif; margin: 2em; color: #1c2030; background: #fff }}
table {{ border-collapse: collapse }} td, th {{ padding: 2px 8px; text-align: right; border-bottom: 1px solid #ccc }}
figure {{ margin: 0 0 1em }} svg {{ width: 600px; height: 100px; background: #f1f2f6 }}
polyline {{ fill: none; stroke: #0069a8; stroke-width: 1.5 }}
</style></head><body><h1>{html.escape(title)}</h1><p>{stamp}. {about}</p>
{content}</body></html>
"""


def to_csv(rows: Sequence[Row]) -> str:
    """A line per device, with a heading; sizes in bytes, rates in bytes a second."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([column.key for column in COLUMNS])
    for row in rows:
        writer.writerow(["" if value == -1.0 else value for value in (column.order(row) for column in COLUMNS)])
    return out.getvalue()


def to_json_lines(history: History, rows: Sequence[Row]) -> str:
    """A line per device: what it is now, and its graphs' samples, one a second, null where there was none."""
    lines = []
    for row in rows:
        series = history.devices.get(row.device.name)
        samples = {
            metric: [None if math.isnan(value) else round(value, 6) for value in ring.values]
            for metric, ring in (series.rings.items() if series else ())
        }
        lines.append(
            json.dumps(
                {
                    "schema": "truezram.history/1",
                    "device": asdict(row.device),
                    "seconds_per_sample": 1,
                    "samples": samples,
                }
            )
        )
    return "".join(line + "\n" for line in lines)


def _polyline(values: Sequence[float], width: int, height: int, top: float) -> str:
    """SVG paths of the stretches between gaps."""
    paths: list[str] = []
    stretch: list[str] = []
    step = width / max(len(values) - 1, 1)
    for index, value in enumerate([*values, math.nan]):
        if math.isnan(value):
            if stretch:
                paths.append(f'<polyline points="{" ".join(stretch)}"/>')
            stretch = []
        else:
            stretch.append(f"{index * step:.1f},{height - min(value / top, 1) * height:.1f}")
    return "".join(paths)


def _chart(title: str, values: Sequence[float], label: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    top = max(known, default=0.0) or 1.0
    return (
        f"<figure><figcaption>{html.escape(title)}, highest {html.escape(label)}</figcaption>"
        f'<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="{html.escape(title)}">'
        f"{_polyline(values, 600, 100, top)}</svg></figure>"
    )


def to_html(history: History, rows: Sequence[Row], events: Iterable[Event], now: float) -> str:
    """A report: the table, a graph of throughput and ratio per device, the events."""
    head = "".join(f'<th title="{html.escape(c.about)}">{html.escape(c.title)}</th>' for c in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c.cell(row))}</td>" for c in COLUMNS) + "</tr>" for row in rows)
    charts = []
    for row in rows:
        series = history.devices.get(row.device.name)
        if series is None:
            continue
        charts.append(f"<h2>{html.escape(row.device.name)}</h2>")
        for metric in ("read", "write", "ratio"):
            values = list(series.rings[metric].values)
            top = max((value for value in values if not math.isnan(value)), default=0.0)
            label = f"{top:.2f}" if metric == "ratio" else f"{format_size(top)}/s"
            charts.append(_chart(f"{metric}, {len(values)} s", values, label))
    log = "".join(
        f"<tr><td>{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.time))}</td>"
        f"<td>{html.escape(event.level)}</td>"
        f"<td>{html.escape(event.device)}</td><td>{html.escape(event.text)}</td></tr>"
        for event in events
    )
    machine = history.latest.machine if history.latest else None
    about = (
        f"Linux {html.escape(machine.kernel)}, {format_size(machine.mem_total)} of memory, "
        f"{format_size(machine.mem_available)} free"
        if machine
        else ""
    )
    return _document(
        "truezram",
        now,
        about,
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n{''.join(charts)}\n"
        f"<h2>Events</h2><table><tbody>{log}</tbody></table>",
    )


def target(folder: Path, suffix: str, now: float) -> Path:
    """A name that is free: ``truezram-20260921-101112.svg``."""
    stem = f"truezram-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    path = folder / f"{stem}.{suffix}"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.{suffix}"
    return path
