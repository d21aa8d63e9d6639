"""Makes the pictures of this folder from the real app, playing recordings: ``python screenshots/make.py [FOLDER]``.

What is shown are recordings of real devices (tests/app/recordings). It needs truezram installed. Run it after a change
to how anything looks, and look at the result.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["TZ"] = "UTC"
time.tzset()

from app.fake_engine import FakeEngine  # noqa: E402

from truezram.app.app import TruezramApp  # noqa: E402
from truezram.app.backend.protocol import Capabilities  # noqa: E402
from truezram.app.backend.recording import decode, load  # noqa: E402
from truezram.app.backend.replay import Replay  # noqa: E402
from truezram.app.config import Config  # noqa: E402
from truezram.app.picture import portable  # noqa: E402
from truezram.app.widgets import cards  # noqa: E402
from truezram.engine.answers import Change, Tunable  # noqa: E402

cards.PAUSE = 0  # a picture is of one moment
RECORDINGS = ROOT / "tests" / "app" / "recordings"
SMALL, WIDE = (80, 24), (200, 60)
SHOTS: tuple[tuple[str, tuple[int, int], str, str, tuple[str, ...]], ...] = (
    ("dashboard", SMALL, "dark", "local", ()),
    ("wide", WIDE, "dark", "local", ()),
    ("many", WIDE, "dark", "eight", ()),
    ("device", (100, 32), "dark", "local", ("2",)),
    ("idle", (100, 32), "dark", "tiers", ("2", "a")),
    ("create", SMALL, "dark", "local", ("c",)),
    ("whatif", SMALL, "dark", "local", ("3", "r")),
    ("benchmark", (100, 32), "dark", "local", ("5", "r")),
    ("tune", SMALL, "dark", "swap", ("4", "down", "down")),
    ("doctor", SMALL, "dark", "local", ("6",)),
    ("light", SMALL, "light", "local", ()),
    ("high-contrast", SMALL, "high-contrast", "local", ()),
    ("colour-blind", SMALL, "colour-blind", "local", ()),
    ("no-colour", SMALL, "no-colour", "local", ()),
)


class Played(FakeEngine):
    """Settings and their journal, too, are those of the machine that was recorded."""

    def tunables(self) -> tuple[Tunable, ...]:
        """As recorded."""
        return Replay.tunables(self)

    def journal(self) -> tuple[Change, ...]:
        """As recorded."""
        return Replay.journal(self)


async def shot(folder: Path, name: str, size: tuple[int, int], theme: str, played: str, keys: tuple[str, ...]) -> None:
    """One picture; `played` is the recording."""
    recording = load(next(RECORDINGS.glob(f"{played}.jsonl.*")))
    found = next(a.result for a in recording.answers if a.call == "capabilities")
    capabilities = replace(decode(Capabilities, found), ublk=True, root=True, persist_why="")
    engine = Played(recording, capabilities)
    environ = {"LANG": "C.UTF-8", "TERM": "xterm-256color", "XDG_CONFIG_HOME": "/nonexistent"}
    app = TruezramApp(engine, config=Config(theme=theme), environ=environ, read=False, clock=lambda: 1_790_000_000.0)
    app.capabilities = capabilities
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        for _ in range(min(len(recording.snapshots), 99)):
            app.take(engine.snapshot())
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await done(app, pilot)
        app.take(engine.snapshot())
        await done(app, pilot)
        (folder / f"{name}.svg").write_text(portable(app.export_screenshot(title="truezram")))


async def done(app: TruezramApp, pilot: Any) -> None:
    """Waits for the engine's answers."""
    await pilot.pause()
    while app.jobs.jobs:
        await pilot.pause(0.01)
    await pilot.pause()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "screenshots"
    for entry in SHOTS:
        asyncio.run(shot(target, *entry))
        print(target / f"{entry[0]}.svg")
