"""Having a device's idle pages compressed once more: which, with what, and how much of a core that may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Label, Select, Static

from truezram.app import equivalent
from truezram.app.format import capitalized, short_size
from truezram.app.screens.dialog import Dialog
from truezram.app.widgets.choice import Choice
from truezram.app.widgets.chrome import Footer
from truezram.engine.device.options import RecompressOptions
from truezram.engine.errors import TruezramError, UsageError
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import format_count, format_duration, parse_duration

T = TypeVar("T")
DEFAULT = RecompressOptions()
WAYS = (
    ("dense: each page by itself", "dense"),
    ("cold: neighbours in groups", "cold"),
    ("zstd:9: 10 times the CPU", "zstd:9"),
)


def _percent(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise UsageError("invalid share of a core", "it is not a number from 1 to 100")
    return int(text)


class RecompressScreen(Dialog[RecompressOptions | None]):
    """Returns what is to be done, or None."""

    GUIDE: ClassVar[str] = (
        "Pages that nobody has touched for that long are compressed once more, and stored that way if they take at "
        "least a sixteenth less room. The device's server does it beside all requests; s stops it. Tune has the policy "
        "that does it by itself. The command does exactly what Start does."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="recompress.cancel"),
        Binding("down", "app.focus_next", "Next field", show=False),
        Binding("up", "app.focus_previous", "Field before", show=False),
    ]

    def __init__(self, device: DeviceSnapshot) -> None:
        super().__init__()
        self.device = device
        self.options: RecompressOptions | None = None

    def compose(self) -> ComposeResult:
        """The fields, what they mean for this device, the command."""
        with Vertical(id="dialog"):
            yield Label(f"Recompress idle pages of {self.device.name}", id="heading")
            with Horizontal(classes="field"):
                yield Label("Idle for")
                yield Input(DEFAULT.idle, id="idle", compact=True)
                yield Static(id="idle-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("To")
                yield Choice(WAYS, value=DEFAULT.to, allow_blank=False, id="to", compact=True)
            with Horizontal(classes="field"):
                yield Label("Max CPU, %")
                yield Input(str(DEFAULT.max_cpu), id="percent", compact=True)
                yield Static(id="percent-note", classes="note")
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Start", id="start", variant="primary", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """Ready to type."""
        self.query_one("#idle").focus()
        self.check()

    @on(Input.Changed)
    @on(Select.Changed)
    def check(self) -> None:
        """Checks the fields, and shows what would be done."""
        idle = self._checked("idle", self._idle)
        percent = self._checked("percent", lambda text: (_percent(text), "of a core; a quarter while it is in use"))
        to = str(self.query_one("#to", Select).value)
        self.options = RecompressOptions(idle, to, percent) if idle is not None and percent is not None else None
        self.query_one("#start", Button).disabled = self.options is None
        root = self.device.transport != "local"
        command = f"$ {equivalent.recompress(self.device.name, self.options, root)}" if self.options else ""
        self.query_one("#command", Static).update(Text(command))

    def _checked(self, name: str, parse: Callable[[str], tuple[T, str]]) -> T | None:
        """What a field has; None when that is wrong, which its note says."""
        note = self.query_one(f"#{name}-note", Static)
        value: T | None = None
        try:
            value, text = parse(self.query_one(f"#{name}", Input).value.strip())
        except TruezramError as error:
            text = f"{capitalized(error.why or error.what)}. {error.remedy}".removesuffix(". ")
        note.update(Text(text))
        note.set_class(value is None, "bad")
        return value

    def _idle(self, text: str) -> tuple[str, str]:
        """As written, and which pages of this device that means."""
        found = self.device.idle_for(parse_duration(text, "idle time"))
        if not self.device.ages:
            return text, "its pages have not been counted by age yet"
        if found is None:
            longest = format_duration(self.device.ages[-1].least_ns / 1e9)
            raise UsageError("invalid idle time", f"ages above {longest} are not told apart")
        least = format_duration(found.least_ns / 1e9) if found.least_ns else "any time"
        return text, f"{least}: {format_count(found.pages)} pages in {short_size(found.bytes)}"

    @on(Button.Pressed, "#start")
    @on(Input.Submitted)
    def _start(self) -> None:
        if self.options is not None:
            self.dismiss(self.options)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Does nothing."""
        self.dismiss(None)
