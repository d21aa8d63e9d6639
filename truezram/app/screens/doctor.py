"""The doctor: checks of this machine, each with its remedy."""

from __future__ import annotations

import textwrap
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from truezram.app import equivalent
from truezram.app.screens.page import Page
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock
from truezram.engine.answers import Check

STYLES = {"ok": "good", "warn": "warn", "fail": "bad"}


class DoctorPage(Page):
    """Runs when it is first shown, and again on r."""

    MODE = "doctor"
    TITLE_TEXT = "Doctor"
    GUIDE = (
        "ok: nothing to do. warn: it works, but read the details. fail: ublk devices cannot be created until this is"
        " fixed. The details of the check under the cursor, and what to do about it, are below the table."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run", "Check again", id="doctor.run"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="doctor.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.checks: tuple[Check, ...] = ()
        self._asked = False

    def content(self) -> ComposeResult:
        """Checks, and the details of one."""
        yield Static(Text(f"Checks of this machine  $ {equivalent.doctor()}"), classes="pagehead")
        yield Grid(
            [Head("CHECK", 14, left=True), Head("STATE", 5, left=True), Head("FOUND", 20, left=True, grow=True)],
            empty="Checking.",
            id="checks",
        )
        yield TextBlock(id="remedy")

    def on_mount(self) -> None:
        """Keys go to the table."""
        self.query_one(Grid).focus()

    def tick(self, sampled: bool) -> None:
        """The first time: runs."""
        if not self._asked:
            self._asked = True
            self.action_run()

    def action_run(self) -> None:
        """Runs all checks."""
        app = self.tz
        app.work("doctor", lambda _: app.engine.doctor(), done=self._done, failed=self._failed, quiet=True)
        app.refresh_capabilities()

    def _done(self, checks: tuple[Check, ...]) -> None:
        self.checks = checks
        self.query_one(Grid).show([Item(c.name, (c.name, c.state, c.detail), STYLES.get(c.state, "")) for c in checks])
        worst = next((c.name for state in ("fail", "warn") for c in checks if c.state == state), "")
        if worst and not self.query_one(TextBlock).make(80):
            grid = self.query_one(Grid)
            grid.cursor = worst
            grid.rebuild()
        self._remedy()

    def _failed(self, why: str) -> None:
        grid = self.query_one(Grid)
        grid.empty = f"The checks failed: {why}"
        grid.show([])

    @on(Grid.Moved)
    def _remedy(self) -> None:
        check = next((c for c in self.checks if c.name == self.query_one(Grid).cursor), None)

        def make(width: int) -> list[list[tuple[str, str]]]:
            if check is None:
                return []
            lines = [[(f"{check.name}: {check.state}", "heading")]]
            lines += [[(line, "plain")] for line in textwrap.wrap(check.detail, width)]
            remedy = textwrap.wrap(check.remedy, max(width - 4, 10), break_on_hyphens=False) if check.remedy else []
            lines += [[(("→ " if n == 0 else "  ") + line, "command")] for n, line in enumerate(remedy)]
            return lines

        self.query_one(TextBlock).show(make)
