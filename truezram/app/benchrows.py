"""The rows, charts and names of the Bench page: one entry of `KINDS` for each kind of benchmark that it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from truezram.app import equivalent
from truezram.app.backend.protocol import BenchResult, BenchRow, DeviceRow, Engine, Progress, StoreRow, TiersRow
from truezram.app.format import short_size
from truezram.app.widgets.barchart import Bars
from truezram.app.widgets.grid import Head, Item
from truezram.engine.device.settings import DEFAULT_MODE, MODES
from truezram.engine.units import format_count, format_ns

HEADS = [
    Head("", 1, left=True),
    Head("CODEC", 14, left=True),
    Head("CORPUS", 10, left=True, rank=1),
    Head("RATIO", 5),
    Head("IN/s", 6),
    Head("OUT/s", 6),
    Head("AGAINST", 7, left=True, rank=1),
    Head("xIN", 6, rank=1),
    Head("xOUT", 6, rank=1),
    Head("IN/s BAR", 8, left=True, grow=True, rank=2),
    Head("MARKED", 6, rank=1),
]


STORE_HEADS = [
    Head("", 1, left=True),
    Head("STORE", 10, left=True),
    Head("THR", 3),
    Head("RATIO", 5),
    Head("xRATIO", 6, rank=1),
    Head("USED/COMPR", 10, rank=1),
    Head("REWRITTEN", 9, rank=2),
    Head("FREED", 11, rank=2),
    Head("WRITE/s", 7),
    Head("READ/s", 6),
    Head("xWRITE", 6, rank=1),
    Head("xREAD", 6, rank=1),
    Head("WRITE/s BAR", 8, left=True, grow=True, rank=3),
    Head("MARKED", 6, rank=1),
]


def _against(row: BenchRow, rows: list[BenchRow]) -> BenchRow | None:
    """The baseline of one of our codecs."""
    wanted = "libzstd " if row.codec.startswith(("dense", "zstd")) else "liblz4 "
    rivals = (r for r in rows if not r.ours and r.corpus == row.corpus and r.codec.startswith(wanted))
    return next(rivals, None) if row.ours else None


def _over(row: BenchRow, other: BenchRow | None) -> tuple[float, float]:
    """How many times as fast as `other`, in and out; 0: unknown."""
    if other is None or not other.compress_rate or not other.decompress_rate:
        return 0.0, 0.0
    return row.compress_rate / other.compress_rate, row.decompress_rate / other.decompress_rate


def _times(value: float) -> str:
    return f"{value:.2f}x" if value else "-"


def _figure(value: float, text: str) -> str:
    return text if value else "-"


def _codec_item(number: int, row: BenchRow, rows: list[BenchRow], marked: BenchResult | None) -> Item:
    """The row of a codec."""
    same = (r for r in (marked.rows if marked else ()) if (r.codec, r.corpus) == (row.codec, row.corpus))
    before = _over(row, next(same, None))[0]
    against = _against(row, rows)
    times_in, times_out = _over(row, against)
    # Copying does not compress: it is not used as the scale.
    fastest = max((r.compress_rate for r in rows if r.ratio > 1.0), default=1.0)
    cells = (
        " " if row.ours else "=",
        row.codec,
        row.corpus,
        f"{row.ratio:.2f}",
        short_size(row.compress_rate),
        short_size(row.decompress_rate),
        against.codec.split()[0] if against else "-",
        _times(times_in),
        _times(times_out),
        row.compress_rate / fastest if row.ratio > 1.0 else "",
        _times(before),
    )
    lost = 0 < min(times_in, times_out) < 1
    style = "muted" if not row.ours else "bad" if lost else ""
    order = (
        row.ours, row.codec, row.corpus, row.ratio, row.compress_rate, row.decompress_rate, cells[6], times_in,
        times_out, row.compress_rate, before,
    )  # fmt: skip
    return Item(f"{number}/{row.codec}/{row.corpus}", cells, style, order)


def _store_key(row: StoreRow) -> tuple[str, str, int]:
    return row.implementation, row.algorithm, row.threads


def _store_name(row: StoreRow) -> str:
    return row.algorithm if row.implementation == "truezram" else f"{row.implementation} {row.algorithm}"


def _store_item(number: int, row: StoreRow, rows: list[StoreRow], marked: BenchResult | None) -> Item:
    """The row of a store."""
    ours = row.implementation == "truezram"
    same = next((r for r in (marked.store if marked else ()) if _store_key(r) == _store_key(row)), None)
    before = row.write_rate / same.write_rate if same and same.write_rate else 0.0
    fastest = max((r.write_rate for r in rows), default=0.0) or 1.0
    cells = (
        " " if ours else "=",
        _store_name(row),
        str(row.threads),
        f"{row.ratio:.2f}",
        _times(row.ratio_over),
        _figure(row.packed, f"{row.packed:.3f}"),
        _figure(row.packed_overwritten, f"{row.packed_overwritten:.3f}"),
        _figure(row.packed_discarded, f"{row.packed_discarded:.2f} {row.discarded_seconds:.1f}s"),
        _figure(row.write_rate, short_size(row.write_rate)),
        _figure(row.read_rate, short_size(row.read_rate)),
        _times(row.write_over),
        _times(row.read_over),
        row.write_rate / fastest,
        _times(before),
    )
    known = [value for value in (row.ratio_over, row.write_over, row.read_over) if value]
    style = "muted" if not ours else "bad" if known and min(known) < 1 else ""
    order = (
        ours, cells[1], row.threads, row.ratio, row.ratio_over, row.packed, row.packed_overwritten,
        row.packed_discarded, row.write_rate, row.read_rate, row.write_over, row.read_over, row.write_rate, before,
    )  # fmt: skip
    return Item(f"{number}/{cells[1]}/{row.threads}", cells, style, order)


DEVICE_HEADS = [
    Head("", 1, left=True),
    Head("DEVICE", 14, left=True, grow=True, most=22),
    Head("Q", 2, rank=2),
    Head("WORKLOAD", 9, left=True),
    Head("DEPTH", 5),
    Head("REQ/s", 6),
    Head("xNULL", 6, rank=1),
    Head("xZRAM", 6, rank=1),
    Head("p50", 7),
    Head("p99", 7, rank=1),
    Head("p99.9", 7, rank=2),
    Head("CPU", 7, rank=2),
    Head("REQ/s BAR", 9, left=True, grow=True, rank=3),
    Head("MARKED", 6, rank=1),
]


def _device_key(row: DeviceRow) -> tuple[str, str, str, int, str, int]:
    return row.target, row.algorithm, row.mode or DEFAULT_MODE, row.queues, row.workload, row.depth


def _device_name(row: DeviceRow) -> str:
    name = row.algorithm if row.target == "truezram" else f"{row.target} {row.algorithm}".strip()
    return name if row.mode in ("", DEFAULT_MODE) else f"{name} {row.mode}"


def _device_item(number: int, row: DeviceRow, rows: Sequence[DeviceRow], marked: BenchResult | None) -> Item:
    """The row of a device under one load; its bar is next to the others' of that load."""
    ours = row.target == "truezram"
    same = next((r for r in (marked.devices if marked else ()) if _device_key(r) == _device_key(row)), None)
    before = row.rate / same.rate if same and same.rate else 0.0
    load = [r.rate for r in rows if (r.workload, r.depth) == (row.workload, row.depth)]
    cells = (
        " " if ours else "=",
        _device_name(row),
        str(row.queues) if row.queues else "-",
        row.workload,
        str(row.depth),
        format_count(row.rate),
        _times(row.over_null),
        _times(row.over_zram),
        format_ns(row.p50),
        format_ns(row.p99),
        format_ns(row.p999),
        format_ns(row.cpu_ns),
        row.rate / (max(load) or 1.0),
        _times(before),
    )
    style = "muted" if not ours else "bad" if 0 < row.over_zram < 1 else ""
    order = (
        ours, cells[1], row.queues, row.workload, row.depth, row.rate, row.over_null, row.over_zram, row.p50,
        row.p99, row.p999, row.cpu_ns, row.rate, before,
    )  # fmt: skip
    return Item("/".join(map(str, (number, *_device_key(row)))), cells, style, order)


