"""The results of `benchmark device` as JSON, as a table for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from truezram._native import lib
from truezram.engine.measure import html_page
from truezram.engine.measure.device_results import SWAP, DeviceReport, DeviceResult
from truezram.engine.measure.device_targets import NULL, OURS, ZRAM
from truezram.engine.measure.report import host_line, significant
from truezram.engine.measure.store_results import Latency
from truezram.engine.units import format_exact, format_ns, format_size

# ---- JSON ----


def _us(latency: Latency) -> dict[str, float]:
    return {"p50": latency.p50 / 1000, "p99": latency.p99 / 1000, "p99.9": latency.p999 / 1000}


def _result(result: DeviceResult) -> dict[str, Any]:
    case = result.case
    servers = [sample.server_ns / sample.ns for sample in result.samples if sample.server_ns is not None]
    entry: dict[str, Any] = {
        "target": result.target,
        "algorithm": result.algorithm,
        "mode": result.mode,
        "data_mode": result.data_mode,
        "queues": result.queues,
        "workload": case.workload,
        "block_size": case.block,
        "depth": case.depth,
        "jobs": case.jobs,
        "iops": significant(result.iops),
        "mb_s": significant(result.mb_s),
        "latency_us": _us(result.latency),
        "cpu_share": significant(result.cpu_share),
        "cpu": {
            "load": significant(median(sample.load_ns / sample.ns for sample in result.samples)),
            "server": significant(median(servers)) if servers else None,
            "us_per_request": significant(result.cpu_ns / 1000),
        },
        "verified": result.verified,
        "samples": {
            "iops": [significant(sample.iops) for sample in result.samples],
            "p50_us": [sample.p50 / 1000 for sample in result.samples],
            "cpu_us": [significant(sample.cpu_ns / 1000) for sample in result.samples],
        },
    }
    if result.swap is not None:
        detail = result.swap
        entry["swap"] = {
            "paged_out": detail.out_pages,
            "out_mb_s": significant(detail.out_mb_s),
            "major_faults": detail.major_faults,
        }
    if result.fio is not None:
        entry["fio"] = {"iops": significant(result.fio.iops), "latency_us": _us(result.fio.latency)}
    return entry


def to_json(report: DeviceReport) -> dict[str, Any]:
    """The document of a measurement, without its `schema`. Samples: one per round."""
    return {
        "kind": "device",
        "host": report.host,
        "kernel": report.host["kernel"],
        "settings": {
            "size": report.size,
            "runtime": report.runtime,
            "rounds": report.rounds,
            "mixed_reads": lib.TZ_LOAD_READS / 100,
            "page_cluster": report.page_cluster,
        },
        "inputs": [asdict(item) for item in report.inputs],
        "results": [_result(result) for result in report.results],
        "not_measured": [asdict(item) for item in report.not_measured],
        "notes": list(report.notes),
    }


# ---- the table ----


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its heading, the text of its cell, and its rank (cli/output.py: Column.keep)."""

    title: str
    text: Callable[[DeviceResult, DeviceReport], str]
    keep: int = 0
    right: bool = True


def _over(target: str) -> Callable[[DeviceResult, DeviceReport], str]:
    def text(result: DeviceResult, report: DeviceReport) -> str:
        other = report.same_case(result, target)
        return "-" if other is None or other is result else f"{result.over(other):.2f}x"

    return text


def _times(result: DeviceResult, report: DeviceReport) -> str:
    del report
    return " ".join(map(format_ns, (result.latency.p50, result.latency.p99, result.latency.p999)))


def _fio(result: DeviceResult, report: DeviceReport) -> str:
    del report
    return "-" if result.fio is None else f"{result.fio.iops:,.0f} {format_ns(result.fio.latency.p50)}"


