"""Engine calls off the main thread: with timeout, cancellation and progress, and never blocking the app.

`Jobs.run` starts a call in its own daemon thread and awaits it. A pool would not work: a call that hangs keeps its
thread, and a few of those would block all other calls, and the interpreter at exit. When a call exceeds its
timeout it is cancelled (`Progress.cancel`), its thread is abandoned, and the caller gets `TimedOut`.

With the right to do so (root), the app's threads have a higher priority than the programs that it watches: it uses
little CPU, and must respond on a busy machine. Engine calls, and whatever they start, run at normal priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from truezram.app.backend.protocol import Cancelled, Progress
from truezram.engine.errors import Failed

T = TypeVar("T")
SHOW_AFTER = 0.5
"""Seconds after which a job shows its progress."""

FIRST = -10
"""The nice value of the app's threads and, where the kernel shares CPUs by session, of its session, instead of 0."""
SESSION = Path("/proc/self/autogroup")


def _session(before: int, after: int) -> bool:
    """Changes the session's nice value, if it is `before`. False when it was not, or cannot be changed."""
    try:
        if not SESSION.read_text().endswith(f" nice {before}\n"):
            return False
        SESSION.write_text(str(after))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def coming_first() -> Iterator[None]:
    """Raises the priority of the calling thread and those it starts, if permitted and if no nice value was set."""
    with contextlib.suppress(PermissionError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    changed = os.getpriority(os.PRIO_PROCESS, 0) == FIRST and _session(0, FIRST)
    try:
        yield
    finally:
        if changed:
            _session(FIRST, 0)  # the session is the terminal's and outlives the app
        _queue_up()


def _queue_up() -> None:
    # 0 means the calling thread to Linux.
    if os.getpriority(os.PRIO_PROCESS, 0) == FIRST:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


class TimedOut(Failed):
    """The engine did not answer in time."""


@dataclass
class Job:
    """A call in progress."""

    title: str
    device: str = ""
    timeout: float = 10.0
    started: float = 0.0
    fraction: float | None = None
    text: str = ""
    reported: float = 0.0
    progress: Progress = field(default_factory=Progress)
    future: asyncio.Future[Any] | None = None

    def cancel(self) -> None:
        """Cancels immediately; the thread ends at its next progress report."""
        self.progress.cancel()
        if self.future and not self.future.done():
            self.future.set_exception(Cancelled())


class Jobs:
    """The calls in progress. Lives on the app's event loop; only `_thread` runs elsewhere."""

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._clock = clock
        self.jobs: list[Job] = []

    def visible(self) -> list[Job]:
        """Jobs that have run long enough to be shown, oldest first."""
        now = self._clock()
        return [job for job in self.jobs if now - job.started >= SHOW_AFTER]

    async def run(
        self,
        call: Callable[[Progress], T],
        title: str,
        *,
        device: str = "",
        timeout: float = 10.0,
        partial: Callable[[object], None] | None = None,
    ) -> T:
        """Runs ``call(progress)`` in a thread. Raises what it raises, `Cancelled`, or `TimedOut`.

        `timeout` counts from the last report of progress: a long job that moves is not a job that hangs.
        """
        loop = asyncio.get_running_loop()
        job = Job(title, device, timeout, started=self._clock(), reported=self._clock())
        future: asyncio.Future[T] = loop.create_future()
        job.future = future

        def report(fraction: float | None, text: str, part: object) -> None:
            loop.call_soon_threadsafe(self._reported, job, fraction, text, part, partial)

        job.progress = Progress(report)
        threading.Thread(target=_thread, args=(call, job.progress, future, loop), name=title, daemon=True).start()
        self.jobs.append(job)
        self._changed()
        try:
            while True:
                left = job.reported + job.timeout - self._clock()
                done, _ = await asyncio.wait({future}, timeout=max(left, 0.01))
                if done:
                    return future.result()
                if self._clock() - job.reported >= job.timeout:
                    raise TimedOut(title, f"no answer in {job.timeout:.0f} s", "It may still complete; watch the table")
        finally:
            job.progress.cancel()
            future.cancel()
            self.jobs.remove(job)
            self._changed()

    def _reported(
        self, job: Job, fraction: float | None, text: str, part: object, partial: Callable[[object], None] | None
    ) -> None:
        job.fraction, job.text, job.reported = fraction, text, self._clock()
        if part is not None and partial and not job.progress.cancelled:
            partial(part)
        self._changed()

    def cancel_last(self) -> bool:
        """Cancels the newest job; False when there is none."""
        if not self.jobs:
            return False
        self.jobs[-1].cancel()
        return True


def _thread(
    call: Callable[[Progress], T], progress: Progress, future: asyncio.Future[T], loop: asyncio.AbstractEventLoop
) -> None:
    result: T | None = None
    failure: BaseException | None = None
    _queue_up()
    try:
        result = call(progress)
    except Exception as error:
        failure = error

    def settle() -> None:
        if future.done():
            return  # cancelled or timed out meanwhile
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    with contextlib.suppress(RuntimeError):  # the app has ended; the answer is not needed
        loop.call_soon_threadsafe(settle)
