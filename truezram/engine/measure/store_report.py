"""The results of `benchmark store` as JSON, as a table for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from truezram.engine.measure import html_page
from truezram.engine.measure.report import host_line, significant, speed_json
from truezram.engine.measure.store_bench import DISCARDED, OVERWRITES
from truezram.engine.measure.store_results import Latency, StoreReport, StoreResult, Usage
from truezram.engine.units import format_ns, format_size

# ---- JSON ----


def _usage(usage: Usage | None) -> dict[str, int]:
    assert usage is not None, "the measurement is not complete"
    return {"compr_bytes": usage.compr, "used_bytes": usage.used, "reserve_bytes": usage.reserve}


def _latency(latency: Latency | None) -> dict[str, int]:
    assert latency is not None, "the measurement is not complete"
    return {"p50": latency.p50, "p99": latency.p99, "p99.9": latency.p999}


def _result(result: StoreResult) -> dict[str, Any]:
    return {
        "implementation": result.implementation,
        "algorithm": result.algorithm,
        "threads": result.threads,
        "size": result.size,
        "orig_bytes": result.filled.orig,
        **_usage(result.filled),
        "after_overwrites": _usage(result.after_overwrites),
        "after_free": {**_usage(result.after_free), "seconds": round(result.free_seconds, 3)},
        "write_mb_s": speed_json(result.write),
        "read_mb_s": speed_json(result.read),
        "write_ns": _latency(result.write_ns),
        "read_ns": _latency(result.read_ns),
        "cpu_s_per_gib": {"write": significant(result.write_cpu), "read": significant(result.read_cpu)},
    }


def to_json(report: StoreReport) -> dict[str, Any]:
    """The document of a complete measurement, without its `schema`. Speeds in MB/s (10^6 bytes of pages a second), one
    sample per round."""
    return {
        "kind": "store",
        "host": report.host,
        "rounds": report.rounds,
        "inputs": [asdict(item) for item in report.inputs],
        "results": [_result(result) for result in report.results],
        "not_measured": [asdict(item) for item in report.not_measured],
        "notes": list(report.notes),
    }


# ---- what both tables show ----


def _over(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _packed(usage: Usage | None) -> str:
    return "-" if usage is None else _over(usage.used, usage.compr)


def _freed(result: StoreResult, report: StoreReport) -> str:
    del report
    return "-" if result.after_free is None else f"{_packed(result.after_free)} {result.free_seconds:.1f}s"


def _speed(kind: int) -> Callable[[StoreResult, StoreReport], str]:
    def text(result: StoreResult, report: StoreReport) -> str:
        speed = (result.write, result.read)[kind]
        times = report.speed_over(result)
        if not speed.samples:
            return "-"
        return f"{speed.median:,.0f}" + (f" {times[kind]:.2f}x" if times else "")

    return text


def _stored(result: StoreResult, report: StoreReport) -> str:
    other = report.baseline(result)
    return f"{result.ratio:.3f}" + (f" {result.ratio / other.ratio:.2f}x" if other else "")


def _times(latency: Latency | None) -> str:
    return "-" if latency is None else " ".join(map(format_ns, (latency.p50, latency.p99, latency.p999)))


def _cpu(result: StoreResult, report: StoreReport) -> str:
    del report
    return f"{result.write_cpu:.2f} {result.read_cpu:.2f}" if result.read_cpu else "-"


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its heading, the text of its cell, and its rank (cli/output.py: Column.keep)."""

    title: str
    text: Callable[[StoreResult, StoreReport], str]
    keep: int = 0
    right: bool = True


FIELDS = (
    Field("IMPLEMENTATION", lambda result, _: result.implementation, right=False),
    Field("ALGORITHM", lambda result, _: result.algorithm, right=False),
    Field("THREADS", lambda result, _: str(result.threads)),
    Field("STORED RATIO", _stored),
    Field("USED/COMPR", lambda result, _: _packed(result.filled)),
    Field("OVERWRITTEN", lambda result, _: _packed(result.after_overwrites), keep=1),
    Field("DISCARDED", _freed, keep=1),
    Field("WRITE MB/s", _speed(0)),
    Field("READ MB/s", _speed(1)),
    Field("WRITE p50 p99 p99.9", lambda result, _: _times(result.write_ns), keep=3),
    Field("READ p50 p99 p99.9", lambda result, _: _times(result.read_ns), keep=3),
    Field(
        "CPU s/GiB W R",
        lambda result, _: f"{result.write_cpu:.2f} {result.read_cpu:.2f}" if result.read_cpu else "-",
        2,
    ),
)
"""The columns."""


def rows(report: StoreReport) -> list[list[str]]:
    """The cells of all results, in the order of `FIELDS`."""
    return [[item.text(result, report) for item in FIELDS] for result in report.results]


def about(report: StoreReport) -> list[str]:
    """Sentences on how it was measured, what was not, and what to keep in mind."""
    pages = sum(item.pages for item in report.inputs)
    same = sum(item.same_filled for item in report.inputs)
    lines = [
        host_line(report.host),
        f"{format_size(report.size)} in each, of {pages:,} pages, {same:,} of them same-filled and left out. One page"
        f" at a time, in random order; median of {report.rounds} rounds; MB = 10^6 bytes of pages; every page"
        " verified.",
        "STORED RATIO is the pages' bytes over all memory taken, USED/COMPR that memory over the bytes of objects;"
        f" OVERWRITTEN: the same after {OVERWRITES} times as many random overwrites; DISCARDED: after a random"
        f" {DISCARDED:.0%} was discarded, and when it was measured.",
    ]
    if any(report.baseline(result) for result in report.results):
        lines.append(
            "x: times the first zram with as many threads. zram's figures are those of a kernel device: requests of one"
            " page with O_DIRECT, through the system call and the block layer; ours are the store's, in this process,"
            " and a device adds the cost of ublk. zram's table (16 bytes a page) is not in its memory, ours is."
        )
    return [*lines, *(item.sentence for item in report.not_measured), *report.notes]


# ---- HTML ----


def _chart(title: str, report: StoreReport, value: Callable[[StoreResult], float], text: str) -> html_page.Chart:
    """One figure of all results; `text` formats it."""
    bars = [
        html_page.Bar(
            f"{result.implementation} {result.algorithm}",
            value(result),
            format(value(result), text),
            result.implementation == "truezram",
            f"{result.threads} threads" if result.threads > 1 else "1 thread",
        )
        for result in sorted(report.results, key=lambda result: result.threads)
    ]
    return html_page.Chart(title, tuple(bars))


def to_html(report: StoreReport, more: Sequence[html_page.Section] = ()) -> str:
    """One self-contained page: charts, the table, and `more`."""
    ours = [result.implementation == "truezram" for result in report.results]
    charts = (
        _chart("stored ratio: pages over all memory taken", report, lambda result: result.ratio, ".3f"),
        _chart("write MB/s", report, lambda result: result.write.median, ",.0f"),
        _chart("read MB/s", report, lambda result: result.read.median, ",.0f"),
        _chart("read p99 ns", report, lambda result: result.read_ns.p99 if result.read_ns else 0, ",.0f"),
    )
    table = html_page.table([item.title for item in FIELDS], rows(report), ours)
    section = html_page.Section(charts=charts, table=table)
    return html_page.page("The store", [*about(report), str(report.host["time"])], [section, *more])
