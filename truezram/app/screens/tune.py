"""Tune: every live setting of the devices and the machine, current and suggested values with the reason; apply and
undo."""

from __future__ import annotations

import textwrap
import time
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Label, Static

from truezram.app import equivalent
from truezram.app.format import capitalized
from truezram.app.screens.dialog import Dialog
from truezram.app.screens.page import Page
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock
from truezram.engine.answers import Change, Tunable
from truezram.engine.device.settings import BY_KEY, SETTINGS
from truezram.engine.errors import TruezramError


def command(tunable: Tunable, value: str) -> str:
    """The command that does the same."""
    if tunable.device:
        return equivalent.set_value(tunable.device, tunable.key, value, not tunable.device.startswith("local"))
    return equivalent.tune(tunable.key, value)


class EditScreen(Dialog[str | None]):
    """Asks for a new value. Returns it, or None."""

    GUIDE: ClassVar[str] = "Type a value, or select one with F2. The command does exactly what Apply does."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="edit.cancel"),
        Binding("f2", "next_choice", "Next choice", id="edit.next"),
    ]

    def __init__(self, tunable: Tunable) -> None:
        super().__init__()
        self.tunable = tunable
        choices = [tunable.suggested, *tunable.choices]
        self.choices = [choice for choice in dict.fromkeys(choices) if choice]

    def compose(self) -> ComposeResult:
        """The field, what may be entered, the command."""
        tunable = self.tunable
        with Vertical(id="dialog"):
            yield Label(f"{tunable.device} {tunable.key}".strip(), id="heading")
            gain = f". {capitalized(tunable.gain)}" if tunable.gain else ""
            yield Static(Text(capitalized(tunable.reason) + gain), id="reason")
            with Horizontal(classes="field"):
                yield Label("Value")
                yield Input(tunable.current, id="value", compact=True)
                yield Static(Text(tunable.hint or ", ".join(tunable.choices)), id="value-note", classes="note")
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Apply", id="apply", variant="primary", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """Ready to type."""
        self.query_one(Input).focus()
        self.check()

    @on(Input.Changed)
    def check(self) -> None:
        """Checks what can be checked here; the engine checks the rest."""
        value = self.query_one(Input).value.strip()
        problem = self._problem(value)
        note = self.query_one("#value-note", Static)
        note.update(Text(problem or self.tunable.hint or ", ".join(self.tunable.choices)))
        note.set_class(bool(problem), "bad")
        self.query_one("#apply", Button).disabled = bool(problem) or value == self.tunable.current
        self.query_one("#command", Static).update(Text(f"$ {command(self.tunable, value)}" if not problem else ""))

    def _problem(self, value: str) -> str:
        if not value:
            return "Enter a value"
        try:
            if self.tunable.device:
                BY_KEY[self.tunable.key].parse(value)
        except TruezramError as error:
            return f"{capitalized(error.why or error.what)}. {error.remedy}".removesuffix(". ")
        if not self.tunable.device and self.tunable.choices and value not in self.tunable.choices:
            return f"Choose {', '.join(self.tunable.choices)}"
        return ""

    def action_next_choice(self) -> None:
        """Selects the next choice."""
        if self.choices:
            field = self.query_one(Input)
            place = self.choices.index(field.value) if field.value in self.choices else -1
            field.value = self.choices[(place + 1) % len(self.choices)]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """F2 is shown only if there are choices."""
        return bool(self.choices) if action == "next_choice" else True

    @on(Button.Pressed, "#apply")
    @on(Input.Submitted)
    def _apply(self) -> None:
        if not self.query_one("#apply", Button).disabled:
            self.dismiss(self.query_one(Input).value.strip())

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Changes nothing."""
        self.dismiss(None)


