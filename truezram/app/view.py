"""How the user looks at things: what all graphs of the app have in common."""

from __future__ import annotations

from dataclasses import dataclass

ZOOMS = (1, 2, 5, 10, 15)
"""Seconds that one dot of a graph can stand for."""


@dataclass
class View:
    """What all graphs of the app have in common."""

    glyphs: str = "braille"
    zoom: int = 0
    pages: bool = False
    """Throughput in pages a second instead of bytes."""
    paused: bool = False

    @property
    def seconds(self) -> int:
        """Seconds that one dot stands for."""
        return ZOOMS[self.zoom]
