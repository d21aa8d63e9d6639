"""All compressed memory of the machine: the table, totals, and the graphs of the device under the cursor, or of
several."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static

from truezram.app.columns import Row
from truezram.app.format import short_size
from truezram.app.screens.page import KEYS, Page
from truezram.app.series import NAN, Ring
from truezram.app.widgets.bars import Bars
from truezram.app.widgets.cards import Cards
from truezram.app.widgets.chrome import TextLine
from truezram.app.widgets.device_table import DeviceTable
from truezram.app.widgets.event_list import EventList
from truezram.app.widgets.graph import Graph, Trace
from truezram.app.widgets.grid import TextBlock
from truezram.app.widgets.tiers import TierBar, worth_a_line
from truezram.engine.model import MachineSnapshot
from truezram.engine.units import format_duration

if TYPE_CHECKING:
    from truezram.engine.device.setup import Plan

WELCOME = f"""\
truezram turns spare CPU time into memory:
a block device in RAM whose pages are stored
compressed. It can be swap or hold a filesystem.

  u  Set up   gives this machine swap that fits it,
              back after every restart
  {KEYS["doctor"]}  Doctor   checks this machine: ublk, root, swap
  {KEYS["whatif"]}  What if  measures what your programs' memory
              would compress to
  c  Create   makes a device, after a preview

Devices keep running after the app is closed."""
"""No line is longer than the smallest terminal has room for."""

SETUP_TIMEOUT = 120.0
"""Seconds that setting up may take: a device, and two units of the init."""


class FilterField(Input):
    """The filter's input field. The footer shows its Enter key."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "Keep filter", key_display="Enter")]