TIERS_HEADS = [
    Head("", 1, left=True),
    Head("PAGES", 12, left=True),
    Head("MEMORY", 6),
    Head("RATIO", 5),
    Head("xZRAM", 6, rank=1),
    Head("CPU/PAGE", 8, rank=1),
    Head("HOT p50", 7),
    Head("p99", 7, rank=2),
    Head("DENSE", 7),
    Head("p99", 7, rank=2),
    Head("COLD", 7),
    Head("p99", 7, rank=2),
    Head("RATIO BAR", 9, left=True, grow=True, rank=3),
    Head("MARKED", 6, rank=1),
]


def _tiers_key(row: TiersRow) -> tuple[str, str, str]:
    return row.implementation, row.algorithm, row.scenario


def _tiers_name(row: TiersRow) -> str:
    return row.scenario or f"{row.implementation} {row.algorithm}"


def _tiers_reads(row: TiersRow) -> tuple[int, ...]:
    return row.hot_p50, row.hot_p99, row.dense_p50, row.dense_p99, row.cold_p50, row.cold_p99


def _tiers_item(number: int, row: TiersRow, rows: Sequence[TiersRow], marked: BenchResult | None) -> Item:
    """The row of a device with pages in some tier."""
    ours = row.implementation == "truezram"
    same = next((r for r in (marked.tiers if marked else ()) if _tiers_key(r) == _tiers_key(row)), None)
    before = row.ratio / same.ratio if same and same.ratio else 0.0
    reads = _tiers_reads(row)
    cells = (
        " " if ours else "=",
        _tiers_name(row),
        short_size(row.used),
        f"{row.ratio:.2f}",
        _times(row.used_over),
        _figure(row.policy_ns, format_ns(row.policy_ns)),
        *(_figure(ns, format_ns(ns)) for ns in reads),
        row.ratio / max((r.ratio for r in rows), default=row.ratio),
        _times(before),
    )
    style = "muted" if not ours else "bad" if row.used_over > 1 else ""
    order = (ours, cells[1], row.used, row.ratio, row.used_over, row.policy_ns, *reads, row.ratio, before)
    return Item("/".join(map(str, (number, *_tiers_key(row)))), cells, style, order)


