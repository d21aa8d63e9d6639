"""Confirming what destroys: the focus is on Cancel, and a device in use needs its name typed."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Label, Static

from truezram.app import commandline
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.tick import Tick
from truezram.engine.model import DeviceSnapshot, MachineSnapshot
from truezram.engine.units import format_size


def consequences(device: DeviceSnapshot, machine: MachineSnapshot) -> tuple[list[str], str]:
    """What removing the device does, line by line, and why it will be refused ("" when it will not)."""
    lines = [
        f"Its data, {format_size(device.orig_data_size)} in {format_size(device.mem_used_total)} of memory,"
        " is gone for good."
    ]
    if device.swap_priority is not None:
        fits = device.swap_used <= machine.mem_available - device.swap_used // 16
        lines.append(f"It is swap: {format_size(device.swap_used)} are first read back into memory (swapoff).")
        lines.append(
            f"{format_size(machine.mem_available)} of memory are free" + (", enough." if fits else ", NOT enough.")
        )
        if not fits:
            return (
                lines,
                f"swapoff needs {format_size(device.swap_used)} and {format_size(machine.mem_available)} are free",
            )
    if device.mountpoints:
        mounts = ", ".join(device.mountpoints)
        lines.append(f"It is mounted on {mounts}.")
        return lines, f"it is mounted on {mounts}: unmount it first"
    return lines, ""


def in_use(device: DeviceSnapshot) -> bool:
    """Whether something depends on the device now."""
    return device.swap_priority is not None or bool(device.mountpoints)


class RemoveScreen(ModalScreen[bool | None]):
    """Returns True to remove with force, False to remove, None to leave it."""

    GUIDE: ClassVar[str] = (
        "Cancel has the focus. A device in use asks for its name. What would be refused is said before, and the box for"
        " force says what is lost when it is done all the same."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="remove.cancel"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]

    def __init__(self, device: DeviceSnapshot, machine: MachineSnapshot) -> None:
        super().__init__()
        self.device = device
        self.lines, self.refused = consequences(device, machine)

    def compose(self) -> ComposeResult:
        """What happens, the name, the buttons."""
        with Vertical(id="dialog"):
            yield Label(f"Remove {self.device.name}?", id="heading")
            yield Static(Text("\n".join(self.lines)), id="what")
            if self.refused:
                yield Static(Text(f"It will be refused: {self.refused}."), id="refused")
                yield Tick("force: do it; its users get I/O errors", id="force", compact=True)
            if in_use(self.device):
                yield Label(f"Type {self.device.name} to remove it:")
                yield Input(id="name", compact=True, placeholder=self.device.name)
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Remove", id="remove", variant="error", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """The harmless button has the focus."""
        self.query_one("#cancel").focus()
        self.check()

    @property
    def force(self) -> bool:
        """Whether the user ticked force."""
        return bool(self.refused) and self.query_one("#force", Checkbox).value

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def check(self) -> None:
        """Remove can be pressed when the name is right and it would not be refused."""
        named = not in_use(self.device) or self.query_one("#name", Input).value == self.device.name
        allowed = not self.refused or self.force
        self.query_one("#remove", Button).disabled = not (named and allowed)
        root = self.device.transport != "local"
        self.query_one("#command", Static).update(Text(f"$ {commandline.remove(self.device.name, self.force, root)}"))

    @on(Input.Submitted)
    def _submitted(self) -> None:
        button = self.query_one("#remove", Button)
        if not button.disabled:
            button.focus()  # one more key: a name typed and Enter alone removes nothing

    @on(Button.Pressed, "#remove")
    def _remove(self) -> None:
        self.dismiss(self.force)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Leaves it."""
        self.dismiss(None)
