"""Confirming what loses a device's data, removal or a reset: the focus is on Cancel, and what is refused says why. To
remove a device in use, its name must be typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Checkbox, Input, Label, Static

from truezram.app import equivalent
from truezram.app.screens.dialog import Dialog
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.tick import Tick
from truezram.engine.model import DeviceSnapshot, MachineSnapshot
from truezram.engine.units import format_size


@dataclass(frozen=True, slots=True)
class Consequences:
    """The consequences of removing or resetting a device."""

    lines: list[str]
    refused: str = ""
    """Why it will be refused; empty when it will not."""
    force: str = ""
    """What force means then."""


def _unused_without_server(device: DeviceSnapshot, held: str) -> Consequences:
    """Of one that another server can take over, and that nothing depends on. (One in use is taken over before it is
    removed.)"""
    if device.state == "dead" and not device.orig_data_size:
        return Consequences(["Its server is dead. It holds no data."])
    if device.state == "dead":
        return Consequences([f"Its server is dead. The {held} that it holds are not lost yet: recover it first."])
    lines = [f"Its server has died, and another one takes over: the {held} that it holds are not lost."]
    why = "wait until another server has taken over"
    return Consequences(lines, why, "force: remove it anyway; what it holds is lost")


def consequences(device: DeviceSnapshot, machine: MachineSnapshot, hangs: bool = False) -> Consequences:
    """The consequences of removing the device now. `hangs`: its server did not answer."""
    held, taken = format_size(device.orig_data_size), format_size(device.mem_used_total)
    if device.waits and not in_use(device):
        return _unused_without_server(device, held)
    if device.waits:
        lines = [f"Its server is dead, and another one takes over first: the {held} that it holds are not lost."]
    elif device.state == "dead":
        lines = [f"Its server is dead: the {held} that it held are already lost."]
    elif device.state == "unreadable":
        lines = ["Its data will be lost. Its size cannot be read."]
    elif not device.orig_data_size:
        lines = ["It holds no data."]
    elif device.swap_priority is not None:
        lines = [f"It holds {held} in {taken} of memory."]
    else:
        lines = [f"Its data, {held} in {taken} of memory, will be lost."]
    if device.state == "dead" and not device.waits and device.swap_priority is not None:
        return Consequences(lines, "it is still swap, which only a restart of the machine ends")
    if device.swap_priority is not None:
        fits = device.swap_used <= machine.mem_available - device.swap_used // 16
        lines.append(f"It is swap: {format_size(device.swap_used)} are first read back into memory (swapoff).")
        lines.append(
            f"{format_size(machine.mem_available)} of memory is free: " + ("enough." if fits else "NOT enough.")
        )
        if not fits:
            needed, free = format_size(device.swap_used), format_size(machine.mem_available)
            why = f"swapoff needs {needed} and {free} is free"
            return Consequences(lines, why, "force: swapoff anyway; the kernel may kill programs")
    if device.mountpoints:
        mounts = ", ".join(device.mountpoints)
        lines.append(f"It is mounted on {mounts}.")
        why = f"it is mounted on {mounts}: unmount it first"
        return Consequences(lines, why, "force: remove it anyway; its users get I/O errors")
    if hangs:
        lines.append("Its server did not answer recently; it may not exit when asked to.")
        return Consequences(lines, "", "force: kill the server if it does not exit")
    return Consequences(lines)


def emptied(device: DeviceSnapshot, machine: MachineSnapshot, hangs: bool = False) -> Consequences:
    """The consequences of resetting the device now. What else may have it open, the engine finds."""
    held, taken = format_size(device.orig_data_size), format_size(device.mem_used_total)
    below = f" and {format_size(device.backing_used)} on its backing file" if device.backing_used else ""
    lines = ["It holds no data."]
    if device.orig_data_size:
        lines = [f"Its data, {held} in {taken} of memory{below}, will be lost."]
    lines.append("It keeps its number and its settings, and its counters go on.")
    if hangs:
        lines.append("Its server did not answer recently.")
    if device.state == "unreadable":
        return Consequences(["Its data cannot be measured."], "its figures are implausible")
    if device.state == "dead" and device.waits:
        return Consequences(lines, "its server is dead: recover it first")
    if device.state != "live":
        return Consequences(lines, "wait until it has a server again" if device.waits else f"it is {device.state}")
    if device.swap_priority is not None:
        return Consequences(lines, f"it is swap: swapoff {device.path} first")
    if device.mountpoints:
        return Consequences(lines, f"it is mounted on {', '.join(device.mountpoints)}: unmount it first")
    return Consequences(lines)


def in_use(device: DeviceSnapshot) -> bool:
    """Whether something depends on the device now."""
    return device.swap_priority is not None or bool(device.mountpoints)


class _Question(Dialog[str | None]):
    """What the dialogs share: the device as it is now, and Cancel, which has the focus and returns None."""

    def __init__(self, device: DeviceSnapshot, machine: MachineSnapshot, hangs: bool = False) -> None:
        super().__init__()
        self.device = device
        self.now = self.judge(device, machine, hangs)

    def on_mount(self) -> None:
        """The focus is on Cancel."""
        self.query_one("#cancel").focus()
        self.check()
        self.set_interval(1.0, self._look_again)

    def _look_again(self) -> None:
        """Updates the dialog: memory is freed, devices are unmounted or come into use while it is open."""
        series, latest = self.tz.history.devices.get(self.device.name), self.tz.history.latest
        if series is not None and series.latest is not None and latest is not None:
            self.device = series.latest
            self.now = self.judge(self.device, latest.machine, self.device.name in self.tz.trouble)
            self.check()

    @staticmethod
    def judge(device: DeviceSnapshot, machine: MachineSnapshot, hangs: bool = False) -> Consequences:
        """The consequences of doing it now."""
        raise NotImplementedError

    def check(self) -> None:
        """Shows them."""
        raise NotImplementedError

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Closes the dialog."""
        self.dismiss(None)


