"""Messages from the reader thread to the app."""

from __future__ import annotations

from textual.message import Message

from truezram.engine.model import Snapshot


class SnapshotArrived(Message):
    """A snapshot, or None and the reason."""

    def __init__(self, snapshot: Snapshot | None, why: str = "") -> None:
        super().__init__()
        self.snapshot = snapshot
        self.why = why
