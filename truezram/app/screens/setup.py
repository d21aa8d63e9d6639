"""Setting the machine up: what it should have, why, the commands, and one key that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Label, Static

from truezram.app import equivalent
from truezram.app.screens.dialog import Dialog
from truezram.app.widgets.chrome import Footer

if TYPE_CHECKING:
    from truezram.engine.device.setup import Plan

HEADINGS = {
    "truezram": "Swap on truezram fits this machine",
    "zram": "Swap on kernel zram fits this machine",
    "zswap": "zswap fits this machine, in front of its swap on disk",
    "nothing": "Nothing is to be set up",
}


class SetupScreen(Dialog["Plan | None"]):
    """Returns what to do, or None."""

    GUIDE: ClassVar[str] = (
        "What fits this machine, from its memory, its swap, its kernel, and (once What if or Create has measured it) "
        "what its memory compresses to. The commands do exactly what Set up does, and it comes back after every "
        "restart. `truezram setup undo` takes it back."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="setup.cancel"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None

    def compose(self) -> ComposeResult:
        """Heading, reasons, commands, buttons."""
        with Vertical(id="dialog"):
            yield Label("Looking at this machine…", id="heading")
            with VerticalScroll(id="advice", can_focus=False):
                yield Static(id="found")
                yield Static(id="reasons")
                yield Static(id="command")
                yield Static(id="warning")
            with Horizontal(id="buttons"):
                yield Button("Set up", id="set-up", variant="primary", compact=True, disabled=True)
                yield Button("Cancel", id="cancel", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """Asks the engine."""
        self.query_one("#cancel").focus()
        engine, found = self.tz.engine, self.tz.measured
        ratio = found.total.algorithms[0].ratio if found is not None and found.total.algorithms else None
        self.tz.work(
            "look at this machine",
            lambda _: engine.setup_plan(ratio),
            done=self._planned,
            failed=self._failed,
            quiet=True,
            optional=True,
        )

    def _failed(self, why: str) -> None:
        if self.is_attached:
            self.query_one("#heading", Label).update("This machine cannot be set up from here")
            self.query_one("#warning", Static).update(Text(why))

    def _planned(self, plan: Plan) -> None:
        if not self.is_attached:
            return
        self.query_one("#heading", Label).update(HEADINGS[plan.advice.use])
        self.query_one("#found", Static).update(Text(f"{plan.advice.machine}."))
        self.query_one("#reasons", Static).update(Text("\n".join(f"• {reason}" for reason in plan.advice.reasons)))
        commands = "\n".join(f"$ {line}" for line in equivalent.setup(plan))
        self.query_one("#command", Static).update(Text(commands))
        why = self._why_not()
        self.query_one("#warning", Static).update(Text("\n".join((*plan.notes, *([why] if why else ())))))
        if plan.empty or why:
            return
        self.plan = plan
        button = self.query_one("#set-up", Button)
        button.disabled = False
        button.focus()

    def _why_not(self) -> str:
        can = self.tz.capabilities
        if not can.root:
            return "Only root can do this: start the app with sudo."
        return f"It would not come back after a restart: {can.persist_why}." if can.persist_why else ""

    @on(Button.Pressed, "#set-up")
    def _set_up(self) -> None:
        self.dismiss(self.plan)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Does nothing."""
        self.dismiss(None)
