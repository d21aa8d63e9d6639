"""The results of `benchmark tiers` as JSON, as a table for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from truezram.engine.measure import html_page
from truezram.engine.measure.report import host_line, significant
from truezram.engine.measure.tiers_results import SCENARIOS, TIERS, HotReads, TiersReport, TiersResult
from truezram.engine.units import PAGE, format_ns, format_size

# ---- JSON ----


def _result(result: TiersResult, report: TiersReport) -> dict[str, Any]:
    other = report.baseline(result)
    return {
        "implementation": result.implementation,
        "algorithm": result.algorithm,
        "scenario": result.scenario or None,
        "orig_bytes": result.usage.orig,
        "compr_bytes": result.usage.compr,
        "used_bytes": result.usage.used,
        "reserve_bytes": result.usage.reserve,
        "used_over_zram": significant(result.usage.used / other.usage.used) if other else None,
        "memory": dict(result.memory) or None,
        "pages": dict(result.kinds) or None,
        "cpu_s": {"policy": result.policy_cpu_ns / 1e9, "server": result.server_cpu_ns / 1e9},
        "seconds": round(result.seconds, 3),
        "read_ns": {
            tier: {"pages": reads.pages, "p50": reads.ns.p50, "p99": reads.ns.p99, "p99.9": reads.ns.p999}
            for tier, reads in result.reads
        },
    }


def _hot(found: HotReads | None) -> dict[str, Any] | None:
    if found is None or not found.samples:
        return None
    return {
        "ratio": {"median": significant(found.median), "samples": [significant(sample) for sample in found.samples]},
        "read_ns": {"p50": found.ours.p50, "p99": found.ours.p99},
        "without_policy_ns": {"p50": found.other.p50, "p99": found.other.p99},
    }


def to_json(report: TiersReport) -> dict[str, Any]:
    """The document of a complete measurement, without its `schema`."""
    return {
        "kind": "tiers",
        "host": report.host,
        "inputs": [asdict(item) for item in report.inputs],
        "age_speed": report.age_speed,
        "policy": dict(report.policy),
        "scenarios": {s.name: dict(zip(TIERS, s.shares, strict=True)) for s in SCENARIOS},
        "results": [_result(result, report) for result in report.results],
        "hot_reads": {"policy_at_work": _hot(report.hot_at_work), "afterwards": _hot(report.hot_after)},
        "not_measured": [asdict(item) for item in report.not_measured],
        "notes": list(report.notes),
    }


# ---- the table ----


def _reads(tier: str) -> Callable[[TiersResult, TiersReport], str]:
    def text(result: TiersResult, report: TiersReport) -> str:
        del report
        found = dict(result.reads).get(tier)
        return "-" if found is None else f"{format_ns(found.ns.p50)} {format_ns(found.ns.p99)}"

    return text


def _over(result: TiersResult, report: TiersReport) -> str:
    other = report.baseline(result)
    return f"{result.usage.used / other.usage.used:.3f}x" if other else "-"


def _cpu(result: TiersResult, report: TiersReport) -> str:
    del report
    if not result.policy_cpu_ns:
        return "-"
    pages = result.usage.orig // PAGE
    return f"{result.policy_cpu_ns / 1e9:.2f} {format_ns(result.policy_cpu_ns / max(1, pages))}"


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its heading, the text of its cell, and its rank (cli/output.py: Column.keep)."""

    title: str
    text: Callable[[TiersResult, TiersReport], str]
    keep: int = 0
    right: bool = True


def fields(report: TiersReport) -> list[Field]:
    """The columns; those that compare only if there is something to compare with."""
    zram = [result for result in report.results if result.implementation == "zram"]
    return [
        Field("DEVICE", lambda result, _: result.implementation, right=False),
        Field("ALGORITHM", lambda result, _: result.algorithm, right=False),
        Field("PAGES", lambda result, _: result.scenario or "-", right=False),
        Field("MEMORY", lambda result, _: format_size(result.usage.used)),
        Field("RATIO", lambda result, _: f"{result.ratio:.3f}"),
        *([Field(f"OF ZRAM {zram[0].algorithm.upper()}", _over)] if zram else []),
        Field("CPU s, A PAGE", _cpu, keep=2),
        Field("READ HOT p50 p99", _reads("hot"), keep=1),
        Field("DENSE p50 p99", _reads("dense"), keep=1),
        Field("COLD p50 p99", _reads("cold"), keep=1),
    ]


