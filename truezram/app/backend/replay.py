"""A recording as an engine: plays the snapshots at the speed at which they were taken, and gives the recorded answers.

Calls without a recorded answer are refused with a message that this is a replay. Times are those of the recording, so
that rates and gaps are as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from truezram.app.backend.protocol import BenchResult, Capabilities, Estimate, Progress
from truezram.app.backend.recording import Recording, decode, map_key
from truezram.app.backend.upgrade import upgraded
from truezram.engine.answers import ArenaCheck, Change, Check, PageMap, Recompressed, Scope, Tunable, WrittenBack
from truezram.engine.device.options import CreateOptions, RecompressOptions, WritebackOptions
from truezram.engine.errors import Failed, Unsupported
from truezram.engine.model import Snapshot

if TYPE_CHECKING:
    from truezram.engine.device.events import Event
    from truezram.engine.device.reset import Emptied
    from truezram.engine.device.setup import Plan

T = TypeVar("T")


class Replay:
    """Plays a recording in real time (times `speed`) and stays on its last snapshot."""

    def __init__(self, recording: Recording, speed: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.recording = upgraded(recording)
        self._speed = speed
        self._clock = clock
        self._started: float | None = None
        self._place = 0

    def seek_start(self) -> float:
        """CLOCK_MONOTONIC of the first snapshot."""
        return self.recording.snapshots[0].machine.time

    @property
    def over(self) -> bool:
        """Whether the last snapshot has been played."""
        return self._place == len(self.recording.snapshots) - 1

    def snapshot(self) -> Snapshot:
        """The newest snapshot that is due."""
        if self._started is None:
            self._started = self._clock()
        now = self.seek_start() + (self._clock() - self._started) * self._speed
        snapshots = self.recording.snapshots
        while self._place + 1 < len(snapshots) and snapshots[self._place + 1].machine.time <= now:
            self._place += 1
        return snapshots[self._place]

    def capabilities(self) -> Capabilities:
        """As recorded, marked as a replay."""
        recorded = self.answer("capabilities", Capabilities)
        header = self.recording.header
        label = "; ".join(filter(None, (header.note or "a recording", header.converted)))
        text = f"replay of {label}" if header.origin == "recorded" else f"replay of SIMULATED figures ({label})"
        return replace(recorded or Capabilities(), replay=text)

    def missed(self, known: Sequence[Event]) -> tuple[Event, ...]:
        """Nothing: a replay is not of what happened here."""
        return ()

    def answer(self, call: str, kind: type[T], args: object = None) -> T | None:
        """The recorded answer to a call, the one for the same arguments if there are several; None when there is
        none."""
        found = [a for a in self.recording.answers if a.call == call]
        same = [a for a in found if args is None or a.args == args]
        return decode(kind, (same or found)[0].result) if same or (found and args is None) else None

    def answered(self, call: str, kind: type[T], args: object = None) -> T:
        """As `answer`; raises `Unsupported` when there is none."""
        found = self.answer(call, kind, args)
        if found is None:
            self.refuse(call)
        assert found is not None
        return found

    @staticmethod
    def refuse(what: str) -> None:
        """Raises `Unsupported`: a replay changes nothing."""
        raise Unsupported(f"{what} is not possible", "this is a replay", "Start truezram without --replay")

    def create(self, options: CreateOptions, progress: Progress) -> str:
        """Refused."""
        self.refuse("create")
        return ""

    def setup_plan(self, ratio: float | None) -> Plan:
        """Refused."""
        self.refuse("setup")
        raise AssertionError

    def set_up(self, plan: Plan, progress: Progress) -> tuple[str, ...]:
        """Refused."""
        self.refuse("setup")
        return ()

    def remove(self, name: str, force: bool, progress: Progress) -> None:
        """Refused."""
        self.refuse("remove")

    def reset(self, name: str, progress: Progress) -> Emptied:
        """Refused."""
        self.refuse("reset")
        raise AssertionError

    def recover(self, name: str, progress: Progress) -> bool:
        """Refused."""
        self.refuse("recover")
        return False

    def upgrade(self, name: str, progress: Progress) -> str:
        """Refused."""
        self.refuse("upgrade")
        return ""

    def page_map(self, name: str, first: int, pages: int, regions: int, by: str = "kind") -> PageMap:
        """The recorded regions that begin in these pages, merged so that there are at most `regions`; if none begins
        there, the one that contains them, since the recording has no finer ones."""
        found = self.answered("page_map", PageMap, map_key(name, by))
        count = len(found.regions)
        if not count or len({len(region) for region in found.regions}) > 1:
            raise Failed("cannot show the page map", "the one in this recording is damaged")
        starts = [found.first + found.pages * index // count for index in range(count)]
        inside = [index for index, start in enumerate(starts) if first <= start < first + pages]
        if not inside:
            inside = [max((index for index, start in enumerate(starts) if start <= first), default=0)]
        step = -(-len(inside) // max(regions, 1))
        groups = [inside[index : index + step] for index in range(0, len(inside), step)]
        together = (tuple(map(sum, zip(*(found.regions[i] for i in group), strict=True))) for group in groups)
        return PageMap(first=first, pages=pages, regions=tuple(together), by=by)

    def recompress(self, name: str, options: RecompressOptions, progress: Progress) -> Recompressed:
        """Refused."""
        self.refuse("recompress")
        raise AssertionError

    def write_back(self, name: str, options: WritebackOptions, progress: Progress) -> WrittenBack:
        """Refused."""
        self.refuse("write back")
        raise AssertionError

    def stop_recompress(self, name: str) -> bool:
        """Refused."""
        self.refuse("recompress")
        return False

    def compact(self, name: str, progress: Progress) -> int:
        """Refused."""
        self.refuse("compact")
        return 0

    def check_arena(self, name: str) -> ArenaCheck:
        """As recorded."""
        return self.answered("check_arena", ArenaCheck, {"name": name})

    def doctor(self) -> tuple[Check, ...]:
        """As recorded."""
        return self.answered("doctor", tuple[Check, ...])

    def tunables(self) -> tuple[Tunable, ...]:
        """As recorded."""
        return self.answered("tunables", tuple[Tunable, ...])

    def tune(self, device: str, key: str, value: str) -> None:
        """Refused."""
        self.refuse("tune")

    def journal(self) -> tuple[Change, ...]:
        """As recorded; empty when nothing was."""
        return self.answer("journal", tuple[Change, ...]) or ()

    def undo(self, change_id: int) -> None:
        """Refused."""
        self.refuse("undo")

    def estimate(self, scope: Scope, by: str, progress: Progress) -> Estimate:
        """As recorded."""
        return self.answered("estimate", Estimate)

    def benchmark(self, seconds: float, progress: Progress) -> BenchResult:
        """As recorded."""
        return self.answered("benchmark", BenchResult)

    def store_benchmark(self, size: int, rounds: int, progress: Progress) -> BenchResult:
        """As recorded."""
        return self.answered("store_benchmark", BenchResult)

    def device_benchmark(self, runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        """As recorded."""
        return self.answered("device_benchmark", BenchResult)

    def tiers_benchmark(self, rounds: int, progress: Progress) -> BenchResult:
        """As recorded."""
        return self.answered("tiers_benchmark", BenchResult)
