"""View settings shared by all graphs of the app."""

from __future__ import annotations

from dataclasses import dataclass

ZOOMS = (1, 2, 5, 10, 15)
"""Possible seconds per dot of a graph."""


@dataclass
class View:
    """See the module's text."""

    glyphs: str = "braille"
    zoom: int = 0
    pages: bool = False
    """Throughput in pages a second instead of bytes."""
    paused: bool = False

    @property
    def seconds(self) -> int:
        """Seconds per dot."""
        return ZOOMS[self.zoom]
