"""The base of the screens that can be switched between: top bar, notice, content, jobs, footer.

A page draws from the app's history when it is shown and at every snapshot while it is (`tick`); it keeps nothing of
its own that a snapshot could have told it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen

from truezram.app.widgets.chrome import Footer, JobBar, TextLine, TopBar

if TYPE_CHECKING:
    from truezram.app.app import TruezramApp
    from truezram.app.export import Table

PAGES: tuple[tuple[str, str, str], ...] = (
    ("dashboard", "Devices", "Devs"),
    ("device", "Device", "Dev"),
    ("whatif", "What if", "What"),
    ("tune", "Tune", "Tune"),
    ("benchmark", "Bench", "Bench"),
    ("doctor", "Doctor", "Doc"),
    ("log", "Log", "Log"),
    ("settings", "Settings", "Set"),
)

SETTLED = 2.0
"""Seconds after which a page has made what it is made of."""


class Page(Screen[None]):
    """One of `PAGES`."""

    MODE: ClassVar[str] = ""
    TITLE_TEXT: ClassVar[str] = ""
    GUIDE: ClassVar[str] = ""
    """What the screen shows and how to read it, for its help."""

    @property
    def tz(self) -> TruezramApp:
        """The app."""
        return cast("TruezramApp", self.app)

    def compose(self) -> ComposeResult:
        """Chrome around the content."""
        yield TopBar(self.tz.pages, self.MODE)
        yield TextLine(id="notice")
        yield from self.content()
        yield JobBar()
        yield Footer()

    def content(self) -> ComposeResult:
        """The page's own widgets."""
        raise NotImplementedError

    def shows(self, device: str) -> bool:
        """Whether the user can see which device is meant: what is hidden must not be removed."""
        return True

    def table(self) -> Table | None:
        """What the page has found out, for an export; None where that is the devices' figures."""
        return None

    def open_create(self) -> None:
        """Opens Create; with what the page has found out, where it has."""
        self.tz.create_from()

    def tick(self, sampled: bool) -> None:
        """New figures; `sampled` when graphs have something new to draw."""

    def on_screen_resume(self) -> None:
        """Draws what happened while another page was shown."""
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
        """The jobs that have lasted long enough."""
        self.query_one(JobBar).show(self.tz.jobs.visible(), self.tz.view.glyphs)
