"""An engine whose answers are recorded, so that a replay can give them again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from truezram.app.backend.protocol import BenchResult, Capabilities, Engine, Estimate, Progress
from truezram.app.backend.recording import Recorder, map_key
from truezram.engine.answers import ArenaCheck, Change, Check, PageMap, Recompressed, Scope, Tunable, WrittenBack
from truezram.engine.device.options import CreateOptions, RecompressOptions, WritebackOptions
from truezram.engine.errors import TruezramError
from truezram.engine.model import Snapshot

if TYPE_CHECKING:
    from truezram.engine.device.events import Event
    from truezram.engine.device.reset import Emptied
    from truezram.engine.device.setup import Plan

T = TypeVar("T")


class Recorded:
    """See `protocol.Engine`; all calls are forwarded. If the recording cannot be written it ends; the app continues."""

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine = engine
        self._recorder: Recorder | None = recorder
        self._lock = threading.Lock()
        self.problem = ""
        """Why the recording ended; empty while recording."""

    def _keep(self, call: str, args: object, result: T) -> T:
        with self._lock:
            if self._recorder is not None:
                try:
                    self._recorder.answer(call, args, result)
                except TruezramError as error:
                    self._recorder, self.problem = None, str(error)
        return result

    def close(self) -> None:
        """Ends the recording."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

    def snapshot(self) -> Snapshot:
        """Recorded."""
        snapshot = self._engine.snapshot()
        with self._lock:
            if self._recorder is not None:
                try:
                    self._recorder.snapshot(snapshot)
                except TruezramError as error:
                    self._recorder, self.problem = None, str(error)
        return snapshot

    def capabilities(self) -> Capabilities:
        """Recorded."""
        return self._keep("capabilities", None, self._engine.capabilities())

    def missed(self, known: Sequence[Event]) -> tuple[Event, ...]:
        """Forwarded."""
        return self._engine.missed(known)

    def create(self, options: CreateOptions, progress: Progress) -> str:
        """Forwarded."""
        return self._engine.create(options, progress)

    def setup_plan(self, ratio: float | None) -> Plan:
        """Forwarded."""
        return self._engine.setup_plan(ratio)

    def set_up(self, plan: Plan, progress: Progress) -> tuple[str, ...]:
        """Forwarded."""
        return self._engine.set_up(plan, progress)

    def remove(self, name: str, force: bool, progress: Progress) -> None:
        """Forwarded."""
        self._engine.remove(name, force, progress)

    def reset(self, name: str, progress: Progress) -> Emptied:
        """Forwarded."""
        return self._engine.reset(name, progress)

    def recover(self, name: str, progress: Progress) -> bool:
        """Forwarded."""
        return self._engine.recover(name, progress)

    def upgrade(self, name: str, progress: Progress) -> str:
        """Forwarded."""
        return self._engine.upgrade(name, progress)

    def page_map(self, name: str, first: int, pages: int, regions: int, by: str = "kind") -> PageMap:
        """Recorded."""
        found = self._engine.page_map(name, first, pages, regions, by)
        return self._keep("page_map", map_key(name, by), found)

    def recompress(self, name: str, options: RecompressOptions, progress: Progress) -> Recompressed:
        """Forwarded."""
        return self._engine.recompress(name, options, progress)

    def write_back(self, name: str, options: WritebackOptions, progress: Progress) -> WrittenBack:
        """Forwarded."""
        return self._engine.write_back(name, options, progress)

    def stop_recompress(self, name: str) -> bool:
        """Forwarded."""
        return self._engine.stop_recompress(name)

    def compact(self, name: str, progress: Progress) -> int:
        """Forwarded."""
        return self._engine.compact(name, progress)

    def check_arena(self, name: str) -> ArenaCheck:
        """Recorded."""
        return self._keep("check_arena", {"name": name}, self._engine.check_arena(name))

    def doctor(self) -> tuple[Check, ...]:
        """Recorded."""
        return self._keep("doctor", None, self._engine.doctor())

    def tunables(self) -> tuple[Tunable, ...]:
        """Recorded."""
        return self._keep("tunables", None, self._engine.tunables())

    def tune(self, device: str, key: str, value: str) -> None:
        """Forwarded."""
        self._engine.tune(device, key, value)

    def journal(self) -> tuple[Change, ...]:
        """Recorded."""
        return self._keep("journal", None, self._engine.journal())

    def undo(self, change_id: int) -> None:
        """Forwarded."""
        self._engine.undo(change_id)

    def estimate(self, scope: Scope, by: str, progress: Progress) -> Estimate:
        """Recorded."""
        return self._keep("estimate", None, self._engine.estimate(scope, by, progress))

    def benchmark(self, seconds: float, progress: Progress) -> BenchResult:
        """Recorded."""
        return self._keep("benchmark", None, self._engine.benchmark(seconds, progress))

    def store_benchmark(self, size: int, rounds: int, progress: Progress) -> BenchResult:
        """Recorded."""
        return self._keep("store_benchmark", None, self._engine.store_benchmark(size, rounds, progress))

    def device_benchmark(self, runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        """Recorded."""
        return self._keep("device_benchmark", None, self._engine.device_benchmark(runtime, rounds, modes, progress))

    def tiers_benchmark(self, rounds: int, progress: Progress) -> BenchResult:
        """Recorded."""
        return self._keep("tiers_benchmark", None, self._engine.tiers_benchmark(rounds, progress))