def rows(report: TiersReport) -> list[list[str]]:
    """The cells of all results, in the order of `fields`."""
    return [[item.text(result, report) for item in fields(report)] for result in report.results]


def _hot_line(found: HotReads | None, when: str) -> list[str]:
    if found is None or not found.samples:
        return []
    return [
        f"Hot pages of the mix, {when}: {found.median:.3f} times as long as the same pages without a policy (medians of"
        f" {len(found.samples)} turns); p50 {format_ns(found.ours.p50)} against {format_ns(found.other.p50)}, p99"
        f" {format_ns(found.ours.p99)} against {format_ns(found.other.p99)}."
    ]


def about(report: TiersReport) -> list[str]:
    """Sentences on how it was measured, what was not, and what to keep in mind."""
    pages = sum(item.pages for item in report.inputs)
    same = sum(item.same_filled for item in report.inputs)
    mix = next(scenario.shares for scenario in SCENARIOS if scenario.name == "mix")
    lines = [
        host_line(report.host),
        f"{format_size(report.pages * PAGE)}: {pages:,} pages without {same:,} same-filled ones. MEMORY is all that a"
        " device takes, its reserve included. mix: "
        + ", ".join(f"{share:.0%} {tier}" for tier, share in zip(TIERS, mix, strict=True))
        + ". CPU is the policy's, in all and for each page of the device.",
        "Reads of one page each, in random order, through the local transport, every page compared; what is cold is"
        " read for the first time, so each read decompresses a group unless its neighbours were read right before.",
        f"The clock of ages ran {report.age_speed} times as fast, with "
        + ", ".join(f"{key}={value}" for key, value in report.policy)
        + ": balanced by that clock, but all of a core.",
        *_hot_line(report.hot_at_work, "while the policy was at work"),
        *_hot_line(report.hot_after, "afterwards"),
    ]
    if any(report.baseline(result) for result in report.results):
        lines.append(
            "zram's reads (in the first of these columns) are requests to a kernel device with O_DIRECT, ours wake a"
            " server and wait for it. zram's table (16 bytes a page) is not in its memory, ours is."
        )
    return [*lines, *(item.sentence for item in report.not_measured), *report.notes]


# ---- HTML ----


def _reads_chart(report: TiersReport) -> html_page.Chart:
    """The median of each tier's reads, with a line to p99."""
    bars = [
        html_page.Bar(
            f"{result.implementation} {result.algorithm}",
            reads.ns.p50,
            f"{format_ns(reads.ns.p50)}, p99 {format_ns(reads.ns.p99)}",
            result.implementation == "truezram",
            f"{tier}, {result.scenario}" if result.scenario else tier,
            reads.ns.p99,
        )
        for result in report.results
        for tier, reads in result.reads
    ]
    return html_page.Chart("reading one page", tuple(bars))


def to_html(report: TiersReport, more: Sequence[html_page.Section] = ()) -> str:
    """One self-contained page: charts, the table, and `more`."""
    ours = [result.implementation == "truezram" for result in report.results]
    names = [f"{result.implementation} {result.scenario or result.algorithm}" for result in report.results]
    memory = [
        html_page.Bar(name, result.usage.used, format_size(result.usage.used), own)
        for name, result, own in zip(names, report.results, ours, strict=True)
    ]
    charts = (html_page.Chart("memory of the same pages", tuple(memory)), _reads_chart(report))
    table = html_page.table([item.title for item in fields(report)], rows(report), ours)
    section = html_page.Section(charts=charts, table=table)
    return html_page.page("Tiers", [*about(report), str(report.host["time"])], [section, *more])
