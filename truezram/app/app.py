"""The app's surface: its screens, keys and actions, on top of `Appearance` (appearance.py) and `Core` (core.py).

The app owns no device: quitting, or a hang-up, stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from truezram.app import config as configuration
from truezram.app import glyphs, keymap
from truezram.app.appearance import Appearance
from truezram.app.commands import commands
from truezram.app.format import capitalized
from truezram.app.picture import portable
from truezram.app.screens.page import PAGES, Page
from truezram.app.source import CreateSpec, Engine
from truezram.app.widgets.graph import ZOOMS

STOP_TIMEOUT = 60.0
"""Seconds that removing a device may take: swapoff reads everything back."""


def _page(module: str, name: str) -> Callable[[], Screen[Any]]:
    """A page that is imported when it is first shown: what is not seen costs no start-up time."""

    def make() -> Screen[Any]:
        from importlib import import_module

        screen: Screen[Any] = getattr(import_module(f"truezram.app.screens.{module}"), name)()
        return screen

    return make


def _is_palette(screen: Screen[Any]) -> bool:
    # By its name: importing it takes time that a start without it need not spend.
    return type(screen).__name__ == "CommandPalette"


class TruezramApp(Appearance):
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
    VERTICAL_BREAKPOINTS = [(0, "-short"), (23, "-medium"), (32, "-high"), (44, "-tall")]  # noqa: RUF012

    def __init__(self, engine: Engine, **options: Any) -> None:
        """Takes what `Core` and `Appearance` take."""
        super().__init__(engine, **options)
        if self.config.keys:
            self.set_keymap(dict(self.config.keys))
            self._problems += keymap.problems(self.all_bindings(), keymap.of_dialogs(), self.config.keys)

    @property
    def pages(self) -> list[tuple[str, str, str]]:
        """The screens that there are: mode, name, short name."""
        return [page for page in PAGES if page[0] in self.MODES]

    # ---- devices

    def action_create(self) -> None:
        """Asks for a new device and makes it."""
        if self.page is not None:
            self.page.open_create()

    def create_from(self, size: int = 0, algorithm: str = "", mem_limit: int = 0, swap: bool = False) -> None:
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

        self.push_screen(CreateScreen(size=size, algorithm=algorithm, mem_limit=mem_limit, swap=swap), answered)

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

        self.push_screen(RemoveScreen(device, latest.machine, device.name in self.trouble), answered)

    def removable(self) -> bool:
        """Whether there is a device of ours under the cursor."""
        page = self.page
        if page is not None and not page.shows(self.selected):
            return False
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
        return not isinstance(self.asked_from, Page)

    @property
    def asked_from(self) -> Screen[Any]:
        """The screen that is used: the palette lies over it and offers what can be done on it."""
        stack = self.screen_stack
        return next((screen for screen in reversed(stack) if not _is_palette(screen)), stack[-1])

    def choose_columns(self) -> None:
        """Opens the choice of columns; it is kept in the settings."""
        from truezram.app.screens.columns_dialog import ColumnsScreen

        def answered(chosen: tuple[str, ...] | None) -> None:
            if chosen is not None:
                self.change_config(columns=chosen)

        self.push_screen(ColumnsScreen(self.config.columns, self.size.width - 2), answered)

    def get_key_display(self, binding: Binding) -> str:
        """Names of keys begin with a capital: Esc, Enter, Space."""
        shown = super().get_key_display(binding)
        return capitalized(shown) if len(shown) > 1 else shown

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

        picture = portable(self.export_screenshot())
        page = self.page
        self.push_screen(ExportScreen(picture, page.table() if page else None))

    def action_chart(self) -> None:
        """The graphs of the device under the cursor as a large chart that stands still."""
        from truezram.app.screens.chart import ChartScreen

        series = self.history.devices.get(self.selected)
        if series is not None:
            self.push_screen(ChartScreen(self.selected, series))

    def all_bindings(self) -> dict[str, tuple[str, str]]:
        """Id → (the program's own keys, what it does) of everything that a key can be chosen for."""
        return keymap.bindings_of((type(self), *keymap.owners()))

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
            return self.current_mode in ("dashboard", "device", "whatif")
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
            return type(self.asked_from).__name__ != "HelpScreen"
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
