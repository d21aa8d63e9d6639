"""What if: samples the memory of running processes, or files, estimates what they would compress to, and leads to
Create."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Button, Input, Select, Static

from truezram.app import equivalent, plan
from truezram.app.backend.protocol import PATH, Estimate, ProcessEstimate
from truezram.app.export import Table
from truezram.app.format import short_size
from truezram.app.screens.page import Page
from truezram.app.widgets.barchart import BarChart, Bars
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock
from truezram.engine.answers import AlgorithmEstimate, Scope
from truezram.engine.device.options import CreateOptions

SCOPES = (
    ("all processes", "all"),
    ("one user's", "user"),
    ("a cgroup's", "cgroup"),
    ("one process (pid)", "pid"),
    ("a file or folder", PATH),
)
GROUPS = (("by process", "process"), ("by user", "user"), ("by cgroup", "cgroup"))
WHICH = {
    "all": ("", ""),
    "user": ("Whose? Type the user's name.", "name"),
    "cgroup": ("Which cgroup? Type its path below /sys/fs/cgroup.", "/system.slice"),
    "pid": ("Which process? Type its number (pid).", "4711"),
    PATH: ("Which file, folder or block device? Type its path.", "/usr/bin"),
}
"""Scope → what to type, and an example."""


MEMORY_HEADS = [
    Head("ALGORITHM", 10, left=True),
    Head("RATIO", 5),
    Head("95% RANGE", 11),
    Head("GAINS", 6),
    Head("µs IN", 6, rank=1),
    Head("µs OUT", 6, rank=1),
    Head("RAW", 5, rank=1),
    Head("", 2, left=True, grow=True),
]
FILE_HEADS = [
    Head("METHOD", 10, left=True),
    Head("BITS/BYTE", 9),
    Head("RATIO", 5),
    Head("95% RANGE", 11),
    Head("TAKES", 6),
    Head("µs IN", 6, rank=1),
    Head("µs OUT", 6, rank=1),
    Head("", 8, left=True, grow=True),
]
ORDER_0 = "order-0"
"""The limit that the entropy sets, among the methods."""


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _best(found: Estimate) -> AlgorithmEstimate | None:
    """The one that gains most."""
    return max(found.total.algorithms, key=lambda a: a.gained, default=None)


def _files(found: Estimate) -> list[Item]:
    """The methods of a path: the limit that its entropy sets, then each algorithm; the bars are what is left."""
    if found.entropy is None:
        return []
    least, size, best = found.entropy / 8, found.total.bytes, _best(found)
    ratio = f"{1 / least:.2f}" if least else "-"
    limit = (ORDER_0, f"{found.entropy:.2f}", ratio, "", short_size(size * least), "", "", least)
    items = [Item(ORDER_0, limit, "muted")]
    for a in found.total.algorithms:
        within = f"{a.ratio_low:.2f}-{a.ratio_high:.2f}" if found.total.sampled < found.pages else ""
        bits, takes = f"{8 / a.ratio:.2f}", short_size(a.resident)
        times = _us(a.compress_us), _us(a.decompress_us)
        cells = (a.algorithm, bits, f"{a.ratio:.2f}", within, takes, *times, min(1.0, 1 / a.ratio))
        items.append(Item(a.algorithm, cells, "good" if a is best else ""))
    return items


class WhatIfPage(Page):
    """Scope and start above; the algorithms in total; then the processes, or a chart."""

    MODE = "whatif"
    TITLE_TEXT = "What if"
    CREATES = True
    GUIDE = (
        "Copies a few thousand pages of running processes and compresses the copies: nothing is written, and "
        "nothing is read back from swap. RATIO is the memory divided by everything that a device would take for "
        "it, with a 95 % confidence interval. GAINS is the memory that would become free; RAW the share of "
        "pages that do not compress. µs IN and OUT are per page on one core. The best gain is green; in the lower "
        "table GAINS and RAW are those of the BEST algorithm.\n"
        "f measures a file or folder instead (with all below it; links and other filesystems are left out): pages of "
        "4096 bytes, up to 8192 of them drawn at random. order-0 is the limit of a coder that writes each byte by "
        "itself, in bits per byte; TAKES is all that a device would take for it, and the bar what is left of the "
        "data.\n"
        "Enter or c on an algorithm opens Create with it, for swap as this machine should have it. v switches "
        "between the processes and a chart of ratio and time, E exports the results."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run", "Measure", id="whatif.run"),
        Binding("enter", "create_from", "Create with this", key_display="Enter", id="whatif.create"),
        Binding("v", "chart", "Table/chart", id="whatif.chart"),
        Binding("f", "files", "File or folder", id="whatif.files"),
        Binding("escape", "leave", "Back", show=False, id="whatif.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.estimate: Estimate | None = None
        self.running = False
        self.problem = ""

    def content(self) -> ComposeResult:
        """The question, the answer in total, the answer by process."""
        with Horizontal(id="question"):
            yield Select(SCOPES, value="all", allow_blank=False, id="scope", compact=True)
            yield Input(id="which", compact=True, disabled=True)
            yield Select(GROUPS, value="process", allow_blank=False, id="by", compact=True)
            yield Button("Measure", id="run", variant="primary", compact=True)
        yield Static(id="command")
        yield TextBlock(id="summary")
        yield Grid(
            MEMORY_HEADS,
            empty="r measures what this memory would compress to, f what a file or folder would; it takes a few"
            " seconds.",
            id="algorithms",
        )
        yield Grid([], empty="", sortable=True, id="groups")
        yield BarChart(id="chart")

    def on_mount(self) -> None:
        """Keys go to the algorithms; the chart is hidden until asked for."""
        self.query_one("#chart").display = False
        self.query_one("#algorithms", Grid).focus()
        self._asked()

    # ---- the question

    @property
    def scope(self) -> Scope:
        """Whose memory."""
        kind = str(self.query_one("#scope", Select).value)
        value = "" if kind == "all" else self.query_one("#which", Input).value.strip()
        if kind == PATH and value:
            # The command that is shown, and what measures, have the path that was meant here. (pathlib's expanduser
            # raises an error for a user who is not there, as while a name is typed.)
            value = os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111
        return Scope(kind, value)

    @on(Select.Changed)
    @on(Input.Changed)
    def _asked(self) -> None:
        scope = self.scope
        which = self.query_one("#which", Input)
        which.disabled = scope.kind == "all"
        which.display = not which.disabled
        which.set_class(scope.kind == PATH, "path")
        self.query_one("#by").display = scope.kind != PATH
        what, which.placeholder = WHICH[scope.kind]
        missing = scope.kind != "all" and not scope.value
        self.query_one("#run", Button).disabled = missing or self.running
        by = str(self.query_one("#by", Select).value)
        self.query_one("#command", Static).update(what if missing else f"$ {equivalent.estimate(scope, by)}")

    @on(Select.Changed, "#scope")
    def _whose(self) -> None:
        if self.scope.kind != "all" and self.is_current:
            self.query_one("#which").focus()

    def action_files(self) -> None:
        """Asks for the path of what is to be measured instead of memory."""
        self.query_one("#scope", Select).value = PATH
        self.query_one("#which").focus()

    @on(Button.Pressed, "#run")
    @on(Input.Submitted)
    def action_run(self) -> None:
        """Measures."""
        scope, by = self.scope, str(self.query_one("#by", Select).value)
        if self.running:
            return
        if scope.kind != "all" and not scope.value:
            self.query_one("#which").focus()
            return
        self.running, self.problem = True, ""
        engine = self.tz.engine
        self.tz.work(
            "what if",
            lambda progress: engine.estimate(scope, by, progress),
            done=self._done,
            failed=self._failed,
            partial=self._partial,
            timeout=60,
            quiet=True,
        )
        self._show()
        self.query_one("#algorithms", Grid).focus()

    def _partial(self, found: object) -> None:
        if isinstance(found, Estimate):
            self.estimate = found
            self._show()

    def _done(self, found: Estimate) -> None:
        self.running = False
        self.estimate = found
        if found.scope.kind == "all":
            self.tz.measured = found
        best = _best(found)
        self.tz.report("info", f"what if: {best.ratio:.2f} with {best.algorithm}" if best else "what if: no result")
        self._show()

    def _failed(self, why: str) -> None:
        self.running, self.problem = False, why
        self._show()
        if self.scope.kind != "all" and self.is_current:
            self.query_one("#which").focus()

    # ---- the answer

    def table(self) -> Table | None:
        """A line for each process (user, cgroup) and algorithm, the total first."""
        found = self.estimate
        if found is None:
            return None
        name, rows = "entropy" if found.scope.kind == PATH else "estimate", []
        for group in (found.total, *found.processes):
            about = asdict(replace(group, algorithms=()))
            del about["algorithms"]
            if found.scope.kind == PATH:
                about["entropy"] = found.entropy
            rows += [{**about, **asdict(algorithm)} for algorithm in group.algorithms]
        return Table(name, equivalent.estimate(found.scope, found.by), rows)

    def _show(self) -> None:
        self._asked()
        found = self.estimate
        self.query_one("#summary", TextBlock).show(self._summary)
        if found is None:
            return
        grid = self.query_one("#algorithms", Grid)
        grid.glyph_set = self.tz.view.glyphs
        chart = self.query_one(BarChart)
        if chart.display:
            self._draw_chart(chart)
        self.refresh_bindings()
        self._show_groups()
        if found.scope.kind == PATH:
            grid.show(_files(found), FILE_HEADS)
            return
        grid.show([self._algorithm(a, found) for a in found.total.algorithms], MEMORY_HEADS)
        names = [a.algorithm for a in found.total.algorithms]
        heads = [Head(found.by.upper(), 14, left=True, grow=True, most=40)]
        if found.by == "process":
            heads = [Head("PID", 7, rank=1), Head("USER", 8, left=True, rank=3), *heads]
        heads += [Head("MEMORY", 6), Head("SAME", 4, rank=3)]
        heads += [Head(name.upper(), max(5, len(name)), rank=1 + index // 3) for index, name in enumerate(names)]
        heads += [Head("BEST", 5, left=True, rank=1), Head("GAINS", 6), Head("RAW", 4, rank=2)]
        self.query_one("#groups", Grid).show([self._group(g, found, names) for g in found.processes], heads)

    def _show_groups(self) -> None:
        """They are below the algorithms where there are some, unless the chart is."""
        files = self.estimate is not None and self.estimate.scope.kind == PATH
        self.query_one("#groups").display = not files and not self.query_one(BarChart).display

    def _summary(self, width: int) -> list[list[tuple[str, str]]]:
        found = self.estimate
        if self.problem:
            return [[(self.problem, "bad")]]
        if found is None:
            return [[("Measuring." if self.running else "", "muted")]]
        total = found.total
        files = found.scope.kind == PATH
        many, one = (
            (f"{total.processes} files", total.command) if files else (f"{total.processes} processes", "one process")
        )
        line = [(f"{short_size(total.bytes)} of {many if total.processes != 1 else one}", "heading")]
        same = f", {total.same_filled * 100:.0f}% same-filled"
        sampled = f"{total.sampled} of {found.pages}" if files and total.sampled < found.pages else str(total.sampled)
        line.append((f"  {sampled} pages sampled{same}, {found.seconds:.1f} s", "muted"))
        if self.running or not found.complete:
            line.append(("  incomplete", "warn"))
        lines = [line]
        if found.skipped:
            note = f"  {found.skipped} skipped: {found.skipped_why}"
            if sum(cell_len(text) for text, _ in line) + cell_len(note) > width:
                lines.append([])
            lines[-1].append((note if lines[-1] else note.lstrip(), "warn"))
        return lines

    @staticmethod
    def _algorithm(a: AlgorithmEstimate, found: Estimate) -> Item:
        best = _best(found)
        cells = (
            a.algorithm,
            f"{a.ratio:.2f}",
            f"{a.ratio_low:.2f}-{a.ratio_high:.2f}",
            short_size(a.gained),
            _us(a.compress_us),
            _us(a.decompress_us),
            f"{a.incompressible * 100:.1f}%",
            "",
        )
        return Item(a.algorithm, cells, "good" if a is best else "")

    @staticmethod
    def _group(group: ProcessEstimate, found: Estimate, names: list[str]) -> Item:
        by_name = {a.algorithm: a for a in group.algorithms}
        best = max(group.algorithms, key=lambda a: a.gained, default=None)
        cells: list[str] = [group.command]
        order: list[float | str] = [group.command]
        if found.by == "process":
            cells = [str(group.pid), group.user, *cells]
            order = [float(group.pid), group.user, *order]
        cells += [short_size(group.bytes), f"{group.same_filled * 100:.0f}%"]
        order += [float(group.bytes), group.same_filled]
        for name in names:
            a = by_name.get(name)
            cells.append(f"{a.ratio:.2f}" if a else "-")
            order.append(a.ratio if a else 0.0)
        if best:
            cells += [best.algorithm, short_size(best.gained), f"{best.incompressible * 100:.0f}%"]
            order += [best.algorithm, float(best.gained), best.incompressible]
        else:
            cells += ["-", "-", "-"]
            order += ["", 0.0, 0.0]
        style = "" if group.sampled >= 100 else "muted"
        return Item(f"{group.pid}/{group.command}", tuple(cells), style, tuple(order))

    # ---- chart

    def action_chart(self) -> None:
        """The processes, or the chart."""
        chart = self.query_one(BarChart)
        chart.display = not chart.display
        self._show_groups()
        if chart.display:
            self._draw_chart(chart)

    def _draw_chart(self, chart: BarChart) -> None:
        found = self.estimate
        if found is None:
            return
        rows = found.total.algorithms
        chart.show(
            "ratio, and time to compress a page, by algorithm",
            [a.algorithm for a in rows],
            [
                Bars("ratio", [a.ratio for a in rows], [f"{a.ratio:.2f}" for a in rows]),
                Bars("µs", [a.compress_us or 0.0 for a in rows], [_us(a.compress_us) for a in rows]),
            ],
            self.tz.view.glyphs,
        )

    # ---- from here to Create

    @on(Grid.Chosen, "#algorithms")
    async def action_create_from(self) -> None:
        """Create, with the algorithm under the cursor."""
        await self.app.run_action("create", self.app)

    def proposal(self) -> CreateOptions | None:
        """The swap that this machine should have, with the algorithm under the cursor."""
        found = self.estimate
        name = self.query_one("#algorithms", Grid).cursor
        a = next((a for a in found.total.algorithms if a.algorithm == name), None) if found else None
        if found is None or a is None or found.scope.kind == PATH:
            return None  # what files compress to says nothing about swap
        return replace(plan.swap(self.tz.memory or found.total.bytes, a.ratio_low), algorithm=a.algorithm)

    def action_leave(self) -> None:
        """Leaves the fields first, then the page."""
        if isinstance(self.focused, Input | Select):
            self.query_one("#algorithms", Grid).focus()
        else:
            self.tz.action_go("dashboard")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only available actions."""
        if action in ("run", "files"):
            return not self.running
        if action in ("chart", "create_from"):
            found = self.estimate
            return found is not None and (action == "chart" or found.scope.kind != PATH)
        return True
