"""The app below its surface: holds the engine, takes in its snapshots, calls it, and knows what is wrong.

A reader thread posts frozen snapshots (backend/reader.py); `take` puts them into the history and the event log and
lets the current page draw what changed. All other engine calls go through `Jobs` (backend/jobs.py), each on its own
thread with a timeout. `Appearance` (appearance.py) adds themes to this, `TruezramApp` (app.py) screens, keys and
actions.
"""

from __future__ import annotations

import gc
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from textual.app import App
from textual.screen import Screen

from truezram.app import config as configuration
from truezram.app import glyphs
from truezram.app.backend.jobs import Jobs, TimedOut
from truezram.app.backend.messages import SnapshotArrived
from truezram.app.backend.protocol import Cancelled, Capabilities, Engine, Estimate, Progress
from truezram.app.backend.reader import Reader
from truezram.app.backend.recorded import Recorded
from truezram.app.backend.recording import Recorder
from truezram.app.columns import Row
from truezram.app.config import Config
from truezram.app.series import History
from truezram.app.view import View
from truezram.engine.device.event_log import EventLog
from truezram.engine.device.events import Detector, Event
from truezram.engine.device.sanity import sane
from truezram.engine.errors import TruezramError
from truezram.engine.model import DeviceSnapshot, Snapshot

T = TypeVar("T")
STALE = 3.0
"""Seconds beyond the refresh interval after which figures are called old."""


def _is_palette(screen: Screen[Any]) -> bool:
    # By its name: importing it takes time that a start without it need not spend.
    return type(screen).__name__ == "CommandPalette"


class LivePage(Screen[None]):
    """A screen that the core keeps up to date while it is shown; `screens.page.Page` implements it."""

    @property
    def tz(self) -> Core:
        """The app."""
        return cast(Core, self.app)

    def tick(self, sampled: bool) -> None:
        """New figures; `sampled` when graphs have something new to draw."""

    def update_chrome(self) -> None:
        """Redraws what surrounds the page's own widgets."""

    def update_jobs(self) -> None:
        """Redraws the jobs in progress."""


