"""Doing something again and again, at equal distances."""

from __future__ import annotations

import time
from collections.abc import Iterator


def every(seconds: float) -> Iterator[None]:
    """Yields at once, then again and again. The times keep their distance, however long takes what is done between
    them."""
    following = time.monotonic()
    while True:
        yield
        following = max(following + seconds, time.monotonic())
        time.sleep(max(0.0, following - time.monotonic()))