class TunePage(Page):
    """Settings above, the journal of changes below."""

    MODE = "tune"
    TITLE_TEXT = "Tune"
    GUIDE = (
        "Every setting that can be changed at run time. Settings whose suggested value differs are highlighted; "
        "the reason is below. Enter edits, a applies the suggestion under the cursor, A all suggestions for the "
        "machine. Changes to the machine's settings are recorded in a journal and last until the next boot: u "
        "undoes the newest one, or in the journal (Tab) the one under the cursor."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", "Edit", key_display="Enter", id="tune.edit"),
        Binding("a", "suggested", "Apply suggestion", id="tune.apply"),
        Binding("A", "all_suggested", "Apply all", id="tune.apply_all"),
        Binding("u", "undo", "Undo", id="tune.undo"),
        Binding("r", "reload", "Reload", show=False, id="tune.reload"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="tune.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.tunables: dict[str, Tunable] = {}
        self.changes: tuple[Change, ...] = ()
        self._key: tuple[object, ...] = ()

    def content(self) -> ComposeResult:
        """Settings, reason, journal."""
        yield Grid(
            [
                Head("WHERE", 8, left=True),
                Head("SETTING", 20, left=True, grow=True, most=22),
                Head("CURRENT", 14, left=True),
                Head("SUGGESTED", 13, left=True, grow=True),
            ],
            empty="Reading the settings.",
            id="settings",
        )
        yield TextBlock(id="reason")
        yield Grid(
            [
                Head("CHANGE", 6),
                Head("TIME", 19, left=True, rank=2),
                Head("SETTING", 22, left=True),
                Head("WAS", 8, left=True),
                Head("BECAME", 8, left=True, grow=True, most=24),
                Head("NOW", 8, left=True),
            ],
            empty="No machine settings were changed.",
            id="journal",
        )

    def on_mount(self) -> None:
        """Keys go to the settings."""
        self.query_one("#settings", Grid).focus()

    def on_screen_resume(self) -> None:
        """Reads the settings whenever the page is shown."""
        super().on_screen_resume()
        self.action_reload()

    def tick(self, sampled: bool) -> None:
        """Reads again when a device came, went or was changed."""
        latest = self.tz.history.latest
        if latest is None:
            return
        key = tuple((d.name, d.state, *(setting.of(d) for setting in SETTINGS)) for d in latest.devices)
        if key != self._key:
            first, self._key = not self._key, key
            if not first:
                self.action_reload()

    def action_reload(self) -> None:
        """Reads settings and journal."""
        engine = self.tz.engine
        self.tz.work(
            "read the settings",
            lambda _: (engine.tunables(), engine.journal()),
            done=lambda found: self._show(*found),
            failed=self._failed,
            quiet=True,
        )

    def _failed(self, why: str) -> None:
        grid = self.query_one("#settings", Grid)
        grid.empty = f"The settings cannot be read: {why}"
        grid.show([])

    def _show(self, tunables: tuple[Tunable, ...], changes: tuple[Change, ...]) -> None:
        self.tunables = {f"{t.device}/{t.key}": t for t in tunables}
        self.changes = changes
        items = []
        for key, t in self.tunables.items():
            style = "warn" if t.differs else "muted" if t.readonly else ""
            suggested = t.suggested if t.suggested != t.current else ""
            items.append(Item(key, (t.device or "machine", t.key, t.current, suggested or "-"), style))
        self.query_one("#settings", Grid).show(items)
        rows = []
        for change in changes:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.time))
            now = "undone" if change.undone else "in force"
            cells = (f"#{change.id}", stamp, change.key, change.before, change.after, now)
            rows.append(Item(str(change.id), cells, "muted" if change.undone else ""))
        self.query_one("#journal", Grid).show(rows)
        self._reason()
        self.refresh_bindings()

    @property
    def current(self) -> Tunable | None:
        """The setting under the cursor."""
        return self.tunables.get(self.query_one("#settings", Grid).cursor)

    @on(Grid.Moved, "#settings")
    def _reason(self) -> None:
        tunable = self.current

        def make(width: int) -> list[list[tuple[str, str]]]:
            if tunable is None:
                return []
            lines = [[(line, "plain")] for line in textwrap.wrap(capitalized(tunable.reason), width)[:4]]
            if tunable.gain:
                lines += [[(line, "good")] for line in textwrap.wrap(f"{capitalized(tunable.gain)}.", width)[:3]]
            if tunable.readonly:
                lines.append([(f"Cannot be changed: {tunable.readonly}.", "warn")])
            elif tunable.hint:
                lines.append([(f"Allowed: {tunable.hint}.", "muted")])
            if tunable.differs:
                lines.append([(f"$ {command(tunable, tunable.suggested)}", "command")])
            return lines

        self.query_one("#reason", TextBlock).show(make)
        self.refresh_bindings()

    # ---- what the user does

    @on(Grid.Chosen, "#settings")
    def action_edit(self) -> None:
        """Edits the setting under the cursor."""
        tunable = self.current
        if tunable is None or tunable.readonly:
            return

        def answered(value: str | None) -> None:
            if value is not None:
                self._set([(tunable, value)])

        self.app.push_screen(EditScreen(tunable), answered)

    def action_suggested(self) -> None:
        """Applies the suggestion under the cursor."""
        tunable = self.current
        if tunable is not None and tunable.differs:
            self._set([(tunable, tunable.suggested)])

    def action_all_suggested(self) -> None:
        """Applies every suggestion for the machine, not those for devices."""
        self._set([(t, t.suggested) for t in self.tunables.values() if t.differs and not t.device])

    def _set(self, wanted: list[tuple[Tunable, str]]) -> None:
        if not wanted:
            return
        engine = self.tz.engine

        def call(_: object) -> None:
            for tunable, value in wanted:
                engine.tune(tunable.device, tunable.key, value)

        device = wanted[0][0].device if len(wanted) == 1 else ""
        title = ", ".join(f"{tunable.key}={value}" for tunable, value in wanted)
        self.tz.work(f"set {title}", call, done=lambda _: self.action_reload(), device=device)

    def action_undo(self) -> None:
        """Undoes the change under the journal's cursor, or the newest one in force."""
        journal = self.query_one("#journal", Grid)
        in_force = [change for change in self.changes if not change.undone]
        chosen = [c for c in in_force if str(c.id) == journal.cursor] if journal.has_focus else []
        change = next(iter(chosen or in_force), None)
        if change is None:
            return
        engine = self.tz.engine
        self.tz.work(
            f"undo {change.key}={change.before}",
            lambda _: engine.undo(change.id),
            done=lambda _: self.action_reload(),
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only available actions."""
        if not self.is_mounted:
            return True
        tunable = self.current
        if action == "edit":
            return tunable is not None and not tunable.readonly
        if action == "suggested":
            return tunable is not None and tunable.differs
        if action == "all_suggested":
            return any(t.differs and not t.device for t in self.tunables.values())
        if action == "undo":
            return any(not change.undone for change in self.changes)
        return True
