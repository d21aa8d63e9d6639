"""The app's surface: its screens, keys and actions, on top of `Appearance` (appearance.py) and `Core` (core.py).

The app owns no device: quitting, or a hang-up, stops none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from truezram.app import keymap
from truezram.app.appearance import Appearance
from truezram.app.backend.protocol import Engine, Progress
from truezram.app.commands import commands
from truezram.app.format import capitalized, short_size
from truezram.app.picture import portable
from truezram.app.screens.page import KEYS, PAGES, Page, dialogs, owners
from truezram.app.view import ZOOMS

if TYPE_CHECKING:
    from truezram.engine.device.options import CreateOptions
    from truezram.engine.device.reset import Emptied
    from truezram.engine.model import DeviceSnapshot

T = TypeVar("T")
STOP_TIMEOUT = 60.0
"""Seconds that removing a device may take: swapoff reads everything back."""
RECOVER_TIMEOUT = 130.0
"""Seconds that a server may take to attach a device: it validates every page."""


class TruezramApp(Appearance):
    """See the module's text."""

    TITLE = "truezram"
    CSS_PATH = "app.tcss"
    DEFAULT_MODE = "dashboard"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {place.mode: place.make for place in PAGES}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "create", "Create", id="app.create"),
        Binding("d,delete", "remove", "Remove", id="app.remove"),
        Binding("D", "reset", "Reset", show=False, id="app.reset"),
        Binding("R", "recover", "Recover", id="app.recover"),
        Binding("U", "upgrade", "Upgrade its server", show=False, id="app.upgrade"),
        Binding("space", "pause", "Pause", id="app.pause"),
        Binding("plus,equals_sign", "zoom(-1)", "Zoom in", show=False, key_display="+", id="app.zoom_in"),
        Binding("minus", "zoom(1)", "Zoom out", show=False, key_display="-", id="app.zoom_out"),
        Binding("x", "cancel_job", "Cancel job", id="app.cancel_job"),
        *(
            Binding(KEYS[place.mode], f"go('{place.mode}')", place.name, show=False, id=f"app.go_{place.mode}")
            for place in PAGES
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
            bindings = keymap.bindings_of((type(self), *owners()))
            self._problems += keymap.problems(bindings, set(keymap.bindings_of(dialogs())), self.config.keys)

    @property
    def page(self) -> Page | None:
        """The current page, below any dialogs; None until the first one is mounted."""
        page = super().page
        return page if isinstance(page, Page) else None

    @property
    def _shown(self) -> type[Page]:
        """The class of the current page, even before it is mounted: what can be done on it."""
        return next((place.load() for place in PAGES if place.mode == self.current_mode), Page)

    # ---- devices

    def action_create(self) -> None:
        """Opens the create dialog and creates the device."""
        self.create_from(self.page.proposal() if self.page is not None else None)

    def create_from(self, proposal: CreateOptions | None) -> None:
        """Opens the create dialog with these values, or with defaults."""
        from truezram.app.screens.create import CreateScreen

        def made(name: str) -> None:
            self.selected = name
            self.report("info", "created", name)

        def answered(options: CreateOptions | None) -> None:
            if options is not None:
                self.work(
                    f"create {options.transport} device",
                    lambda progress: self.engine.create(options, progress),
                    done=made,
                    timeout=30,
                    quiet=True,
                )

        self.push_screen(CreateScreen(proposal), answered)

    def action_remove(self) -> None:
        """Asks, then removes the device under the cursor."""
        from truezram.app.screens.confirm import RemoveScreen

        series = self.history.devices.get(self.selected)
        latest = self.history.latest
        if series is None or series.latest is None or latest is None:
            return
        device = series.latest

        def answered(what: str | None) -> None:
            if what == "recover":
                self.action_recover()
            elif what is not None:
                self.work(
                    f"remove {device.name}",
                    lambda progress: self.engine.remove(device.name, what == "force", progress),
                    device=device.name,
                    timeout=RECOVER_TIMEOUT if device.waits else STOP_TIMEOUT,  # if in use, it is taken over first
                )

        self.push_screen(RemoveScreen(device, latest.machine, device.name in self.trouble), answered)

    def action_reset(self) -> None:
        """Asks, then empties the device under the cursor."""
        from truezram.app.screens.confirm import ResetScreen

        device, latest = self.ours(), self.history.latest
        if device is None or latest is None:
            return
        name = device.name

        def done(emptied: Emptied) -> None:
            data, memory = (
                " → ".join(map(short_size, figures)) for figures in (emptied.orig_data_size, emptied.mem_used_total)
            )
            self.report("info", f"reset: data {data}, memory {memory}", name)

        def failed(why: str) -> None:
            if why == "cancelled":
                self.report("warning", "it may be only partly empty; another reset does the rest", name)

        def answered(what: str | None) -> None:
            if what is not None:
                self.work(
                    f"reset {name}",
                    lambda progress: self.engine.reset(name, progress),
                    done=done,
                    failed=failed,
                    device=name,
                    timeout=STOP_TIMEOUT,
                    quiet=True,
                )

        self.push_screen(ResetScreen(device, latest.machine, name in self.trouble), answered)

    def action_recover(self) -> None:
        """Has another server take over the device under the cursor, whose server is dead."""
        if self.recoverable():
            self._take_over("recover", lambda done: "done" if done else "it has a server again", self.engine.recover)

    def action_upgrade(self) -> None:
        """Has the installed server take over the device under the cursor from the one that runs."""
        if self.upgradable():
            already = "it is served by the installed version already"
            self._take_over("upgrade", lambda done: done or already, self.engine.upgrade)

    def _take_over(self, verb: str, result: Callable[[T], str], call: Callable[[str, Progress], T]) -> None:
        """Another server takes over the device under the cursor."""
        name = self.selected

        def done(answer: T) -> None:
            self.report("info", f"{verb} {name}: {result(answer)}", name)

        def failed(why: str) -> None:
            if why == "cancelled":
                self.report("info", "the server that was started goes on", name)

        self.work(
            f"{verb} {name}",
            lambda progress: call(name, progress),
            done=done,
            failed=failed,
            device=name,
            timeout=RECOVER_TIMEOUT,
            quiet=True,
        )

    def ours(self) -> DeviceSnapshot | None:
        """The device under the cursor, if it is one of ours."""
        page = self.page
        if page is not None and not page.shows(self.selected):
            return None
        series = self.history.devices.get(self.selected)
        device = series.latest if series else None
        return device if device is not None and device.kind == "truezram" else None

    def recoverable(self) -> bool:
        """Whether the device under the cursor waits for a server, and none is about to come."""
        device = self.ours()
        return device is not None and device.state == "dead" and device.recoverable and not self._at_work(device.name)

    def upgradable(self) -> bool:
        """Whether another server can take over the device under the cursor from the one that runs."""
        device = self.ours()
        return device is not None and device.state == "live" and device.recoverable and not self._at_work(device.name)

    def _at_work(self, name: str) -> bool:
        return any(job.title in (f"recover {name}", f"upgrade {name}") for job in self.jobs.jobs)

    # ---- view

    def action_pause(self) -> None:
        """Pauses or resumes the graphs; figures are still collected."""
        self.view.paused = not self.view.paused
        self.redraw()

    def action_zoom(self, step: int) -> None:
        """More or fewer seconds per dot."""
        self.view.zoom = max(0, min(len(ZOOMS) - 1, self.view.zoom + step))
        self.redraw()

    def action_step(self, step: int) -> None:
        """Shows the next page, or the one before."""
        modes = [place.mode for place in PAGES]
        if self.current_mode in modes:
            self.action_go(modes[(modes.index(self.current_mode) + step) % len(modes)])

    def get_key_display(self, binding: Binding) -> str:
        """Names of keys begin with a capital: Esc, Enter, Space."""
        shown = super().get_key_display(binding)
        return capitalized(shown) if len(shown) > 1 else shown

    def action_jump(self) -> None:
        """Jump mode: a letter on each focusable widget."""
        from truezram.app.screens.jump import JumpScreen

        def answered(widget: Widget | None) -> None:
            if widget is not None and widget.is_attached:
                widget.focus()

        self.push_screen(JumpScreen(self.screen), answered)

    def action_export(self) -> None:
        """Opens the export dialog."""
        from truezram.app.screens.export_dialog import ExportScreen

        picture = portable(self.export_screenshot())
        page = self.page
        self.push_screen(ExportScreen(picture, page.table() if page else None))

    def action_chart(self) -> None:
        """A large static chart of the device under the cursor."""
        from truezram.app.screens.chart import ChartScreen

        series = self.history.devices.get(self.selected)
        if series is not None:
            self.push_screen(ChartScreen(self.selected, series))

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
        self.push_screen(HelpScreen(title, guide, list(seen.values()), shown, getattr(screen, "DEVICE_COLUMNS", False)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The footer shows only actions that are available."""
        if action == "cancel_job":
            return bool(self.jobs.jobs)
        if (
            action
            in (
                "create",
                "remove",
                "reset",
                "recover",
                "upgrade",
                "pause",
                "zoom",
                "go",
                "step",
                "chart",
                "export",
                "jump",
            )
            and self.in_dialog
        ):
            return False
        if action in ("remove", "reset"):
            return self._shown.REMOVES and self.ours() is not None
        if action == "recover":
            return self._shown.REMOVES and self.recoverable()
        if action == "upgrade":
            return self._shown.REMOVES and self.upgradable()
        if action == "create":
            return self._shown.CREATES
        if action == "pause":
            return self._shown.GRAPHS
        if action == "chart":
            return self.selected in self.history.devices
        if action == "zoom":
            step = parameters[0] if parameters else 0
            return self._shown.GRAPHS and 0 <= self.view.zoom + int(str(step)) < len(ZOOMS)
        if action == "go":
            return bool(parameters) and parameters[0] in self.MODES
        if action == "help":
            return type(self.asked_from).__name__ != "HelpScreen"
        return True

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action there is, for the palette."""
        yield from commands(self, screen)
