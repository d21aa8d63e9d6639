"""Benchmark: our codecs against liblz4, libzstd and kernel zram on this machine; losses are shown too, and runs
are kept."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from truezram.app import equivalent
from truezram.app.backend.protocol import BenchResult, BenchRow
from truezram.app.backend.recording import decode
from truezram.app.export import Table
from truezram.app.format import short_size
from truezram.app.screens.page import Page
from truezram.app.widgets.barchart import BarChart, Bars
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock

SECONDS = 20.0
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


class BenchmarkPage(Page):
    """The rows of a run as they are measured, compared with another run."""

    MODE = "benchmark"
    TITLE_TEXT = "Benchmark"
    GUIDE = (
        "Compresses and decompresses real pages with every codec in turn, on one core. Rows marked = are "
        "baselines: liblz4, libzstd, kernel zram. Speeds are bytes of pages per second, without same-filled "
        "pages. xIN and xOUT are the speeds relative to the baseline in AGAINST: liblz4, or libzstd for "
        "dense and zstd; below 1 is a loss.\n"
        "p and n select a kept run; m marks one, and the others are then compared with it; E exports one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run", "Run", id="bench.run"),
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
        self.problem = ""

    @property
    def path(self) -> Path | None:
        """Where runs are kept."""
        return self.tz.log_path.parent / FILE if self.tz.log_path else None

    def content(self) -> ComposeResult:
        """Head, rows, chart."""
        command = equivalent.benchmark(SECONDS, self.tz.capabilities.root)
        yield Static(f"Codecs on this machine  $ {command}", classes="pagehead", markup=False)
        yield TextBlock(id="summary")
        yield Grid(
            HEADS[:-1],
            empty="r runs the benchmark; it takes about 20 s, and the result is kept.",
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
        return Table("benchmark", f"{stamp}, {run.machine}", [asdict(row) for row in run.rows])

    def _show(self) -> None:
        run = self.shown
        rows = self.coming if self.running else list(run.rows) if run else []
        # Copying does not compress: it is not used as the scale.
        fastest = max((row.compress_rate for row in rows if row.ratio > 1.0), default=1.0)
        self.query_one(Grid).glyph_set = self.tz.view.glyphs
        heads = HEADS if self.marked else HEADS[:-1]
        items = []
        for number, row in enumerate(rows):
            against, before = _against(row, rows), self._before(row)
            times_in, times_out = _over(row, against)
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
            items.append(Item(f"{number}/{row.codec}/{row.corpus}", cells[: len(heads)], style, order))
        self.query_one(Grid).show(items, heads)
        self.query_one("#summary", TextBlock).show(self._summary)
        chart = self.query_one(BarChart)
        if chart.display:
            self._draw(chart, rows)
        self.refresh_bindings()

    def _before(self, row: BenchRow) -> float:
        """Speed over that in the marked run."""
        marked = self.marked.rows if self.marked else ()
        same = next((r for r in marked if (r.codec, r.corpus) == (row.codec, row.corpus)), None)
        return _over(row, same)[0]

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
        return [line, *([(note, "warn")] for note in run.notes)]

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

    # ---- what the user does

    def action_run(self) -> None:
        """Runs the benchmark."""
        if self.running:
            return
        self.running, self.coming, self.problem = True, [], ""
        engine = self.tz.engine
        self.tz.work(
            "benchmark",
            lambda progress: engine.benchmark(SECONDS, progress),
            done=self._done,
            failed=self._failed,
            partial=self._partial,
            timeout=120,
            quiet=True,
        )
        self._show()

    def _partial(self, found: object) -> None:
        if isinstance(found, BenchRow):
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
        if action == "run":
            return not self.running
        if action == "kept":
            step: Any = parameters[0] if parameters else 0
            return not self.running and 0 <= self.place + int(step) < len(self.runs)
        if action in ("mark", "chart"):
            return self.shown is not None and not self.running
        return True
