"""The base of the screens that can be switched between: top bar, notice, content, jobs, footer.

A page draws from the app's history when it is shown and at every snapshot (`tick`); it keeps no state that can be
read from a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.screen import Screen

from truezram.app.core import LivePage
from truezram.app.widgets.chrome import Footer, JobBar, TextLine, TopBar

if TYPE_CHECKING:
    from truezram.app.export import Table
    from truezram.engine.device.options import CreateOptions


@dataclass(frozen=True, slots=True)
class Place:
    """A page of the app. Its module has the mode's name and is imported when the page is first shown, to save start-up
    time."""

    mode: str
    name: str
    short: str
    """Its name on a narrow terminal."""
    made_by: str
    """The class."""

    def load(self) -> type[Page]:
        """Imports the class."""
        found: type[Page] = _load(f"screens.{self.mode}", self.made_by)
        return found

    def make(self) -> Screen[Any]:
        """The screen."""
        return self.load()()


PAGES = (
    Place("dashboard", "Devices", "Devs", "DashboardPage"),
    Place("device", "Device", "Dev", "DevicePage"),
    Place("whatif", "What if", "What", "WhatIfPage"),
    Place("tune", "Tune", "Tune", "TunePage"),
    Place("benchmark", "Bench", "Bench", "BenchmarkPage"),
    Place("doctor", "Doctor", "Doc", "DoctorPage"),
    Place("log", "Log", "Log", "LogPage"),
    Place("settings", "Settings", "Set", "SettingsPage"),
)
"""All pages, in the order of their keys 1, 2, …"""
KEYS = {place.mode: str(number) for number, place in enumerate(PAGES, 1)}
"""The key of each page."""
FOCUSED = (
    ("widgets.device_table", "DeviceTable"),
    ("widgets.grid", "Grid"),
    ("widgets.page_map", "PageMapView"),
)
"""Focusable widgets of the pages with their own keys."""
DIALOGS = (
    ("screens.chart", "ChartScreen"),
    ("screens.columns_dialog", "ColumnsScreen"),
    ("screens.confirm", "RemoveScreen"),
    ("screens.confirm", "ResetScreen"),
    ("screens.create", "CreateScreen"),
    ("screens.export_dialog", "ExportScreen"),
    ("screens.help", "HelpScreen"),
    ("screens.jump", "JumpScreen"),
    ("screens.recompress", "RecompressScreen"),
    ("screens.setup", "SetupScreen"),
    ("screens.tune", "EditScreen"),
)
"""Dialogs with their own keys."""


def _load(module: str, name: str) -> type[Any]:
    found: type[Any] = getattr(import_module(f"truezram.app.{module}"), name)
    return found


def owners() -> Iterable[type]:
    """Widgets and pages whose keys can be changed; imported on demand."""
    return (*(_load(*entry) for entry in FOCUSED), *(place.load() for place in PAGES))


def dialogs() -> Iterable[type]:
    """Dialogs whose keys can be changed."""
    return (_load(*entry) for entry in DIALOGS)


SETTLED = 2.0
"""Seconds after which a page has created its widgets."""


class Page(LivePage):
    """One of `PAGES`."""

    MODE: ClassVar[str] = ""
    TITLE_TEXT: ClassVar[str] = ""
    GUIDE: ClassVar[str] = ""
    """What the screen shows and how to read it, for the help."""
    CREATES: ClassVar[bool] = False
    """A device can be created from here."""
    REMOVES: ClassVar[bool] = False
    """The device under the cursor can be removed."""
    GRAPHS: ClassVar[bool] = False
    """Its graphs can be paused and zoomed."""
    DEVICE_COLUMNS: ClassVar[bool] = False
    """Its help explains the columns of the device table."""

    def compose(self) -> ComposeResult:
        """Chrome around the content."""
        yield TopBar([(place.mode, place.name, place.short) for place in PAGES], self.MODE)
        yield TextLine(id="notice")
        yield from self.content()
        yield JobBar()
        yield Footer()

    def content(self) -> ComposeResult:
        """The page's own widgets."""
        raise NotImplementedError

    def shows(self, device: str) -> bool:
        """Whether the device is visible to the user: a hidden one must not be removed."""
        return True

    def table(self) -> Table | None:
        """The page's results for an export; None to export the devices."""
        return None

    def proposal(self) -> CreateOptions | None:
        """What the create dialog should start with, if the page knows."""
        return None

    def on_screen_resume(self) -> None:
        """Draws what changed while another page was shown."""
        self.update_chrome()
        self.tick(True)

    def on_mount(self) -> None:
        """The first figures."""
        self.call_after_refresh(self.on_screen_resume)
        self.set_timer(SETTLED, self.tz.settled)

    def update_chrome(self) -> None:
        """Notice, jobs, and the right end of the top bar."""
        app = self.tz
        self.query_one(TopBar).set_right(app.right_text())
        self.query_one("#notice", TextLine).set_parts(app.notice())
        self.update_jobs()

    def update_jobs(self) -> None:
        """The jobs that have run long enough."""
        self.query_one(JobBar).show(self.tz.jobs.visible(), self.tz.view.glyphs)
