"""Benchmark: our codecs against liblz4, libzstd and kernel zram on this machine, our store against kernel zram, and
devices under real I/O beside the floor and kernel zram, what idle pages take in each tier. Losses are shown too, and
runs of all kinds are kept."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from truezram.app.backend.protocol import BenchResult, BenchRow
from truezram.app.backend.recording import decode
from truezram.app.benchrows import CODEC, DEVICE_MODES, KINDS, Kind, devices_in, kind_of
from truezram.app.export import Table
from truezram.app.screens.page import Page
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.grid import Grid, TextBlock

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
        "d measures devices, as root: 4 KiB requests at depth 1 and 32, real pages, every read verified; null is a "
        "device of our server without a store, the floor, and xNULL and xZRAM are REQ/s relative to it and to zram. o "
        "chooses the mode of our devices for that, or all three.\n"
        "t measures what idle pages take and cost, with local devices whose clock of ages runs faster: all pages hot, "
        "dense, in groups (cold), and a mix; MEMORY is all that a device takes, xZRAM that over the first zram's, "
        "CPU/PAGE what the policy takes for a page of the device, and the rest reads of single pages of each tier.\n"
        "p and n select a kept run; m marks one, and the others are then compared with it; E exports one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run('codec')", "Run", id="bench.run"),
        Binding("s", "run('store')", "Run the store", id="bench.store"),
        Binding("d", "run('device')", "Run devices", id="bench.device"),
        Binding("t", "run('tiers')", "Run tiers", id="bench.tiers"),
        Binding("o", "next_mode", "Mode", id="bench.mode"),
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
        self.running_kind = CODEC
        self.mode = 0
        """Which of `DEVICE_MODES` devices are measured in."""
        self.coming: list[Any] = []
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
            CODEC.heads[:-1],
            empty="r measures the codecs, which takes about 20 s, s the store, some minutes, d devices, a minute, t"
            " tiers, three minutes. Results are kept.",
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
        kind = self.kind
        return Table(kind.export, f"{stamp}, {run.machine}", [asdict(row) for row in kind.rows(run)])

    @property
    def kind(self) -> Kind:
        """Of what is on the screen."""
        return self.running_kind if self.running else self._kind(kind_of(self.shown))

    def _kind(self, name: str) -> Kind:
        """As it would be run now."""
        return devices_in(DEVICE_MODES[self.mode]) if name == "device" else KINDS[name]

    def _head(self) -> str:
        return f"{self.kind.title}  $ {self.kind.command(self.tz.capabilities.root)}"

    def _show(self) -> None:
        self.query_one("#head", Static).update(self._head())
        self.query_one(Grid).glyph_set = self.tz.view.glyphs
        kind = self.kind
        rows = self.coming if self.running else kind.rows(self.shown)
        heads = kind.heads if self.marked else kind.heads[:-1]
        items = [kind.item(number, row, rows, self.marked) for number, row in enumerate(rows)]
        items = [replace(item, cells=item.cells[: len(heads)]) for item in items]
        self.query_one(Grid).show(items, heads)
        self.query_one("#summary", TextBlock).show(self._summary)
        chart = self.query_one(BarChart)
        if chart.display:
            title, names, bars = kind.chart(rows)
            chart.show(title if names else "nothing measured yet", names, bars, self.tz.view.glyphs)
        self.refresh_bindings()

    def _summary(self, width: int) -> list[list[tuple[str, str]]]:
        if self.running:
            return [[("Running.", "heading")]]
        modes = DEVICE_MODES[self.mode]
        which = f"d measures devices in {modes[0]} mode." if len(modes) == 1 else "d measures devices in all modes."
        return [*self._of_run(width), *([[(which, "plain")]] if self.mode else [])]

    def _of_run(self, width: int) -> list[list[tuple[str, str]]]:
        """Which run is shown, and what is to be said of it."""
        run = self.shown
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

    # ---- what the user does

    def action_run(self, name: str) -> None:
        """Runs the benchmark of a kind."""
        if self.running:
            return
        kind, engine = self._kind(name), self.tz.engine
        self.running, self.running_kind = True, kind
        self.coming, self.problem = [], ""
        self.tz.work(
            kind.job,
            lambda progress: kind.call(engine, progress),
            done=self._done,
            failed=self._failed,
            partial=self._partial,
            timeout=120,
            quiet=True,
        )
        self._show()

    def _partial(self, found: object) -> None:
        if isinstance(found, tuple):
            self.coming = list(found)
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

    def action_next_mode(self) -> None:
        """The next choice of modes that devices are measured in."""
        self.mode = (self.mode + 1) % len(DEVICE_MODES)
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
        if action in ("run", "next_mode"):
            return not self.running
        if action == "kept":
            step: Any = parameters[0] if parameters else 0
            return not self.running and 0 <= self.place + int(step) < len(self.runs)
        if action in ("mark", "chart"):
            return self.shown is not None and not self.running
        return True