# ---- charts ----

Drawing = tuple[str, list[str], list[Bars]]
"""Title, names, and the bars of each figure."""


def _codec_chart(rows: Sequence[BenchRow]) -> Drawing:
    corpus = rows[0].corpus if rows else ""
    some = [row for row in rows if row.corpus == corpus and row.ratio > 1.0]
    return (
        f"bytes per second on {corpus}",
        [row.codec if row.ours else f"= {row.codec}" for row in some],
        [
            Bars("in", [r.compress_rate for r in some], [short_size(r.compress_rate) for r in some]),
            Bars("out", [r.decompress_rate for r in some], [short_size(r.decompress_rate) for r in some]),
        ],
    )


def _store_chart(rows: Sequence[StoreRow]) -> Drawing:
    return (
        "pages over memory, bytes per second",
        [f"{' ' if r.implementation == 'truezram' else '= '}{_store_name(r)} {r.threads}".strip() for r in rows],
        [
            Bars("ratio", [r.ratio for r in rows], [f"{r.ratio:.2f}" for r in rows]),
            Bars("write", [r.write_rate for r in rows], [short_size(r.write_rate) for r in rows]),
            Bars("read", [r.read_rate for r in rows], [short_size(r.read_rate) for r in rows]),
        ],
    )


def _device_chart(rows: Sequence[DeviceRow]) -> Drawing:
    return (
        "requests per second, median latency",
        [f"{'' if r.target == 'truezram' else '= '}{_device_name(r)} {r.workload} {r.depth}" for r in rows],
        [
            Bars("rate", [r.rate for r in rows], [format_count(r.rate) for r in rows]),
            Bars("p50", [r.p50 for r in rows], [format_ns(r.p50) for r in rows]),
        ],
    )


