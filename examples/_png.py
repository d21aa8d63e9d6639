"""Line plots as PNG files, with nothing but the standard library: a PNG is rows of pixels, deflated, in three chunks.
(A plotting library would be many times the size of truezram, for this alone. Where you have one, use that.)"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path

WIDTH, HEIGHT = 900, 240
LEFT, RIGHT, TOP, BOTTOM = 90, 40, 30, 30
"""Around the lines."""
DOT = 2
"""Pixels of one dot of a character, which has 3 by 5."""
GROUND, INK, GRID = b"\xff\xff\xff", b"\x28\x28\x28", b"\xe1\xe1\xe1"
COLOURS = (b"\x00\x72\xb2", b"\xd5\x5e\x00", b"\x00\x9e\x73", b"\xcc\x79\xa7")
# A character, and its rows of three dots as octal digits.
FONT = """
075557 126227 271747 371717 455711 574717 674757 771122 875757 975717 A25755 B65656 C34443 D65556 E74647 F74644 G34553
H55755 I72227 J11152 K55655 L44447 M57755 N65555 O25552 P65644 Q25563 R65655 S34216 T72222 U55557 V55552 W55775 X55255
Y55222 Z71247 .00002 -00700 :02020 /11244 %51245 (12221 )42224 ,00024
"""
GLYPHS = {glyph[0]: [int(row) for row in glyph[1:]] for glyph in FONT.split()}

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Points of each line, by its name."""


class Plot:
    """One system of axes."""

    def __init__(self, title: str, lines: Lines, x_unit: str = "s") -> None:
        self.rows = [bytearray(GROUND * WIDTH) for _ in range(HEIGHT)]
        points = [point for line in lines.values() for point in line]
        self.x_from, self.x_to = min(x for x, _ in points), max(x for x, _ in points)
        self.top = max(y for _, y in points) * 1.05 or 1.0
        self.axes(x_unit)
        place = LEFT
        self.text(place, 8, title)
        place += (len(title) + 3) * 4 * DOT
        for colour, (name, line) in zip(cycle(COLOURS), lines.items(), strict=False):
            self.text(place, 8, f"- {name}", colour)
            place += (len(name) + 4) * 4 * DOT
            for before, after in pairwise(line):
                self.line(self.at(*before), self.at(*after), colour)

    def at(self, x: float, y: float) -> tuple[int, int]:
        """The pixel of a point."""
        across = (x - self.x_from) / ((self.x_to - self.x_from) or 1)
        return (
            LEFT + round(across * (WIDTH - LEFT - RIGHT)),
            HEIGHT - BOTTOM - round(y / self.top * (HEIGHT - TOP - BOTTOM)),
        )

    def axes(self, x_unit: str) -> None:
        for step in range(5):
            y, x = self.top * step / 4, self.x_from + (self.x_to - self.x_from) * step / 4
            row, column = self.at(self.x_from, y)[1], self.at(x, 0)[0]
            self.line((LEFT, row), (WIDTH - RIGHT, row), GRID)
            label = f"{y:.3g}"
            self.text(LEFT - 10 - len(label) * 4 * DOT, row - 5, label)
            self.text(column - 16, HEIGHT - BOTTOM + 8, f"{x - self.x_from:.3g} {x_unit}")

    def dot(self, x: int, y: int, colour: bytes) -> None:
        if 0 <= x < WIDTH and 0 <= y < HEIGHT:
            self.rows[y][3 * x : 3 * x + 3] = colour

    def line(self, a: tuple[int, int], b: tuple[int, int], colour: bytes) -> None:
        steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
        for step in range(steps + 1):
            x, y = a[0] + round((b[0] - a[0]) * step / steps), a[1] + round((b[1] - a[1]) * step / steps)
            self.dot(x, y, colour)
            if colour is not GRID:
                self.dot(x, y + 1, colour)

    def text(self, x: int, y: int, words: str, colour: bytes = INK) -> None:
        for number, character in enumerate(words.upper()):
            for row, dots in enumerate(GLYPHS.get(character, ())):
                for column in range(3):
                    if dots >> (2 - column) & 1:
                        for pixel in range(DOT * DOT):
                            left = x + (number * 4 + column) * DOT
                            self.dot(left + pixel % DOT, y + row * DOT + pixel // DOT, colour)


def write(path: Path, plots: Sequence[Plot]) -> None:
    """The plots, one below the other."""
    rows = [row for plot in plots for row in plot.rows]
    head = struct.pack(">IIBBBBB", WIDTH, len(rows), 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)  # 0: no row depends on the one before
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
