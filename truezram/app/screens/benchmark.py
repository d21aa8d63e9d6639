"""Benchmark: our codecs against liblz4, libzstd and kernel zram on this machine, and our store against kernel zram;
losses are shown too, and runs of both kinds are kept."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from truezram.app import equivalent
from truezram.app.backend.protocol import BenchResult, BenchRow, Progress, StoreRow
from truezram.app.backend.recording import decode
from truezram.app.export import Table
from truezram.app.format import short_size
from truezram.app.screens.page import Page
from truezram.app.widgets.barchart import BarChart, Bars
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock

SECONDS = 20.0
STORE_SIZE, STORE_ROUNDS = 128 << 20, 3
KEEP = 50
FILE = "benchmarks.jsonl"


def load_runs(path: Path | None) -> tuple[list[BenchResult], str]:
    """The kept runs, oldest first, and what is wrong with the file ("" when nothing is)."""
    if path is None:
        return [], ""
    runs: list[BenchResult] = []
    bad = 0
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                runs.append(decode(BenchResult, json.loads(line)))
            except Exception:  # one damaged line costs one run
                bad += 1
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{path}: {error.strerror}"
    return runs[-KEEP:], f"{path}: {bad} unreadable lines" if bad else ""


def keep_run(path: Path | None, run: BenchResult) -> None:
    """Appends a run. Raises `OSError`."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")


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