def _tiers_chart(rows: Sequence[TiersRow]) -> Drawing:
    slowest = [max(r.hot_p50, r.dense_p50, r.cold_p50) for r in rows]
    return (
        "pages over memory, median of reading a page of the slowest tier",
        [f"{'' if r.implementation == 'truezram' else '= '}{_tiers_name(r)}" for r in rows],
        [
            Bars("ratio", [r.ratio for r in rows], [f"{r.ratio:.2f}" for r in rows]),
            Bars("p50", [float(ns) for ns in slowest], [format_ns(ns) for ns in slowest]),
        ],
    )


SECONDS = 20.0
STORE_SIZE, STORE_ROUNDS = 128 << 20, 3
DEVICE_RUNTIME, DEVICE_ROUNDS = 1.0, 5
TIERS_ROUNDS = 9


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of benchmark on the page."""

    title: str
    job: str
    """What is at work."""
    call: Callable[[Engine, Progress], BenchResult]
    """Runs it."""
    command: Callable[[bool], str]
    """The command that does the same; as root?"""
    field: str
    """Of `BenchResult`: its rows."""
    heads: list[Head]
    """The last one is shown when a run is marked."""
    item: Callable[[int, Any, Any, BenchResult | None], Item]
    chart: Callable[[Any], Drawing]
    export: str
    """The name of the exported table."""

    def rows(self, run: BenchResult | None) -> list[Any]:
        """Those of a run."""
        return list(getattr(run, self.field)) if run is not None else []


CODEC = Kind(
    "Codecs on this machine",
    "benchmark",
    lambda engine, progress: engine.benchmark(SECONDS, progress),
    lambda root: equivalent.benchmark(SECONDS, root),
    "rows",
    HEADS,
    _codec_item,
    _codec_chart,
    "benchmark",
)
STORE = Kind(
    "The store on this machine",
    "benchmark of the store",
    lambda engine, progress: engine.store_benchmark(STORE_SIZE, STORE_ROUNDS, progress),
    lambda root: equivalent.store_benchmark(STORE_SIZE, STORE_ROUNDS, root),
    "store",
    STORE_HEADS,
    _store_item,
    _store_chart,
    "benchmark-store",
)


def devices_in(modes: Sequence[str]) -> Kind:
    """The benchmark of devices, ours in each of these modes."""
    return Kind(
        "Devices on this machine",
        "benchmark of devices",
        lambda engine, progress: engine.device_benchmark(DEVICE_RUNTIME, DEVICE_ROUNDS, modes, progress),
        lambda root: equivalent.device_benchmark(DEVICE_RUNTIME, DEVICE_ROUNDS, modes),
        "devices",
        DEVICE_HEADS,
        _device_item,
        _device_chart,
        "benchmark-device",
    )


TIERS = Kind(
    "Tiers on this machine",
    "benchmark of tiers",
    lambda engine, progress: engine.tiers_benchmark(TIERS_ROUNDS, progress),
    lambda root: equivalent.tiers_benchmark(TIERS_ROUNDS, root),
    "tiers",
    TIERS_HEADS,
    _tiers_item,
    _tiers_chart,
    "benchmark-tiers",
)
KINDS = {"codec": CODEC, "store": STORE, "device": devices_in((DEFAULT_MODE,)), "tiers": TIERS}
DEVICE_MODES = ((DEFAULT_MODE,), *((name,) for name in MODES if name != DEFAULT_MODE), tuple(MODES))
"""The modes of devices of ours that can be chosen: one of them, or all beside each other."""


def kind_of(run: BenchResult | None) -> str:
    """That of a run: the one it has rows of."""
    return next((name for name, kind in KINDS.items() if kind.rows(run)), "codec")