class DashboardPage(Page):
    """The first screen."""

    MODE = "dashboard"
    TITLE_TEXT = "Devices"
    CREATES = REMOVES = GRAPHS = DEVICE_COLUMNS = True
    GUIDE = (
        "The table shows every compressed device of this machine, including the kernel's own zram. Below it are "
        "graphs of the device under the cursor, or of all devices together (a): the data it holds (logical) and "
        "the memory it takes (resident), reads above and writes below the axis, the ratio, and service times. "
        "A large terminal shows several devices side by side. m shows the machine: free memory, pressure, and "
        "the order in which swap is used. Graphs have one dot per second and keep 15 minutes: + and - zoom, "
        "space pauses. A gap means that nothing was measured.\n"
        "Filter: words found anywhere in the row, or column<value, column>value, column=value, as in 'ratio<2"
        " data>1G'."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "set_up", "Set up", id="dashboard.set_up"),
        Binding("slash", "filter", "Filter", key_display="/", id="dashboard.filter"),
        Binding("a", "all", "All/one", show=False, id="dashboard.all"),
        Binding("m", "memory", "Memory", id="dashboard.memory"),
        Binding("o", "columns", "Columns", show=False, id="dashboard.columns"),
        Binding("escape", "clear_filter", "Clear filter", id="dashboard.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.all = False
        self.memory = False

    def content(self) -> ComposeResult:
        """Table above, graphs below."""
        view = self.tz.view
        yield TextLine(id="machine")
        yield DeviceTable(id="table")
        yield FilterField(placeholder="filter: words, or ratio<2 data>1G", id="filter", compact=True)
        with Vertical(id="focus"):
            yield Bars(view, heading=True, id="bars")
            yield TierBar(view, id="tiers")
            with Horizontal(id="graphs"):
                yield Graph("throughput", view, id="throughput")
                with Vertical(id="side"):
                    yield Graph("ratio", view, id="ratio")
                    yield Graph("latency", view, id="latency")
                    yield Graph("cpu", view, id="cpu")
        yield Cards(view, id="cards")
        yield Static(Text(WELCOME), id="welcome")
        with Horizontal(id="memory"):
            with Vertical(id="pressures"):
                yield Graph("memory", view, title="free memory", id="available")
                yield Graph("pressure", view, title="memory pressure", id="pressure")
            yield TextBlock(id="swaps")
        with Horizontal(id="foot"):
            yield EventList(id="events")
            yield TextBlock(id="order")

    def on_mount(self) -> None:
        """The keys go to the table."""
        self.query_one("#filter").display = False
        self.query_one(DeviceTable).focus()

    def shows(self, device: str) -> bool:
        """The one under the table's cursor; the filter may hide it."""
        row = self.query_one(DeviceTable).current
        return row is not None and row.device.name == device

    @on(events.ScreenResume)
    def _resumed(self) -> None:
        """The cursor is on the device that another page has shown; the page is drawn after this."""
        if self.tz.selected:
            self.query_one(DeviceTable).cursor = self.tz.selected

    # ---- drawing

    def tick(self, sampled: bool) -> None:
        """The table at every snapshot, graphs when there is a new sample."""
        app = self.tz
        table = self.query_one(DeviceTable)
        rows = app.rows()
        table.wanted = app.config.columns
        welcome = self.query_one("#welcome")
        if welcome.display != (not rows):
            welcome.display = not rows
            self.refresh_bindings()
        table.show(rows)
        self._machine()
        self.query_one("#memory").display = self.memory
        cards = self.cards_shown and not self.memory
        self.query_one("#order").display = cards
        self.query_one(Cards).display = cards and bool(rows)
        if self.memory:
            self.query_one("#focus").display = False
            self._memory(sampled)
        elif cards:
            self.query_one(Cards).show(table.shown or rows, app.memory, sampled)
            if sampled:
                self.query_one("#order", TextBlock).show(self._swap_order)
        else:
            self._focus(sampled)
        self.query_one(EventList).show(app.events.events)

    @property
    def cards_shown(self) -> bool:
        """Whether the terminal is large enough for several devices side by side."""
        return self.has_class("-wide") and self.has_class("-tall")

    def _machine(self) -> None:
        """The machine in one line, abbreviated if it does not fit; warnings come first."""
        snapshot = self.tz.history.latest
        if snapshot is None:
            return
        parts: list[tuple[str, str]] = []
        for terse in range(3):
            parts = self._machine_parts(snapshot.machine, terse)
            if sum(cell_len(text) for text, _ in parts) <= self.size.width - 2:
                break
        self.query_one("#machine", TextLine).set_parts(parts)

    def _machine_parts(self, machine: MachineSnapshot, terse: int) -> list[tuple[str, str]]:
        """`terse`: 0, 1 or 2, the less is written."""
        of, muted, short = ("/" if terse else " of "), "line--muted", terse > 0
        free, total = short_size(machine.mem_available), short_size(machine.mem_total)
        parts = [("mem ", muted), ((f"{free} of {total} free", f"{free} free", free)[terse], "")]
        if soon := self._soon_full():
            left, name = soon[0]
            parts += [(f"  {name} full in ", muted), (format_duration(left), "line--warn")]
        used = f"{short_size(machine.swap_total - machine.swap_free)}{of}{short_size(machine.swap_total)}"
        parts += [("  swap ", muted), (used if machine.swap_total else "none", "")]
        some, full = machine.pressure.memory_some, machine.pressure.memory_full
        if some is None or full is None:
            parts += [("  PSI ", muted), ("none", "")]
        else:
            style = "line--bad" if full >= 10 else "line--warn" if some >= 10 else ""
            parts += [
                ("  PSI ", muted),
                (f"{some:.0f}/{full:.0f}%" if short else f"some {some:.0f}% full {full:.0f}%", style),
            ]
        if machine.zswap.enabled:
            parts += [("  zswap ", muted), (machine.zswap.compressor or "on", "line--warn")]
        return parts

    def _soon_full(self) -> list[tuple[float, str]]:
        """(seconds, device) of those that will be full within a day at their current growth, the soonest first."""
        times = ((series.time_to_full(), name) for name, series in self.tz.history.devices.items())
        return sorted((left, name) for left, name in times if left is not None and left < 86400)

    def _memory(self, sampled: bool) -> None:
        """Free memory, pressure, and the order in which swap is used."""
        if not sampled:
            return
        rings = self.tz.history.machine
        self.query_one("#available", Graph).show([Trace("", rings["available"], "graph--logical")])
        self.query_one("#pressure", Graph).show(
            [
                Trace("some", rings["psi_some"], "graph--write"),
                Trace("full", rings["psi_full"], "graph--p99", "line"),
            ]
        )
        self.query_one("#swaps", TextBlock).show(self._swap_order)

    def _swap_order(self, width: int) -> list[list[tuple[str, str]]]:
        latest = self.tz.history.latest
        if latest is None:
            return []
        machine = latest.machine
        lines = [[("swap, first used first", "heading")]]
        if machine.zswap.enabled:
            size = short_size(machine.zswap.pool_bytes) if machine.zswap.pool_bytes is not None else "size unknown"
            lines.append([(f"zswap in front  {machine.zswap.compressor}, {size}", "warn")])
        for area in sorted(machine.swaps, key=lambda area: -area.priority):
            used = f"{short_size(area.used)} of {short_size(area.size)}"
            name = area.path.removeprefix("/dev/")
            lines.append([(f"{area.priority:>5} ", "muted"), (f"{name} ", "plain"), (used, "muted")])
        if not machine.swaps:
            lines.append([("none; c creates one", "muted")])
        unknown = "unknown"
        cluster = unknown if machine.page_cluster is None else str(machine.page_cluster)
        swappiness = unknown if machine.swappiness is None else str(machine.swappiness)
        settings = textwrap.wrap(
            f"swappiness {swappiness}, page-cluster {cluster}", max(width, 20), break_on_hyphens=False
        )
        lines += [[(text, "muted")] for text in settings]
        lines += [[(f"{name} full in {format_duration(left)}", "warn")] for left, name in self._soon_full()[:3]]
        return lines

    def _focus(self, sampled: bool) -> None:
        row = self.query_one(DeviceTable).current
        focus = self.query_one("#focus")
        if focus.display != (row is not None):
            focus.display = row is not None
        if row is None:
            return
        self.query_one(Bars).show(row, self.tz.memory)
        self.query_one("#tiers").display = self.has_class("-high") and worth_a_line(row.device)
        self.query_one("#tiers", TierBar).show(row.device)
        if sampled:
            self._graphs(row)

    def _graphs(self, row: Row) -> None:
        history = self.tz.history
        name = "all" if self.all else row.device.name
        rings = history.machine if self.all else row.series.rings if row.series else {}
        empty = Ring([NAN])

        def ring(metric: str) -> Ring:
            return rings.get(metric, empty)

        throughput = self.query_one("#throughput", Graph)
        throughput.title = f"I/O {name}"
        throughput.show(
            [Trace("read", ring("read"), "graph--read"), Trace("write", ring("write"), "graph--write", "down")]
        )
        self.query_one("#ratio", Graph).show([Trace("", ring("ratio"), "graph--ratio")])
        latency = self.query_one("#latency", Graph)
        cpu = self.query_one("#cpu", Graph)
        if self.all and row.series:
            latency.title, cpu.title = f"latency {row.device.name}", f"server cpu {row.device.name}"
            rings = row.series.rings
        else:
            latency.title, cpu.title = "latency", "server cpu"
        latency.show([Trace("p50", ring("p50"), "graph--p50", "line"), Trace("p99", ring("p99"), "graph--p99", "line")])
        cpu.show([Trace("", ring("cpu"), "graph--cpu")])

    # ---- what the user does

    @on(DeviceTable.Moved)
    def _moved(self, event: DeviceTable.Moved) -> None:
        self.tz.selected = event.name
        if not self.cards_shown:
            self._focus(True)
        self.refresh_bindings()

    @on(DeviceTable.Opened)
    def _opened(self, event: DeviceTable.Opened) -> None:
        self.tz.selected = event.name
        self.tz.action_go("device")

    def action_set_up(self) -> None:
        """Shows what this machine should have, and does it."""
        from truezram.app.screens.setup import SetupScreen

        app = self.tz

        def done(lines: tuple[str, ...]) -> None:
            for line in lines:
                app.report("info", f"setup: {line}")

        def answered(plan: Plan | None) -> None:
            if plan is not None:
                app.work("set up", lambda progress: app.engine.set_up(plan, progress), done=done, timeout=SETUP_TIMEOUT)

        app.push_screen(SetupScreen(), answered)

    def action_memory(self) -> None:
        """The machine's memory, or the devices' graphs."""
        self.memory = not self.memory
        self.tick(True)

    def action_all(self) -> None:
        """Graphs of one device, or of all together."""
        self.all = not self.all
        self._focus(True)

    def action_filter(self) -> None:
        """Opens the filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear_filter(self) -> None:
        """Closes the filter and shows all devices again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        table = self.query_one(DeviceTable)
        table.set_filter("")
        table.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.query_one(DeviceTable).set_filter(event.value)

    @on(Input.Submitted, "#filter")
    def _filter_done(self, event: Input.Submitted) -> None:
        if not event.value:
            event.input.display = False
        self.query_one(DeviceTable).focus()

    def action_columns(self) -> None:
        """Opens the choice of columns, which is saved in the settings."""
        from truezram.app.screens.columns_dialog import ColumnsScreen

        app = self.tz

        def answered(chosen: tuple[str, ...] | None) -> None:
            if chosen is not None:
                app.change_config(columns=chosen)

        app.push_screen(ColumnsScreen(app.config.columns, self.size.width - 2), answered)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only available actions."""
        if action == "clear_filter":
            return bool(self.query_one("#filter", Input).display) if self.is_mounted else False
        if action == "set_up":
            return not self.tz.history.devices
        if action == "filter":
            # In the field, "/" is an ordinary letter; Textual does not know that for this key.
            return bool(self.tz.history.devices) and not self.query_one("#filter").has_focus
        if action == "columns":
            return bool(self.tz.history.devices)
        if action == "all":
            return not self.cards_shown and not self.memory and len(self.tz.history.devices) > 1
        return True
