"""The reader: one thread that asks the engine for a snapshot at every interval and posts it to the app.

It never queues work: no snapshot is read until the app has taken the last one. If the engine hangs, only this thread
hangs with it: the app shows the age of the last snapshot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from truezram.app.backend.protocol import Engine
from truezram.engine.model import Snapshot

Deliver = Callable[[Snapshot | None, str], None]


class Reader:
    """Reads snapshots until stopped. `deliver` is called on the reader's thread with a snapshot, or None and the
    reason."""

    def __init__(self, engine: Engine, interval: float, deliver: Deliver) -> None:
        self.interval = interval
        self._engine = engine
        self._deliver = deliver
        self._stop = threading.Event()
        self._taken = threading.Event()
        self._taken.set()

    def start(self) -> None:
        """Starts reading."""
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def stop(self) -> None:
        """Stops after the current snapshot; does not wait for it."""
        self._stop.set()
        self._taken.set()

    def taken(self) -> None:
        """The app has drawn the last snapshot."""
        self._taken.set()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._taken.wait()
            self._taken.clear()
            try:
                snapshot, why = self._engine.snapshot(), ""
            except Exception as error:
                snapshot, why = None, f"{type(error).__name__}: {error}" if not str(error) else str(error)
            if self._stop.is_set():
                return
            self._deliver(snapshot, why)
            now = time.monotonic()
            # Steady times, so that samples are a second apart; after a delay, restart instead of catching up.
            due = due + self.interval if now < due + self.interval else now + self.interval
            self._stop.wait(max(due - now, 0.02))
