"""The real engine behind the app's `Engine` protocol: the only file of the app that calls the engine's functions.

Calls come from several threads (the reader, jobs): each creates its own `Client` if it needs one, and the reader keeps
one. What the first snapshot does not need is imported when it is called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from truezram.app.backend.protocol import (
    PATH,
    BenchResult,
    BenchRow,
    Capabilities,
    DeviceRow,
    Estimate,
    ProcessEstimate,
    Progress,
    StoreRow,
    TiersRow,
)
from truezram.engine.answers import ArenaCheck, Change, Check, PageMap, Recompressed, Scope, Tunable, WrittenBack
from truezram.engine.device.client import Client
from truezram.engine.device.options import CreateOptions, RecompressOptions, WritebackOptions
from truezram.engine.model import DeviceSnapshot, Snapshot
from truezram.engine.units import PAGE, format_size, parse_duration

if TYPE_CHECKING:
    from truezram.engine.device.events import Event
    from truezram.engine.device.reset import Emptied
    from truezram.engine.device.setup import Plan


def _staged(progress: Progress) -> Callable[[str, int, int], None]:
    """Converts the engine's progress of a removal, (stage, done, total)."""

    def report(stage: str, done: int, total: int) -> None:
        if stage == "swapoff":
            progress(done / total if total else None, f"swapoff: {format_size(done)} of {format_size(total)} read back")
        else:
            # How long a server takes to exit is unknown.
            progress(None, "waiting for its server to exit")

    return report