class Core(App[int]):
    """See the module's text."""

    def __init__(
        self,
        engine: Engine,
        *,
        config: Config | None = None,
        environ: Mapping[str, str] = os.environ,
        problems: Iterable[str] = (),
        read: bool = True,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.time,
        state: Path | None = None,
        config_path: Path | None = None,
        device: str = "",
    ) -> None:
        """`read`: start the reader (tests call `take` themselves). `state`: folder for the event log, None for none.
        `problems`: with the settings, shown once. `clock` gives CLOCK_REALTIME. `device`: its page is shown first."""
        self.environ = environ
        if device:
            self.DEFAULT_MODE = "device"  # type: ignore[misc]
        super().__init__()
        self.engine: Engine = Recorded(engine, recorder) if recorder else engine
        self.config = config or Config()
        self.config_path = config_path
        self.clock = clock
        self.history = History()
        self.log_path = state / "events.jsonl" if state else None
        self.events = EventLog(self.log_path)
        self.detector = Detector()
        self.view = View(glyphs.choose(self.config.glyphs, environ), pages=self.config.units == "pages")
        self.jobs = Jobs(self._jobs_changed)
        self.capabilities = Capabilities(ublk=False, root=False)
        self.selected = device
        self.measured: Estimate | None = None
        """What the memory of this machine's processes compresses to, once it has been measured."""
        self.measuring = False
        self.trouble: dict[str, str] = {}
        """Device → a problem that its snapshots do not show."""
        self._problems = list(problems)
        self._read = read
        self._reader: Reader | None = None
        self._arrived: float | None = None
        self._why = ""
        self._states: dict[str, str] = {}

    # ---- start and end

    @property
    def interval(self) -> float:
        """Seconds between refreshes."""
        return configuration.refresh_interval(self.config, self.environ)

    def on_mount(self) -> None:
        """Reports problems with the settings, then starts the reader."""
        for problem in self._problems:
            self.report("warning", problem)
        if self._read:
            self._reader = Reader(self.engine, self.interval, self._deliver)
            self._reader.start()
            self.set_interval(1.0, self._look_around)
            self.refresh_capabilities()
            self.look_back()

    def _deliver(self, snapshot: Snapshot | None, why: str) -> None:
        self.post_message(SnapshotArrived(snapshot, why))

    def on_unmount(self) -> None:
        """Stops the reader; devices keep running."""
        if self._reader:
            self._reader.stop()
        self.events.close()
        if isinstance(self.engine, Recorded):
            self.engine.close()

    def refresh_capabilities(self) -> None:
        """Asks the engine what can be done on this machine."""

        def known(capabilities: Capabilities) -> None:
            self.capabilities = capabilities
            self._chrome()

        self.work("look at the machine", lambda _: self.engine.capabilities(), done=known, quiet=True)

    def look_back(self) -> None:
        """Adds to the events what happened while nobody watched."""
        known = tuple(self.events.events)
        self.work(
            "look at the servers' logs", lambda _: self.engine.missed(known), done=self.events.look_back, quiet=True
        )

    # ---- snapshots

    def on_snapshot_arrived(self, message: SnapshotArrived) -> None:
        """Takes what the reader delivered; not while the app ends, when pages have lost their widgets."""
        try:
            if not self.is_running:
                return
            if message.snapshot is None:
                if message.why != self._why:
                    self.report("error", f"no figures: {message.why}")
                self._why = message.why
            else:
                self.take(message.snapshot)
        finally:
            if self._reader:
                self._reader.taken()

    def take(self, snapshot: Snapshot) -> None:
        """Takes one snapshot: history, events, and the current page."""
        if self._why:
            self.report("info", "figures again")
        self._why = ""
        self._arrived = time.monotonic()
        if isinstance(self.engine, Recorded) and self.engine.problem:
            self.report("error", f"the recording ends here: {self.engine.problem}")
            self.engine.problem = ""
        known = {name: series.latest for name, series in self.history.devices.items() if series.latest is not None}
        snapshot = sane(snapshot, known)
        sampled = self.history.add(snapshot, self.interval)
        for event in self.detector.feed(snapshot, self.clock()):
            self.log_event(event, found=True)
        answers = self.history.devices.keys() - self.detector.waiting.keys()
        self.trouble = {name: why for name, why in self.trouble.items() if name in answers}
        if self.selected not in self.history.devices:
            self.selected = snapshot.devices[0].name if snapshot.devices else ""
        page = self.page
        if page is not None:
            page.tick(sampled)
            if page is self.screen:
                page.update_chrome()
            states = {device.name: device.state for device in snapshot.devices}
            if states != self._states:
                self._states = states
                self.screen.refresh_bindings()

    @property
    def page(self) -> LivePage | None:
        """The current page, below any dialogs; None until the first one is mounted."""
        stack = self._screen_stacks.get(self.current_mode, [])
        first = stack[0] if stack else None
        return first if isinstance(first, LivePage) and first.is_mounted else None

    @property
    def in_dialog(self) -> bool:
        """Whether a dialog is open."""
        return not isinstance(self.asked_from, LivePage)

    @property
    def asked_from(self) -> Screen[Any]:
        """The screen in use: below the command palette, which offers what can be done on it."""
        stack = self.screen_stack
        return next((screen for screen in reversed(stack) if not _is_palette(screen)), stack[-1])

    def action_go(self, mode: str) -> None:
        """Shows another page."""
        if mode in self.MODES and mode != self.current_mode and not self.in_dialog:
            self.switch_mode(mode)

    def rows(self) -> list[Row]:
        """The table's rows."""
        latest = self.history.latest
        if latest is None:
            return []
        known, trouble, pages = self.history.devices, self.trouble, self.view.pages
        return [Row(d, known.get(d.name), trouble.get(d.name, ""), pages, self.waited(d)) for d in latest.devices]

    def waited(self, device: DeviceSnapshot) -> float | None:
        """Seconds since it was first seen to wait for a server; None: it has one, or waits for none."""
        wait = self.detector.waiting.get(device.name)
        return None if wait is None else device.time - wait.since

    @property
    def memory(self) -> int:
        """The machine's memory in bytes; 0 before the first snapshot."""
        return self.history.latest.machine.mem_total if self.history.latest else 0

    # ---- what surrounds the pages

    def right_text(self) -> str:
        """The right end of the top bar."""
        latest = self.history.latest
        return f"Linux {latest.machine.kernel}" if latest and latest.machine.kernel else "truezram"

    def notice(self) -> list[tuple[str, str]]:
        """The line at the top with what the user must know; empty when there is nothing."""
        age = time.monotonic() - self._arrived if self._arrived is not None and self._read else 0.0
        if self._why:
            return [("no figures: ", "line--bad"), (self._why, "")]
        if age > self.interval + STALE:
            return [("the engine does not answer: ", "line--bad"), (f"these figures are {age:.0f} s old", "")]
        can = self.capabilities
        if can.replay:
            return [("replay: ", "line--warn"), (can.replay.removeprefix("replay of "), "")]
        if self._arrived is None:
            return [("reading…", "line--muted")]
        if not can.ublk:
            why = can.ublk_why or "the kernel has none"
            return [
                ("no ublk: ", "line--warn"),
                (f"{why}. ", ""),
                (f"c makes {'a disk, by nbd' if can.nbd else 'a local device, inside a process'}", "line--muted"),
            ]
        if not can.root:
            return [
                ("not root: ", "line--warn"),
                ("c makes a local device, inside a process; sudo truezram makes real ones", ""),
            ]
        return []

    def _look_around(self) -> None:
        """Every second: checks the terminal, the age of the figures, and long jobs."""
        if _hung_up():
            self.exit(0)
            return
        self._chrome()

    def settled(self) -> None:
        """A page has created its widgets, and they stay. Frozen, they are not scanned by the garbage collector, which
        would delay keys by 0.1 s each time."""
        gc.freeze()

    def _chrome(self) -> None:
        page = self.page
        if page is not None:
            page.update_chrome()

    def _jobs_changed(self) -> None:
        page = self.page
        if page is not None:
            page.update_jobs()
            self.screen.refresh_bindings()

    def log_event(self, event: Event, found: bool = False) -> None:
        """Keeps an event and shows it if it is worth that. `found`: everybody who watches finds it, and one writes
        it."""
        (self.events.found if found else self.events.add)(event)
        if event.level != "info" and self.is_running:
            title = event.device or "truezram"
            self.notify(
                event.text, title=title, severity="error" if event.level == "error" else "warning", markup=False
            )

    def report(self, level: str, text: str, device: str = "") -> None:
        """Shows a message to the user and logs it; "info" is only logged."""
        self.log_event(Event(self.clock(), level, text, device))

    # ---- settings

    def change_config(self, **changes: Any) -> None:
        """Changes settings, applies them, and saves them."""
        self.config = replace(self.config, **changes)
        self.view.glyphs = glyphs.choose(self.config.glyphs, self.environ)
        self.view.pages = self.config.units == "pages"
        if "keys" in changes:
            self.set_keymap(dict(self.config.keys))
        if self._reader:
            self._reader.interval = self.interval
        if self.config_path is not None:
            try:
                configuration.save(self.config_path, self.config)
            except OSError as error:
                self.report("warning", f"settings not saved: {self.config_path}: {error.strerror}")
        self.redraw()
        self.refresh(repaint=True)
        self.screen.refresh(layout=True)

    def redraw(self) -> None:
        """Redraws the current page, because the way it is viewed has changed."""
        page = self.page
        if page is not None:
            page.tick(True)
        self.screen.refresh_bindings()

    # ---- engine calls

    def work(
        self,
        title: str,
        call: Callable[[Progress], T],
        *,
        done: Callable[[T], None] | None = None,
        failed: Callable[[str], None] | None = None,
        device: str = "",
        timeout: float = 10.0,
        partial: Callable[[object], None] | None = None,
        quiet: bool = False,
        optional: bool = False,
    ) -> None:
        """Runs an engine call in the background. Errors go to the log, to a notification, and to `failed`; a device
        that does not answer is marked on its row. With `quiet`, success is not logged; with `optional`, errors are
        only logged."""

        async def run() -> None:
            try:
                result = await self.jobs.run(call, title, device=device, timeout=timeout, partial=partial)
            except Cancelled:
                self.report("info", f"{title}: cancelled", device)
                if failed:
                    failed("cancelled")
                return
            except Exception as error:
                # Whatever the engine raises is reported; the app continues.
                known = isinstance(error, TruezramError)
                why = str(error) if known else f"{title}: {type(error).__name__}: {error}"
                if device and isinstance(error, TimedOut):
                    self.trouble[device] = why
                self.report("info" if optional else "error", why, device)
                if failed:
                    failed(why)
                return
            if device:
                self.trouble.pop(device, None)
            if not quiet:
                self.report("info", f"{title}: done", device)
            if done:
                done(result)

        self.run_worker(run(), exit_on_error=False, group=title)

    def action_cancel_job(self) -> None:
        """Cancels the newest job."""
        self.jobs.cancel_last()


def _hung_up() -> bool:
    """Whether the other end of the terminal (or of the browser's pipe) is closed. If that is not the controlling
    terminal (setsid, a container whose client died), there is no SIGHUP, and Textual would read end-of-file forever."""
    poll = select.poll()
    poll.register(0, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