class ResetScreen(_Question):
    """Returns "reset", or None to leave it."""

    GUIDE: ClassVar[str] = (
        "Cancel has the focus. All data on the device is lost; its number, its settings and its server stay. It is"
        " refused while something uses the device, for the reason shown. Cancelled while it is at work (x), it leaves a"
        " device on which some of the pages are still there."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="reset.cancel"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]
    judge = staticmethod(emptied)

    def compose(self) -> ComposeResult:
        """Consequences, buttons."""
        with Vertical(id="dialog"):
            yield Label(f"Reset {self.device.name}?", id="heading")
            yield Static(id="what")
            yield Static(id="refused")
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Reset", id="reset", variant="error", compact=True)
        yield Footer()

    def check(self) -> None:
        """Reset can be pressed when it would not be refused."""
        self.query_one("#what", Static).update(Text("\n".join(self.now.lines)))
        refused = self.query_one("#refused", Static)
        refused.display = bool(self.now.refused)
        refused.update(Text(f"Refused: {self.now.refused}."))
        self.query_one("#reset", Button).disabled = bool(self.now.refused)
        command = equivalent.reset(self.device.name, self.device.transport != "local")
        self.query_one("#command", Static).update(Text(f"$ {command}"))

    @on(Button.Pressed, "#reset")
    def _reset(self) -> None:
        self.dismiss("reset")


class RemoveScreen(_Question):
    """Returns "remove", "force" to remove with force, "recover" to do that instead, None to leave it."""

    GUIDE: ClassVar[str] = (
        "Cancel has the focus. To remove a device in use, type its name. If removal would be refused now, the reason"
        " is shown, and the force box, if force is possible, says what is lost if it is done anyway. A device whose"
        " server is dead may be one that can be recovered instead: nothing is lost then."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="remove.cancel"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]

    judge = staticmethod(consequences)

    def compose(self) -> ComposeResult:
        """Consequences, name, buttons. What does not apply now is hidden: it may apply a second later."""
        with Vertical(id="dialog"):
            yield Label(f"Remove {self.device.name}?", id="heading")
            yield Static(id="what")
            yield Static(id="refused")
            yield Tick(self.now.force, id="force", compact=True)
            yield Label(f"Type {self.device.name} to remove it:", id="ask")
            yield Input(id="name", compact=True)
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Recover", id="recover", variant="primary", compact=True)
                yield Button("Remove", id="remove", variant="error", compact=True)
        yield Footer()

    @property
    def force(self) -> bool:
        """Whether the user ticked force."""
        return bool(self.now.force) and self.query_one("#force", Checkbox).value

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def check(self) -> None:
        """Remove can be pressed when the name is right and it would not be refused."""
        now, used = self.now, in_use(self.device)
        self.query_one("#what", Static).update(Text("\n".join(now.lines)))
        refused = "Refused without force" if now.force else "Refused"
        self.query_one("#refused", Static).update(Text(f"{refused}: {now.refused}."))
        if now.force:
            self.query_one("#force", Checkbox).label = now.force
        asked, recover = used and (not now.refused or now.force), self.device.waits and self.device.state == "dead"
        for name, shown in (
            ("refused", now.refused),
            ("force", now.force),
            ("ask", asked),
            ("name", asked),
            ("recover", recover),
        ):
            self.query_one(f"#{name}").display = bool(shown)
        named = not used or self.query_one("#name", Input).value == self.device.name
        allowed = not now.refused or self.force
        self.query_one("#remove", Button).disabled = not (named and allowed)
        root = self.device.transport != "local"
        command = f"$ {equivalent.remove(self.device.name, self.force, root)}"
        if recover:
            command = f"Recover: $ {equivalent.recover(self.device.name)}\nRemove:  {command}"
        self.query_one("#command", Static).update(Text(command))

    @on(Input.Submitted)
    def _submitted(self) -> None:
        button = self.query_one("#remove", Button)
        if not button.disabled:
            button.focus()  # one more key: a name typed and Enter alone removes nothing

    @on(Button.Pressed, "#remove")
    def _remove(self) -> None:
        self.dismiss("force" if self.force else "remove")

    @on(Button.Pressed, "#recover")
    def _recover(self) -> None:
        self.dismiss("recover")
