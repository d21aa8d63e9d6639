"""The log of events: one JSON object a line in ``events.jsonl`` in the user's state folder, so that last night's
problem can be looked up in the morning.

Everybody who watches devices finds the same events. So one of them writes what is found, the recorder: who holds the
lock on ``events.lock``, which goes on to another one when that process ends, however it ends. What only one knows (a
user's action in the app) it writes itself. A line is appended with one write, and a log that has grown too long is
replaced as a whole: whatever is interrupted, no line is half there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from truezram.engine.device.events import Event

NAME = "events.jsonl"
KEEP = 1000
MAX_FILE = 1 << 20


def parse(line: str) -> Event | None:
    """The event in a line; None for anything else, such as a line that was cut short by a crash."""
    try:
        event = Event(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = isinstance(event.level, str) and isinstance(event.text, str) and isinstance(event.device, str)
    return event if texts and isinstance(event.time, int | float) and not isinstance(event.time, bool) else None


def _line(event: Event) -> str:
    return json.dumps(asdict(event)) + "\n"


class EventLog:
    """The newest `KEEP` events, and the file that they are appended to (None: memory only)."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: deque[Event] = deque(maxlen=KEEP)
        self.path = path
        self.problem = ""
        """Why the file could not be written; empty when it could."""
        self._lock = -1
        if path is not None:
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-KEEP:]
            except OSError:
                return  # none yet; a real problem is reported when the first event is written
            self.events.extend(event for event in map(parse, lines) if event is not None)

    def close(self) -> None:
        """Lets another one be the recorder."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    @property
    def is_recorder(self) -> bool:
        """Whether this process writes what is found. It becomes so if nobody else is."""
        if self.path is None or self._lock >= 0:
            return True
        lock = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path.with_suffix(".lock"), flags, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            if not isinstance(error, BlockingIOError):
                self.problem = f"{self.path}: {error.strerror}"
            return False
        self._lock = lock
        return True

    def look_back(self, events: Iterable[Event]) -> None:
        """Keeps older events that are written down elsewhere (server_log.py) among the others."""
        together = sorted((*self.events, *events), key=lambda event: event.time)
        self.events.clear()
        self.events.extend(together)

    def found(self, event: Event) -> None:
        """Keeps an event that everybody who watches finds; the recorder writes it."""
        if self.is_recorder:
            self.add(event)
        else:
            self.events.append(event)

    def add(self, event: Event) -> None:
        """Keeps an event and writes it. A file that exceeds 1 MiB is replaced by one with the newest half of what is
        kept."""
        self.events.append(event)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > MAX_FILE:
                self._replace(list(self.events)[-KEEP // 2 :])
            else:
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    # A line that was cut short (by a full disk, say) must not swallow this one.
                    size = os.fstat(file).st_size
                    cut = size and os.pread(file, 1, size - 1) != b"\n"
                    os.write(file, b"\n" * bool(cut) + _line(event).encode())
                finally:
                    os.close(file)
            self.problem = ""
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"

    def _replace(self, events: list[Event]) -> None:
        assert self.path is not None
        new = self.path.with_suffix(f".new{os.getpid()}")
        try:
            new.write_text("".join(map(_line, events)), encoding="utf-8")
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)


class Tail:
    """What is appended to a log from now on, whoever appends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = ""
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        for _ in self.new():  # everything that is there
            pass

    def new(self) -> Iterator[Event]:
        """The events since the last time. A log that was replaced meanwhile is gone on with behind the last line that
        was seen, if it still has that."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                replaced = self._identity not in (None, (found.st_dev, found.st_ino)) or found.st_size < self._offset
                self._identity = (found.st_dev, found.st_ino)
                file.seek(0 if replaced else self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", "replace").splitlines()
        self._offset = (0 if replaced else self._offset) + len(whole)
        if replaced and self._last in lines:
            lines = lines[len(lines) - lines[::-1].index(self._last) :]
        for line in lines:
            self._last = line
            event = parse(line)
            if event is not None:
                yield event