def fields(report: DeviceReport) -> list[Field]:
    """The columns; those that compare only if there is something to compare with."""
    targets = {result.target for result in report.results}
    zram = [result.algorithm or "" for result in report.results if result.target == ZRAM]
    modes = {result.mode for result in report.results} - {None}
    moves = {result.data_mode for result in report.results} - {None}
    queues = {result.queues for result in report.results} - {None, 1}
    jobs = any(result.case.jobs > 1 for result in report.results)
    return [
        Field("DEVICE", lambda result, _: result.name, right=False),
        *([Field("MODE", lambda result, _: result.mode or "-", right=False)] if len(modes) > 1 else []),
        *([Field("DATA", lambda result, _: result.data_mode or "-", right=False)] if len(moves) > 1 else []),
        *([Field("QUEUES", lambda result, _: str(result.queues or "-"))] if queues else []),
        Field("WORKLOAD", lambda result, _: result.case.workload, right=False),
        Field("BLOCK", lambda result, _: format_exact(result.case.block), keep=1),
        Field("DEPTH", lambda result, _: str(result.case.depth)),
        *([Field("JOBS", lambda result, _: str(result.case.jobs))] if jobs else []),
        Field("REQUESTS/s", lambda result, _: f"{result.iops:,.0f}"),
        Field("MB/s", lambda result, _: f"{result.mb_s:,.0f}", keep=2),
        *([Field("OF NULL", _over(NULL), keep=1)] if NULL in targets else []),
        *([Field(f"OF ZRAM {zram[0].upper()}", _over(ZRAM), keep=1)] if zram else []),
        Field("p50 p99 p99.9", _times),
        Field("CPU, A REQUEST", lambda result, _: f"{result.cpu_share:.2f} {format_ns(result.cpu_ns)}", keep=2),
        Field("VERIFIED", lambda result, _: f"{result.verified:,}" if result.verified else "-", keep=3),
        *([Field("FIO /s p50", _fio, keep=2)] if any(result.fio for result in report.results) else []),
    ]


def rows(report: DeviceReport) -> list[list[str]]:
    """The cells of all results, in the order of `fields`."""
    return [[item.text(result, report) for item in fields(report)] for result in report.results]


def about(report: DeviceReport) -> list[str]:
    """Sentences on how it was measured, what was not, and what to keep in mind."""
    pages, same = sum(item.pages for item in report.inputs), sum(item.same_filled for item in report.inputs)
    targets = {result.target for result in report.results}
    lines = [
        host_line(report.host),
        f"{format_size(report.size)} in each device that was made, of {pages:,} pages, {same:,} of them same-filled and"
        f" left out. {report.runtime:g} s for each load and device, in {report.rounds} rounds in turns; medians of the"
        " rounds, percentiles of all requests. O_DIRECT, io_uring; VERIFIED: pages that were read and compared. CPU:"
        " share of one, of the load and the device's server, and its time for a request. mixed:"
        f" {lib.TZ_LOAD_READS} % reads.",
    ]
    if NULL in targets:
        lines.append(
            "null is a ublk device of our own server without a store: data is moved, reads are zeros, writes are"
            " dropped. OF NULL: requests a second as a share of its."
        )
    if any(result.case.workload == SWAP for result in report.results):
        lines.append(
            "swap: a program's pages, touched in random order after they were paged out; REQUESTS/s and times are those"
            f" of touching a page, pages read ahead included (vm.page-cluster is {report.page_cluster})."
        )
    if any(result.fio for result in report.results):
        lines.append("FIO: the same load by fio, after all rounds: requests a second and the median.")
    lines += [item.sentence for item in report.not_measured]
    return [*lines, *report.notes]


# ---- HTML ----


def _bar(result: DeviceResult, value: float, text: str, upto: float = 0.0) -> html_page.Bar:
    case = result.case
    group = "" if case.workload == SWAP else f"depth {case.depth}" + (f", {case.jobs} jobs" if case.jobs > 1 else "")
    return html_page.Bar(result.full_name, value, text, result.target in (OURS,), group, upto)


def _section(workload: str, block: int, results: Sequence[DeviceResult]) -> html_page.Section:
    """The charts of one workload with one block size."""
    rates = [_bar(result, result.iops, f"{result.iops:,.0f}") for result in results]
    times = [
        _bar(
            result,
            result.latency.p50,
            f"{format_ns(result.latency.p50)}, p99 {format_ns(result.latency.p99)}",
            result.latency.p99,
        )
        for result in results
    ]
    title = workload if workload == SWAP else f"{workload}, {block // 1024} KiB"
    unit = "pages touched a second" if workload == SWAP else "requests a second"
    charts = (html_page.Chart(unit, tuple(rates)), html_page.Chart("median latency, with a line to p99", tuple(times)))
    return html_page.Section(title, charts=charts)


def to_html(report: DeviceReport, more: Sequence[html_page.Section] = ()) -> str:
    """One self-contained page: charts for each workload and block size, the table, and `more`."""
    kinds = dict.fromkeys((result.case.workload, result.case.block) for result in report.results)
    sections = [
        _section(*kind, [r for r in report.results if (r.case.workload, r.case.block) == kind]) for kind in kinds
    ]
    ours = [result.target == OURS for result in report.results]
    table = html_page.table([item.title for item in fields(report)], rows(report), ours)
    everything = html_page.Section("All figures", table=table)
    return html_page.page("Devices", [*about(report), str(report.host["time"])], [*sections, everything, *more])