class RealEngine:
    """See `protocol.Engine`."""

    def __init__(self) -> None:
        self._reader: Client | None = None

    def snapshot(self) -> Snapshot:
        """Called by the reader thread only."""
        if self._reader is None:
            self._reader = Client()
        return self._reader.snapshot()

    def missed(self, known: Sequence[Event]) -> tuple[Event, ...]:
        """From the logs that this user may read."""
        from truezram.engine.device import server_log

        with Client() as client:
            return tuple(server_log.missed(client.entries(), known)[0])

    def capabilities(self) -> Capabilities:
        """From the doctor's decisive checks and the C library's table of codecs."""
        from truezram._native import lib
        from truezram.engine.algorithms import algorithms, default_algorithm
        from truezram.engine.device import filesystem, nbd
        from truezram.engine.device.boot import why_not
        from truezram.engine.device.create import CONTROL
        from truezram.engine.machine.doctor import examine

        root = os.geteuid() == 0
        report = examine()
        bad = [check for check in report.checks if check.state == "fail" and check.name != "root"]
        why = f"{bad[0].detail}. {bad[0].remedy}".strip(". ") if bad else ""
        ublk = not bad if root else CONTROL.exists() or not bad
        return Capabilities(
            recovery_why=report.no_recovery,
            persist_why=why_not(),
            ublk=ublk,
            ublk_why=why,
            nbd=root and nbd.may_be_had(),
            root=root,
            algorithms=tuple(sorted(algorithms(), key=lambda a: a.name != default_algorithm())),
            max_queues=min(lib.TZ_MAX_QUEUES, os.cpu_count() or 1),
            filesystems=filesystem.available(),
        )

    def create(self, options: CreateOptions, progress: Progress) -> str:
        """The server reports when it is ready; until then the progress is unknown."""
        if options.enable:
            from truezram.engine.device.boot import create_enabled

            progress(None, "starting the server, and enabling it")
            return create_enabled(options).name
        from truezram.engine.device.create import create

        progress(None, "starting the server")
        return create(options).name

    def setup_plan(self, ratio: float | None) -> Plan:
        """From the machine as it is now."""
        from truezram.engine.device import setup

        return setup.plan(setup.measured_facts(ratio))

    def set_up(self, plan: Plan, progress: Progress) -> tuple[str, ...]:
        """As the verb does it."""
        from truezram.engine.device import setup

        return tuple(setup.apply(plan, lambda text: progress(None, text)))

    def remove(self, name: str, force: bool, progress: Progress) -> None:
        """Swapoff, then stop."""
        from truezram.engine.device.removal import remove

        with Client() as client:
            remove(client, name, force, _staged(progress))

    def reset(self, name: str, progress: Progress) -> Emptied:
        """In pieces; between two of them it can be cancelled."""
        from truezram.engine.device.reset import reset

        with Client() as client:
            return reset(client, name, lambda share: progress(share, "discarding"))

    def recover(self, name: str, progress: Progress) -> bool:
        """How long a server takes to attach is unknown."""
        from truezram.engine.device.recovery import recover

        progress(None, "starting a server that takes over")
        with Client() as client:
            return recover(client, name)

    def upgrade(self, name: str, progress: Progress) -> str:
        """As long as `recover`."""
        from truezram.engine.device.recovery import upgrade

        progress(None, "starting the installed server")
        with Client() as client:
            done = upgrade(client, name)
        return f"{done.before} → {done.after}" if done.replaced else ""

    def page_map(self, name: str, first: int, pages: int, regions: int, by: str = "kind") -> PageMap:
        """Asked of the device's server."""
        with Client() as client:
            return client.page_map(name, first, pages, regions, by)

    def recompress(self, name: str, options: RecompressOptions, progress: Progress) -> Recompressed:
        """Asked of the device's server, and watched."""
        from truezram.engine.device import cold

        with Client() as client:
            idle = parse_duration(options.idle, "idle time")
            run = cold.recompress(client, client.resolve(name), options.to, idle, options.max_cpu)
            return cold.watch(client, run, lambda share, device: progress(share, _recompressed(run.before, device)))

    def write_back(self, name: str, options: WritebackOptions, progress: Progress) -> WrittenBack:
        """Asked of the device's server, and watched."""
        from truezram.engine.device import cold

        with Client() as client:
            entry = client.resolve(name)
            if options.back:
                run = cold.bring(client, entry, options.max_cpu)
            else:
                run = cold.write_back(client, entry, parse_duration(options.idle, "idle time"), options.max_cpu)
            return cold.watch_backing(client, run, lambda share, device: progress(share, _on_file(device)))

    def stop_recompress(self, name: str) -> bool:
        """Asked of the device's server."""
        with Client() as client:
            return client.stop_recompress(name)

    def compact(self, name: str, progress: Progress) -> int:
        """Asked of the device's server, and watched."""
        from truezram.engine.device.compaction import compact

        with Client() as client:
            return compact(client, name, lambda share, device: progress(share, _packed(device))).gained

    def check_arena(self, name: str) -> ArenaCheck:
        """Read here, without the device's server."""
        from truezram.engine.device.check import check_device

        with Client() as client:
            return check_device(client.resolve(name))

    def doctor(self) -> tuple[Check, ...]:
        """All checks."""
        from truezram.engine.machine.doctor import examine

        return examine().checks

    def tunables(self) -> tuple[Tunable, ...]:
        """The machine's, then each device's."""
        from truezram.engine.device import settings
        from truezram.engine.machine import tune

        return (*tune.tunables(), *settings.of_devices())

    def tune(self, device: str, key: str, value: str) -> None:
        """One setting, checked as the verbs check it; the machine's are journalled by the engine."""
        if device:
            from truezram.engine.device.create import parse_settings, set_values

            with Client() as client:
                set_values(client, client.resolve(device), parse_settings([f"{key}={value}"]))
            return
        from truezram.engine.machine.tune import apply

        apply([f"{key}={value}"])

    def journal(self) -> tuple[Change, ...]:
        """Newest first."""
        from truezram.engine.machine.tune import history

        changes, _ = history()
        return tuple(reversed(changes))

    def undo(self, change_id: int) -> None:
        """By its number."""
        from truezram.engine.machine.tune import undo

        undo([f"#{change_id}"])

    def estimate(self, scope: Scope, by: str, progress: Progress) -> Estimate:
        """Read-only sampling in a separate process, with partial results."""
        from truezram.engine.measure import worker

        if scope.kind == PATH:
            found = worker.run("entropy", lambda fraction, text, _: progress(fraction, text), path=scope.value)
            return _files(scope, found)

        def report(fraction: float | None, text: str, found: Any) -> None:
            progress(fraction, text, _estimate(scope, by, found) if found is not None else None)

        found = worker.run("estimate", report, kind=scope.kind, value=scope.value, by=by)
        return _estimate(scope, by, found)

    def benchmark(self, seconds: float, progress: Progress) -> BenchResult:
        """On a sample of the memory of running processes, in a separate process; rows after each round."""
        from truezram.engine.measure import worker

        began = time.time()

        def report(fraction: float | None, text: str, found: Any) -> None:
            progress(fraction, text)
            for row in _rows(found) if found is not None else ():
                progress(fraction, text, row)

        found = worker.run("benchmark", report, seconds=seconds)
        machine = _machine(found.host)
        notes: tuple[str, ...] = ()
        if found.disturbed > 0.2:
            notes += (f"{found.disturbed * 100:.0f}% of the timings were disturbed",)
        if not any(result.implementation == "zram" for result in found.results):
            notes += ("kernel zram is measured as root, with its module loaded",)
        seconds = time.time() - began
        return BenchResult(time=began, machine=machine, seconds=seconds, rows=tuple(_rows(found)), notes=notes)

    def store_benchmark(self, size: int, rounds: int, progress: Progress) -> BenchResult:
        """On a sample of the memory of running processes, in a separate process."""
        found, result = _benchmark("store benchmark", _store_rows, progress, size=size, rounds=rounds)
        return replace(result, store=_store_rows(found))

    def device_benchmark(self, runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        """With pages of a sample of the memory of running processes, in a separate process."""
        found, result = _benchmark(
            "device benchmark", _device_rows, progress, runtime=runtime, rounds=rounds, modes=list(modes)
        )
        return replace(result, devices=_device_rows(found))

    def tiers_benchmark(self, rounds: int, progress: Progress) -> BenchResult:
        """With pages of a sample of the memory of running processes, in a separate process."""
        found, result = _benchmark("tiers benchmark", _tiers_rows, progress, rounds=rounds)
        return replace(result, tiers=_tiers_rows(found), notes=(*_hot_pages(found), *result.notes))


def _benchmark(
    name: str, rows: Callable[[Any], tuple[object, ...]], progress: Progress, **options: Any
) -> tuple[Any, BenchResult]:
    """Runs it in a separate process, with rows whenever there are new figures: its report, and the run without rows."""
    from truezram.engine.measure import worker

    began = time.time()

    def report(fraction: float | None, text: str, found: Any) -> None:
        progress(fraction, text, rows(found) if found is not None else None)

    found = worker.run(name, report, **options)
    seconds = time.time() - began
    return found, BenchResult(time=began, machine=_machine(found.host), seconds=seconds, notes=_notes(found))


def _notes(report: Any) -> tuple[str, ...]:
    """What was not measured, those of one reason together, and what to keep in mind."""
    missing: dict[str, list[str]] = {}
    for item in report.not_measured:
        missing.setdefault(f"{item.why}. {item.remedy}".strip(" ."), []).append(item.algorithm)
    left_out = (f"kernel zram ({', '.join(names)}) was not measured: {why}" for why, names in missing.items())
    return (*left_out, *report.notes)


def _device_rows(report: Any) -> tuple[DeviceRow, ...]:
    """What is known so far."""

    def over(result: Any, target: str) -> float:
        other = report.same_case(result, target)
        return 0.0 if other is None or other is result else result.over(other)

    return tuple(
        DeviceRow(
            target=r.target,
            algorithm=r.algorithm or "",
            queues=r.queues or 0,
            workload=r.case.workload,
            depth=r.case.depth,
            rate=r.iops,
            p50=r.latency.p50,
            p99=r.latency.p99,
            p999=r.latency.p999,
            cpu_ns=round(r.cpu_ns),
            over_null=over(r, "null"),
            over_zram=over(r, "zram"),
            mode=r.mode or "",
        )
        for r in report.results
    )


def _machine(host: Any) -> str:
    return " ".join(str(host[key]) for key in ("cpu", "isa", "kernel") if host.get(key))


def _store_rows(report: Any) -> tuple[StoreRow, ...]:
    def packed(usage: Any) -> float:
        return usage.used / usage.compr if usage is not None and usage.compr else 0.0

    rows = []
    for r in report.results:
        other, over = report.baseline(r), report.speed_over(r) or (0.0, 0.0)
        rows.append(
            StoreRow(
                implementation=r.implementation,
                algorithm=r.algorithm,
                threads=r.threads,
                ratio=r.ratio,
                ratio_over=r.ratio / other.ratio if other else 0.0,
                packed=packed(r.filled),
                packed_overwritten=packed(r.after_overwrites),
                packed_discarded=packed(r.after_free),
                discarded_seconds=r.free_seconds,
                write_rate=r.write.median * 1e6 if r.write.samples else 0.0,
                read_rate=r.read.median * 1e6 if r.read.samples else 0.0,
                write_over=over[0],
                read_over=over[1],
            )
        )
    return tuple(rows)


def _tiers_rows(report: Any) -> tuple[TiersRow, ...]:
    rows = []
    for r in report.results:
        other, reads = report.baseline(r), dict(r.reads)
        times = {f"{tier}_{name}": getattr(read.ns, name) for tier, read in reads.items() for name in ("p50", "p99")}
        rows.append(
            TiersRow(
                implementation=r.implementation,
                algorithm=r.algorithm,
                scenario=r.scenario,
                used=r.usage.used,
                ratio=r.ratio,
                used_over=r.usage.used / other.usage.used if other else 0.0,
                policy_ns=r.policy_cpu_ns // max(1, r.usage.orig // PAGE),
                **times,
            )
        )
    return tuple(rows)


def _hot_pages(report: Any) -> tuple[str, ...]:
    """What the policy costs pages that are in use."""
    turns = (("while it was at work", report.hot_at_work), ("afterwards", report.hot_after))
    found = [f"{reads.median:.3f}x {when}" for when, reads in turns if reads is not None and reads.samples]
    why = "Reading hot pages of the mix took, compared with the same pages without a policy,"
    return (f"{why} {', '.join(found)}",) if found else ()


def _packed(device: DeviceSnapshot) -> str:
    return f"packing segments, {format_size(device.mem_used_total)} in use"


def _recompressed(before: DeviceSnapshot, now: DeviceSnapshot) -> str:
    return f"idle pages take {format_size(now.recompressed_saved - before.recompressed_saved)} less"


def _on_file(device: DeviceSnapshot) -> str:
    return f"{device.backed_pages} pages in {format_size(device.backing_used)} on the backing file"


def _rows(report: Any) -> list[BenchRow]:
    several = len(report.inputs) > 1
    return [
        BenchRow(
            codec=r.algorithm if r.implementation == "truezram" else f"{r.implementation} {r.algorithm}".strip(),
            corpus=r.input,
            ratio=r.ratio,
            compress_rate=r.compress.median * 1e6,
            decompress_rate=r.decompress.median * 1e6,
            ours=r.implementation == "truezram",
        )
        for r in report.results
        if several or r.input != "total"
    ]


def _files(scope: Scope, found: Any) -> Estimate:
    """Of a file, or of all below a folder."""
    (item,) = found.paths
    total = ProcessEstimate(
        pid=0,
        command=item.path,
        user="",
        bytes=item.bytes,
        sampled=item.sampled,
        same_filled=item.same_filled,
        algorithms=item.algorithms,
        processes=item.files,
    )
    return Estimate(
        scope=scope,
        by="",
        total=total,
        skipped=len(found.skipped),
        skipped_why="; ".join(sorted({left.why for left in found.skipped})),
        seconds=found.seconds,
        pages=item.pages,
        entropy=item.entropy,
    )


def _estimate(scope: Scope, by: str, found: Any) -> Estimate:
    return Estimate(
        scope=scope,
        by=by,
        total=_group(found.total),
        processes=tuple(_group(group) for group in found.groups),
        skipped=len(found.skipped),
        skipped_why="; ".join(sorted({item.why for item in found.skipped})),
        seconds=found.seconds,
        complete=found.complete,
    )


def _group(group: Any) -> ProcessEstimate:
    return ProcessEstimate(
        pid=group.pid or 0,
        command="".join(char if char.isprintable() else "?" for char in group.name),
        user=group.user,
        bytes=group.bytes,
        sampled=group.sampled,
        same_filled=group.same_filled,
        algorithms=group.algorithms,
        processes=group.processes,
    )
