"""What the app's tests share: an app on a fake engine, a frozen clock, no blinking, no wall-clock timers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from truezram.app.app import TruezramApp
from truezram.app.backend.protocol import Capabilities
from truezram.app.backend.recording import Recording, decode, load
from truezram.app.config import Config
from truezram.app.widgets import cards
from truezram.engine.model import Snapshot

from .fake_engine import FakeEngine

NOW = 1_790_000_000.0
SMALL, WIDE, NARROW = (80, 24), (200, 60), (60, 20)


@pytest.fixture(autouse=True)
def _still(alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Input, "_toggle_cursor", lambda self: None)
    monkeypatch.setattr(TruezramApp, "NOTIFICATION_TIMEOUT", 3600)
    monkeypatch.setattr(cards, "PAUSE", 0)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


RECORDINGS = Path(__file__).parent / "recordings"


@cache
def recorded() -> Recording:
    """Three real local devices under load, with the real engine's answers (record.py)."""
    return load(RECORDINGS / "local.jsonl.gz")


@cache
def _eight() -> Recording:
    return load(RECORDINGS / "eight.jsonl.zst")


@cache
def eight(devices: int = 8, seconds: int = 120, gap: tuple[int, int] | None = (60, 70)) -> tuple[Snapshot, ...]:
    """What was recorded of eight real ublk devices (record.py), a snapshot a second: the first `devices` of them, the
    first `seconds`, without the seconds of `gap`."""
    taken = _eight().snapshots[:seconds]
    return tuple(
        replace(snapshot, devices=snapshot.devices[:devices])
        for second, snapshot in enumerate(taken)
        if not gap or not gap[0] <= second < gap[1]
    )


class Bench:
    """An app, its engine, and how to let time pass."""

    def __init__(self, tmp_path: Path, recording: Recording, **options: Any) -> None:
        capabilities: Capabilities | None = options.pop("capabilities", None)
        config = options.pop("config", None) or Config(theme="dark", glyphs="braille")
        environ = {
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "XDG_CONFIG_HOME": str(tmp_path),
            **options.pop("environ", {}),
        }
        self.engine = FakeEngine(recording, capabilities)
        self.app = TruezramApp(self.engine, config=config, environ=environ, read=False, clock=lambda: NOW, **options)
        self.app.capabilities = self.engine.capabilities()

    def play(self, count: int = 1) -> None:
        """Lets the app take in the next snapshots."""
        for _ in range(count):
            self.app.take(self.app.engine.snapshot())

    def before(self, count: int, *keys: str) -> Callable[[Pilot[Any]], Any]:
        """For snap_compare's run_before: plays `count` snapshots, then presses keys."""

        async def run(pilot: Pilot[Any]) -> None:
            await pilot.pause()
            self.play(count)
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
                await settle(pilot, lambda: not self.app.jobs.jobs)
            # A newly mounted card draws after its first layout.
            self.play(1)
            await settle(pilot, lambda: not self.app.jobs.jobs)

        return run


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a `Bench` of recorded ublk devices: ``bench(2, glyphs=...)``."""

    def make(devices: int = 2, seconds: int = 120, **options: Any) -> Bench:
        made = Recording(_eight().header, eight(devices, seconds), recorded().answers)
        return Bench(tmp_path, made, **options)

    return make


@pytest.fixture
def real(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a `Bench` of the recorded real devices."""

    def make(**options: Any) -> Bench:
        found = next(a.result for a in recorded().answers if a.call == "capabilities")
        # As if by root on a machine with ublk, so that everything is offered.
        options.setdefault("capabilities", replace(decode(Capabilities, found), ublk=True, root=True, persist_why=""))
        return Bench(tmp_path, recorded(), **options)

    return make


@cache
def cold() -> Recording:
    """A local device with idle pages of all ages, some compressed once more (record.py)."""
    return load(RECORDINGS / "tiers.jsonl.zst")


@pytest.fixture
def tiers(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a `Bench` of that one."""
    return lambda **options: Bench(tmp_path, cold(), **options)


async def settle(pilot: Pilot[Any], until: Callable[[], bool], seconds: float = 120.0) -> None:
    """Waits until something that happens on a worker has happened; fails when it hangs."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        await pilot.pause(0.01)
    await pilot.pause()


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("NO_COLOR", None)


def text_of(screen: object, selector: str) -> str:
    """What a Static shows."""
    widget = screen.query_one(selector, Static)  # type: ignore[attr-defined]
    return str(widget.render())
