"""The app: holds an engine, takes in its snapshots, and shows pages of them.

A reader thread posts frozen snapshots (reader.py); `take` puts them into the history and the event log and lets the
page that is shown draw what changed. Every other engine call goes through `Jobs` (work.py), on a thread of its own
with a timeout. The app owns no device: quitting, or a hang-up, stops nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen
from textual.theme import Theme
from textual.widget import Widget

from truezram.app import config as configuration
from truezram.app import glyphs, theme
from truezram.app.columns import Row
from truezram.app.commands import commands
from truezram.app.config import Config
from truezram.app.eventlog import Detector, Event, EventLog
from truezram.app.messages import SnapshotArrived
from truezram.app.reader import Reader
from truezram.app.recorded import Recorded
from truezram.app.sanity import emptied, implausible
from truezram.app.screens.page import PAGES, Page
from truezram.app.series import History
from truezram.app.source import Cancelled, Capabilities, CreateSpec, Engine, Progress
from truezram.app.widgets.graph import ZOOMS, View
from truezram.app.work import Jobs, TimedOut
from truezram.engine.errors import TruezramError
from truezram.engine.model import Snapshot
from truezram.engine.recording import Recorder

T = TypeVar("T")
STALE = 3.0
"""Seconds beyond the refresh interval after which figures are called old."""
STOP_TIMEOUT = 60.0


def _page(module: str, name: str) -> Callable[[], Screen[Any]]:
    """A page that is imported when it is first shown: what is not seen costs no start-up time."""

    def make() -> Screen[Any]:
        from importlib import import_module

        screen: Screen[Any] = getattr(import_module(f"truezram.app.screens.{module}"), name)()
        return screen

    return make


class TruezramApp(App[int]):
    """See the module's text."""

    TITLE = "truezram"
    CSS_PATH = "app.tcss"
    DEFAULT_MODE = "dashboard"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "dashboard": _page("dashboard", "DashboardPage"),
        "device": _page("device", "DevicePage"),
        "whatif": _page("whatif", "WhatIfPage"),
        "tune": _page("tune", "TunePage"),
        "benchmark": _page("benchmark", "BenchmarkPage"),
        "doctor": _page("doctor", "DoctorPage"),
        "log": _page("log", "LogPage"),
        "settings": _page("settings", "SettingsPage"),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "create", "Create", id="app.create"),
        Binding("d,delete", "remove", "Remove", id="app.remove"),
        Binding("space", "pause", "Pause", id="app.pause"),
        Binding("plus,equals_sign", "zoom(-1)", "Zoom in", show=False, key_display="+", id="app.zoom_in"),
        Binding("minus", "zoom(1)", "Zoom out", show=False, key_display="-", id="app.zoom_out"),
        Binding("x", "cancel_job", "Cancel job", id="app.cancel_job"),
        *(
            Binding(str(number), f"go('{mode}')", name, show=False, id=f"app.go_{mode}")
            for number, (mode, name, _) in enumerate(PAGES, 1)
        ),
        Binding("right_square_bracket", "step(1)", "Next screen", show=False, key_display="]", id="app.next"),
        Binding("left_square_bracket", "step(-1)", "Previous screen", show=False, key_display="[", id="app.previous"),
        Binding("C", "chart", "Large chart", show=False, id="app.chart"),
        Binding("apostrophe,ctrl+o", "jump", "Jump to", show=False, key_display="'", id="app.jump"),
        Binding("E", "export", "Export", show=False, id="app.export"),
        Binding("ctrl+p", "command_palette", "All actions", show=False, id="app.palette", priority=True),
        Binding("question_mark", "help", "Help", key_display="?", id="app.help"),
        Binding("q", "quit", "Quit", id="app.quit"),
    ]
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (78, "-normal"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (23, "-medium"), (44, "-tall")]  # noqa: RUF012

    def __init__(
        self,
        engine: Engine,
        *,
        config: Config | None = None,
        environ: Mapping[str, str] = os.environ,
        problems: Iterable[str] = (),
        read: bool = True,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.time,
        state: Path | None = None,
        theme_folders: tuple[Path, ...] | None = None,
        config_path: Path | None = None,
    ) -> None:
        """`read`: start the reader (tests call `take` themselves). `state`: folder for the event log, None for none.
        `problems` with the settings are shown once. `clock` gives CLOCK_REALTIME."""
        self.environ = environ
        self.no_colour = "NO_COLOR" in environ
        self._ascii = glyphs.AsciiFilter()
        self._themes = theme.ThemeSet({}, {})
        super().__init__()
        self.engine: Engine = Recorded(engine, recorder) if recorder else engine
        self.config = config or Config()
        self.config_path = config_path
        self.clock = clock
        self.history = History()
        self.log_path = state / "events.jsonl" if state else None
        self.events = EventLog(self.log_path)
        self.detector = Detector()
        self.view = View(glyphs.choose(self.config.glyphs, environ), pages=self.config.units == "pages")
        self.jobs = Jobs(self._jobs_changed)
        self.capabilities = Capabilities(ublk=False, root=False)
        self.selected = ""
        self.trouble: dict[str, str] = {}
        """Device → what is wrong with it that its snapshots do not say."""
        self._problems = list(problems)
        self._read = read
        self._reader: Reader | None = None
        self._arrived: float | None = None
        self._why = ""
        self._theme_folders = theme_folders or (theme.shipped_folder(), theme.user_folder(environ))
        self._load_themes(start=True)
        if self.config.keys:
            self.set_keymap(dict(self.config.keys))

    # ---- start and end

    @property
    def pages(self) -> list[tuple[str, str, str]]:
        """The screens that there are: mode, name, short name."""
        return [page for page in PAGES if page[0] in self.MODES]

    @property
    def interval(self) -> float:
        """Seconds between refreshes."""
        return configuration.refresh_interval(self.config, self.environ)

    def on_mount(self) -> None:
        """The first page, then the reader."""
        for problem in self._problems:
            self.report("warning", problem)
        if self._read:
            self._reader = Reader(self.engine, self.interval, self._deliver)
            self._reader.start()
            self.set_interval(1.0, self._look_around)
            self.set_interval(2.0, self._reload_themes)
            self.refresh_capabilities()

    def _deliver(self, snapshot: Snapshot | None, why: str) -> None:
        self.post_message(SnapshotArrived(snapshot, why))

    def on_unmount(self) -> None:
        """Ends the reader; devices go on."""
        if self._reader:
            self._reader.stop()
        if isinstance(self.engine, Recorded):
            self.engine.close()

    def refresh_capabilities(self) -> None:
        """Asks what can be done here."""

        def known(capabilities: Capabilities) -> None:
            self.capabilities = capabilities
            self._chrome()

        self.work("look at the machine", lambda _: self.engine.capabilities(), done=known, quiet=True)

    # ---- snapshots

    def on_snapshot_arrived(self, message: SnapshotArrived) -> None:
        """Takes in what the reader brought."""
        try:
            if message.snapshot is None:
                if message.why != self._why:
                    self.report("error", f"no figures: {message.why}")
                self._why = message.why
            else:
                self.take(message.snapshot)
        finally:
            if self._reader:
                self._reader.taken()

    def take(self, snapshot: Snapshot) -> None:
        """One snapshot: history, events, and what the page that is shown draws of it."""
        if self._why:
            self.report("info", "figures again")
        self._why = ""
        self._arrived = time.monotonic()
        if isinstance(self.engine, Recorded) and self.engine.problem:
            self.report("error", f"the recording ends here: {self.engine.problem}")
            self.engine.problem = ""
        devices = []
        for device in snapshot.devices:
            why = implausible(device)
            devices.append(emptied(device, why) if why else device)
        snapshot = Snapshot(snapshot.machine, tuple(devices))
        sampled = self.history.add(snapshot, self.interval)
        for event in self.detector.feed(snapshot, self.clock()):
            self.log_event(event)
        self.trouble = {name: why for name, why in self.trouble.items() if name in self.history.devices}
        if self.selected not in self.history.devices:
            self.selected = snapshot.devices[0].name if snapshot.devices else ""
        page = self.page
        if page is not None:
            page.tick(sampled)
            if page is self.screen:
                page.update_chrome()

    @property
    def page(self) -> Page | None:
        """The page that is shown, under whatever dialogs; None before the first one is up."""
        stack = self._screen_stacks.get(self.current_mode, [])
        first = stack[0] if stack else None
        return first if isinstance(first, Page) and first.is_mounted else None

    def rows(self) -> list[Row]:
        """The table's rows."""
        latest = self.history.latest
        if latest is None:
            return []
        known, trouble, pages = self.history.devices, self.trouble, self.view.pages
        return [Row(d, known.get(d.name), trouble.get(d.name, ""), pages) for d in latest.devices]

    @property
    def memory(self) -> int:
        """The machine's memory in bytes; 0 before the first snapshot."""
        return self.history.latest.machine.mem_total if self.history.latest else 0

    # ---- what stands around the pages

    def right_text(self) -> str:
        """The right end of the top bar."""
        latest = self.history.latest
        return f"Linux {latest.machine.kernel}" if latest and latest.machine.kernel else "truezram"

    def notice(self) -> list[tuple[str, str]]:
        """The one line that says what the user must know; empty when there is nothing."""
        age = time.monotonic() - self._arrived if self._arrived is not None and self._read else 0.0
        if self._why:
            return [("no figures: ", "line--bad"), (self._why, "")]
        if age > self.interval + STALE:
            return [("the engine does not answer: ", "line--bad"), (f"these figures are {age:.0f} s old", "")]
        can = self.capabilities
        if can.replay:
            return [("replay: ", "line--warn"), (can.replay.removeprefix("replay of "), "")]
        if self._arrived is None:
            return [("reading…", "line--muted")]
        if not can.ublk:
            why = can.ublk_why or "the kernel has none"
            return [
                ("no ublk here: ", "line--warn"),
                ("c makes a local device, inside a process. ", ""),
                (why, "line--muted"),
            ]
        if not can.root:
            return [
                ("not root: ", "line--warn"),
                ("c makes a local device, inside a process; sudo truezram makes real ones", ""),
            ]
        return []

    def _look_around(self) -> None:
        """Every second: old figures, jobs that have become long."""
        self._chrome()

    def _chrome(self) -> None:
        page = self.page
        if page is not None:
            page.update_chrome()

    def _jobs_changed(self) -> None:
        page = self.page
        if page is not None:
            page.update_jobs()
            self.screen.refresh_bindings()

    def log_event(self, event: Event) -> None:
        self.events.add(event)
        if event.level != "info" and self.is_running:
            title = event.device or "truezram"
            self.notify(
                event.text, title=title, severity="error" if event.level == "error" else "warning", markup=False
            )

    def report(self, level: str, text: str, device: str = "") -> None:
        """Something that the user should see now and find in the log later; "info" goes to the log only."""
        self.log_event(Event(self.clock(), level, text, device))

    # ---- engine calls

    def work(
        self,
        title: str,
        call: Callable[[Progress], T],
        *,
        done: Callable[[T], None] | None = None,
        failed: Callable[[str], None] | None = None,
        device: str = "",
        timeout: float = 10.0,
        partial: Callable[[object], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """Runs an engine call in the background. Its errors go to the log, to a toast, and to `failed`; a device that
        does not answer is marked on its row. With `quiet` only errors are logged."""

        async def run() -> None:
            try:
                result = await self.jobs.run(call, title, device=device, timeout=timeout, partial=partial)
            except Cancelled:
                self.report("info", f"{title}: cancelled", device)
                if failed:
                    failed("cancelled")
                return
            except Exception as error:
                # Whatever an engine throws is its own trouble: it is shown, and the rest goes on.
                known = isinstance(error, TruezramError)
                why = str(error) if known else f"{title}: {type(error).__name__}: {error}"
                if device and isinstance(error, TimedOut):
                    self.trouble[device] = why
                self.report("error", why, device)
                if failed:
                    failed(why)
                return
            if device:
                self.trouble.pop(device, None)
            if not quiet:
                self.report("info", f"{title}: done", device)
            if done:
                done(result)

        self.run_worker(run(), exit_on_error=False, group=title)

    def action_cancel_job(self) -> None:
        """Cancels the newest job."""
        self.jobs.cancel_last()

    # ---- devices

    def action_create(self) -> None:
        """Asks for a new device and makes it."""
        self.create_from()

    def create_from(self, size: int = 0, algorithm: str = "", mem_limit: int = 0) -> None:
        """Opens the create dialog with these values."""
        from truezram.app.screens.create import CreateScreen

        def made(name: str) -> None:
            self.selected = name
            self.report("info", "created", name)

        def answered(spec: CreateSpec | None) -> None:
            if spec is not None:
                self.work(
                    f"create {spec.transport} device",
                    lambda progress: self.engine.create(spec, progress),
                    done=made,
                    timeout=30,
                    quiet=True,
                )

        self.push_screen(CreateScreen(size=size, algorithm=algorithm, mem_limit=mem_limit), answered)

    def action_remove(self) -> None:
        """Asks, then removes the device under the cursor."""
        from truezram.app.screens.confirm import RemoveScreen

        series = self.history.devices.get(self.selected)
        latest = self.history.latest
        if series is None or series.latest is None or latest is None:
            return
        device = series.latest

        def answered(force: bool | None) -> None:
            if force is not None:
                self.work(
                    f"remove {device.name}",
                    lambda progress: self.engine.remove(device.name, force, progress),
                    device=device.name,
                    timeout=STOP_TIMEOUT,
                )

        self.push_screen(RemoveScreen(device, latest.machine), answered)

    def removable(self) -> bool:
        """Whether there is a device of ours under the cursor."""
        series = self.history.devices.get(self.selected)
        return bool(series and series.latest and series.latest.kind == "truezram")

    # ---- view

    def action_pause(self) -> None:
        """Stops the graphs, or lets them go on; figures are still taken in."""
        self.view.paused = not self.view.paused
        self._redraw()

    def action_zoom(self, step: int) -> None:
        """More or fewer seconds a dot."""
        self.view.zoom = max(0, min(len(ZOOMS) - 1, self.view.zoom + step))
        self._redraw()

    def _redraw(self) -> None:
        page = self.page
        if page is not None:
            page.tick(True)
        self.screen.refresh_bindings()

    def go(self, mode: str) -> None:
        """Shows another page."""
        if mode in self.MODES and mode != self.current_mode and not self.in_dialog:
            self.switch_mode(mode)

    def action_go(self, mode: str) -> None:
        """Shows another page."""
        self.go(mode)

    def action_step(self, step: int) -> None:
        """Shows the next page, or the one before."""
        modes = [page[0] for page in self.pages]
        if self.current_mode in modes:
            self.go(modes[(modes.index(self.current_mode) + step) % len(modes)])

    @property
    def in_dialog(self) -> bool:
        """Whether a dialog is open."""
        return not isinstance(self.screen, Page)

    def choose_columns(self) -> None:
        """Opens the choice of columns; it is kept in the settings."""
        from truezram.app.screens.columns_dialog import ColumnsScreen

        def answered(chosen: tuple[str, ...] | None) -> None:
            if chosen is not None:
                self.change_config(columns=chosen)

        self.push_screen(ColumnsScreen(self.config.columns), answered)

    def action_jump(self) -> None:
        """Letters on everything that can have the focus."""
        from truezram.app.screens.jump import JumpScreen

        def answered(widget: Widget | None) -> None:
            if widget is not None and widget.is_attached:
                widget.focus()

        self.push_screen(JumpScreen(self.screen), answered)

    def action_export(self) -> None:
        """Asks what to export, and writes it."""
        from truezram.app.screens.export_dialog import ExportScreen

        picture = self.export_screenshot()
        self.push_screen(ExportScreen(picture))

    def action_chart(self) -> None:
        """The graphs of the device under the cursor as a large chart that stands still."""
        from truezram.app.screens.chart import ChartScreen

        series = self.history.devices.get(self.selected)
        if series is not None:
            self.push_screen(ChartScreen(self.selected, series))

    def all_bindings(self) -> dict[str, tuple[str, str]]:
        """Id → (the program's own keys, what it does) of everything that a key can be chosen for."""
        from truezram.app.screens.benchmark import BenchmarkPage
        from truezram.app.screens.dashboard import DashboardPage
        from truezram.app.screens.device import DevicePage
        from truezram.app.screens.doctor import DoctorPage
        from truezram.app.screens.log import LogPage
        from truezram.app.screens.settings import SettingsPage
        from truezram.app.screens.tune import TunePage
        from truezram.app.screens.whatif import WhatIfPage
        from truezram.app.widgets.device_table import DeviceTable
        from truezram.app.widgets.grid import Grid
        from truezram.app.widgets.page_map import PageMapView

        pages = (DashboardPage, DevicePage, WhatIfPage, TunePage, BenchmarkPage, DoctorPage, LogPage, SettingsPage)
        found: dict[str, tuple[str, str]] = {}
        for owner in (type(self), DeviceTable, Grid, PageMapView, *pages):
            for binding in owner.BINDINGS:
                if isinstance(binding, Binding) and binding.id:
                    found[binding.id] = (binding.key, binding.description)
        return found

    def action_help(self) -> None:
        """Help for what is shown."""
        from truezram.app.screens.help import HelpScreen

        screen = self.screen
        seen: dict[str, Any] = {}
        keys: dict[str, list[str]] = {}
        for active in screen.active_bindings.values():
            name = active.binding.id or active.binding.action
            keys.setdefault(name, []).append(self.get_key_display(active.binding))
            if active.binding.description and active.binding.id:
                seen.setdefault(name, active)
        shown = {name: " ".join(dict.fromkeys(found)) for name, found in keys.items()}
        title = getattr(screen, "TITLE_TEXT", "") or "this dialog"
        guide = getattr(screen, "GUIDE", "")
        self.push_screen(HelpScreen(title, guide, list(seen.values()), shown, self.current_mode == "dashboard"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The footer offers only what does something now."""
        if action == "cancel_job":
            return bool(self.jobs.jobs)
        if action in ("create", "remove", "pause", "zoom", "go", "step", "chart", "export", "jump") and self.in_dialog:
            return False
        if action == "remove":
            return self.removable() and self.current_mode in ("dashboard", "device")
        if action == "create":
            return self.current_mode in ("dashboard", "device")
        if action == "pause":
            return self.current_mode == "dashboard"
        if action == "chart":
            return self.selected in self.history.devices
        if action == "zoom":
            step = parameters[0] if parameters else 0
            return self.current_mode == "dashboard" and 0 <= self.view.zoom + int(str(step)) < len(ZOOMS)
        if action == "go":
            return bool(parameters) and parameters[0] in self.MODES
        if action == "help":
            return type(self.screen).__name__ not in ("HelpScreen", "CommandPalette")
        return True

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action there is, for the palette."""
        yield from commands(self, screen)

    # ---- settings

    def change_config(self, **changes: Any) -> None:
        """Changes settings, applies them, and saves them."""
        self.config = replace(self.config, **changes)
        self.view.glyphs = glyphs.choose(self.config.glyphs, self.environ)
        self.view.pages = self.config.units == "pages"
        if "keys" in changes:
            self.set_keymap(dict(self.config.keys))
        if self._reader:
            self._reader.interval = self.interval
        if "theme" in changes:
            self.theme = self.pick_theme()
        from truezram.app.widgets.device_table import DeviceTable

        for table in self.screen.query(DeviceTable):
            table.wanted = self.config.columns
        if self.config_path is not None:
            try:
                configuration.save(self.config_path, self.config)
            except OSError as error:
                self.report("warning", f"settings not saved: {self.config_path}: {error.strerror}")
        self._redraw()
        self.refresh(repaint=True)
        self.screen.refresh(layout=True)

    def get_line_filters(self) -> list[LineFilter]:
        """Plain ASCII where the terminal needs it."""
        filters = list(super().get_line_filters())
        if self.view.glyphs == "ascii":
            filters.append(self._ascii)
        return filters

    def get_theme(self, theme_name: str) -> Theme | None:
        """A theme by name. Textual asks at every line it draws, and would merge all themes each time."""
        return self._themes.themes.get(theme_name) or super().get_theme(theme_name)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Values for our own variables, for the time before our themes are loaded."""
        return theme.DEFAULT_VARIABLES

    def pick_theme(self) -> str:
        """The theme to use: the user's choice, else what suits the terminal."""
        wanted = self.config.theme
        if not wanted:
            colours = self.console.color_system
            wanted = "no-colour" if self.no_colour else "ansi" if colours == "standard" else "dark"
        if wanted not in self._themes.themes:
            self._problems.append(f"there is no theme {wanted!r}")
            wanted = "dark" if "dark" in self._themes.themes else "textual-dark"
        return wanted

    def theme_titles(self) -> dict[str, str]:
        """Name → title of the themes that can be used."""
        return dict(self._themes.titles)

    def _load_themes(self, start: bool = False) -> None:
        self._themes = theme.load(self._theme_folders)
        for found in self._themes.themes.values():
            self.register_theme(found)
        if start:
            self._problems += self._themes.problems
            # Set before the style sheet is parsed for the first time: a change afterwards would parse it all again.
            self.set_reactive(App.theme, self.pick_theme())
            self.stylesheet.set_variables(self.get_css_variables())
            self._refresh_truecolor_filter(self.ansi_theme)

    def _reload_themes(self) -> None:
        """Live reload: takes in what changed in the theme folders."""
        if theme.stamp(self._theme_folders) == self._themes.stamp:
            return
        before = self._themes
        self._load_themes()
        for problem in self._themes.problems:
            if problem not in before.problems:
                self.report("warning", problem)
        current = self.theme
        if current in self._themes.themes and before.themes.get(current) != self._themes.themes[current]:
            self._invalidate_css()
            self.call_next(self.refresh_css, animate=False)
            self.report("info", f"theme {current} reloaded")


def main(record: Path | None = None, replay: Path | None = None) -> int:
    """Shows the app until the user quits; the exit code. See `truezram.app.main.run`."""
    from truezram.app.main import run

    return run(record, replay)
