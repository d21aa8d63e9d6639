"""Jump mode: a letter on each focusable widget; its key moves the focus there."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Label

from truezram.app.widgets.chrome import Footer

KEYS = "asdfghjklqwertyuiopzxcvbnm"


class JumpScreen(ModalScreen[Widget | None]):
    """Returns the widget to go to."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Stay", id="jump.cancel")]

    def __init__(self, below: Screen[object]) -> None:
        super().__init__()
        self.targets = dict(zip(KEYS, (w for w in below.focus_chain if w.region), strict=False))

    def compose(self) -> ComposeResult:
        """A letter at each target's corner."""
        for key, widget in self.targets.items():
            label = Label(f" {key} ", classes="jumpkey")
            label.styles.offset = (widget.region.x, widget.region.y)
            yield label
        yield Footer()

    def on_key(self, event: object) -> None:
        """Goes there."""
        key = getattr(event, "key", "")
        if key in self.targets:
            self.dismiss(self.targets[key])