class BenchmarkPage(Page):
    """The rows of a run as they are measured, compared with another run."""

    MODE = "benchmark"
    TITLE_TEXT = "Benchmark"
    GUIDE = (
        "Compresses and decompresses real pages with every codec in turn, on one core. Rows marked = are "
        "baselines: liblz4, libzstd, kernel zram. Speeds are bytes of pages per second, without same-filled "
        "pages. xIN and xOUT are the speeds relative to the baseline in AGAINST: liblz4, or libzstd for "
        "dense and zstd; below 1 is a loss.\n"
        "s measures the store instead, with kernel zram as root: RATIO is pages over all memory taken for them, "
        "USED/COMPR that memory over the compressed bytes, REWRITTEN the same after ten times as many random "
        "overwrites, FREED after a random 70 % was discarded and the seconds that took (at most 5). xRATIO, xWRITE and "
        "xREAD are relative to the first zram.\n"
        "p and n select a kept run; m marks one, and the others are then compared with it; E exports one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run", "Run", id="bench.run"),
        Binding("s", "run_store", "Run the store", id="bench.store"),
        Binding("p", "kept(-1)", "Previous run", id="bench.previous"),
        Binding("n", "kept(1)", "Next run", id="bench.next"),
        Binding("m", "mark", "Compare with this", id="bench.mark"),
        Binding("v", "chart", "Table/chart", id="bench.chart"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="bench.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[BenchResult] = []
        self.place = -1
        self.marked: BenchResult | None = None
        self.running = False
        self.coming: list[BenchRow] = []
        self.coming_store: list[StoreRow] = []
        self.running_store = False
        self.problem = ""

    @property
    def path(self) -> Path | None:
        """Where runs are kept."""
        return self.tz.log_path.parent / FILE if self.tz.log_path else None

    def content(self) -> ComposeResult:
        """Head, rows, chart."""
        yield Static(self._head(), id="head", classes="pagehead", markup=False)
        yield TextBlock(id="summary")
        yield Grid(
            HEADS[:-1],
            empty="r measures the codecs, which takes about 20 s, s the store, some minutes. Results are kept.",
            sortable=True,
            id="rows",
        )
        yield BarChart(id="chart")

    def on_mount(self) -> None:
        """The kept runs."""
        self.query_one("#chart").display = False
        self.runs, self.problem = load_runs(self.path)
        self.place = len(self.runs) - 1
        self.query_one(Grid).focus()
        self._show()

    @property
    def shown(self) -> BenchResult | None:
        """The run on the screen, when none is under way."""
        return self.runs[self.place] if 0 <= self.place < len(self.runs) else None

    def table(self) -> Table | None:
        """The run on the screen. Rates are bytes of pages a second."""
        run = self.shown
        if run is None or self.running:
            return None
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.time))
        if run.store:
            return Table("benchmark-store", f"{stamp}, {run.machine}", [asdict(row) for row in run.store])
        return Table("benchmark", f"{stamp}, {run.machine}", [asdict(row) for row in run.rows])

    @property
    def of_store(self) -> bool:
        """Whether what is on the screen is of the store."""
        return self.running_store if self.running else self.shown is not None and bool(self.shown.store)

    def _head(self) -> str:
        root = self.tz.capabilities.root
        if self.of_store:
            command = equivalent.store_benchmark(STORE_SIZE, STORE_ROUNDS, root)
            return f"The store on this machine  $ {command}"
        return f"Codecs on this machine  $ {equivalent.benchmark(SECONDS, root)}"

    def _show(self) -> None:
        run = self.shown
        self.query_one("#head", Static).update(self._head())
        self.query_one(Grid).glyph_set = self.tz.view.glyphs
        if self.of_store:
            stores = self.coming_store if self.running else list(run.store) if run else []
            heads, items = STORE_HEADS, [_store_item(n, row, stores, self.marked) for n, row in enumerate(stores)]
        else:
            rows = self.coming if self.running else list(run.rows) if run else []
            heads, items = HEADS, [_codec_item(n, row, rows, self.marked) for n, row in enumerate(rows)]
        heads = heads if self.marked else heads[:-1]
        items = [replace(item, cells=item.cells[: len(heads)]) for item in items]
        self.query_one(Grid).show(items, heads)
        self.query_one("#summary", TextBlock).show(self._summary)
        chart = self.query_one(BarChart)
        if chart.display and self.of_store:
            self._draw_store(chart, stores)
        elif chart.display:
            self._draw(chart, rows)
        self.refresh_bindings()

    def _summary(self, width: int) -> list[list[tuple[str, str]]]:
        run = self.shown
        if self.running:
            return [[("Running.", "heading")]]
        if self.problem:
            return [[(self.problem, "bad")]]
        if run is None:
            return [[("No runs yet.", "muted")]]
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.time))
        line = [(f"run {self.place + 1} of {len(self.runs)}  {stamp}  ", "heading")]
        if self.marked is not None:
            line.append(("compared with the marked run  " if self.marked is not run else "marked  ", "plain"))
        line.append((run.machine, "muted"))
        return [line, *([(part, "warn")] for note in run.notes for part in textwrap.wrap(note, max(width, 20)))]

    def _draw(self, chart: BarChart, rows: list[BenchRow]) -> None:
        corpus = rows[0].corpus if rows else ""
        some = [row for row in rows if row.corpus == corpus and row.ratio > 1.0]
        chart.show(
            f"bytes per second on {corpus}" if some else "nothing measured yet",
            [row.codec if row.ours else f"= {row.codec}" for row in some],
            [
                Bars("in", [r.compress_rate for r in some], [short_size(r.compress_rate) for r in some]),
                Bars("out", [r.decompress_rate for r in some], [short_size(r.decompress_rate) for r in some]),
            ],
            self.tz.view.glyphs,
        )

    def _draw_store(self, chart: BarChart, rows: list[StoreRow]) -> None:
        chart.show(
            "pages over memory, bytes per second" if rows else "nothing measured yet",
            [f"{' ' if r.implementation == 'truezram' else '= '}{_store_name(r)} {r.threads}".strip() for r in rows],
            [
                Bars("ratio", [r.ratio for r in rows], [f"{r.ratio:.2f}" for r in rows]),
                Bars("write", [r.write_rate for r in rows], [short_size(r.write_rate) for r in rows]),
                Bars("read", [r.read_rate for r in rows], [short_size(r.read_rate) for r in rows]),
            ],
            self.tz.view.glyphs,
        )

    # ---- what the user does

    def action_run(self) -> None:
        """Runs the benchmark of the codecs."""
        engine = self.tz.engine
        self._start("benchmark", lambda progress: engine.benchmark(SECONDS, progress), store=False)

    def action_run_store(self) -> None:
        """Runs that of the store."""
        engine = self.tz.engine
        self._start(
            "benchmark of the store",
            lambda progress: engine.store_benchmark(STORE_SIZE, STORE_ROUNDS, progress),
            store=True,
        )

    def _start(self, title: str, call: Callable[[Progress], BenchResult], store: bool) -> None:
        if self.running:
            return
        self.running, self.running_store = True, store
        self.coming, self.coming_store, self.problem = [], [], ""
        self.tz.work(
            title,
            call,
            done=self._done,
            failed=self._failed,
            partial=self._partial,
            timeout=120,
            quiet=True,
        )
        self._show()

    def _partial(self, found: object) -> None:
        if isinstance(found, tuple):
            self.coming_store = list(found)
            self._show()
        elif isinstance(found, BenchRow):
            # A row that was measured again, longer, replaces the one before.
            self.coming = [r for r in self.coming if (r.codec, r.corpus) != (found.codec, found.corpus)] + [found]
            self._show()

    def _done(self, run: BenchResult) -> None:
        self.running = False
        self.runs.append(run)
        self.place = len(self.runs) - 1
        try:
            keep_run(self.path, run)
        except OSError as error:
            self.tz.report("warning", f"the run was not saved: {self.path}: {error.strerror}")
        self.tz.report("info", "benchmark: done")
        self._show()

    def _failed(self, why: str) -> None:
        self.running, self.problem = False, why
        self._show()

    def action_kept(self, step: int) -> None:
        """Another of the kept runs."""
        self.place = max(0, min(len(self.runs) - 1, self.place + step))
        self._show()

    def action_mark(self) -> None:
        """Compares the others with this run; the same again stops that."""
        self.marked = None if self.marked is self.shown else self.shown
        self._show()

    def action_chart(self) -> None:
        """The rows, or a chart of them."""
        chart, grid = self.query_one(BarChart), self.query_one(Grid)
        chart.display = not chart.display
        grid.display = not chart.display
        if not chart.display:
            grid.focus()
        self._show()

    @on(Grid.Chosen)
    def _chosen(self) -> None:
        self.action_chart()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what does something."""
        if action in ("run", "run_store"):
            return not self.running
        if action == "kept":
            step: Any = parameters[0] if parameters else 0
            return not self.running and 0 <= self.place + int(step) < len(self.runs)
        if action in ("mark", "chart"):
            return self.shown is not None and not self.running
        return True
