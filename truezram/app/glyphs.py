"""Graph and bar characters in three sets: braille (2×4 dots a cell), blocks (1×8 steps), and plain ASCII.

Which set is used is the user's choice or, with "auto", what the terminal can show: ASCII when the locale is not UTF-8
or on the Linux console (TERM=linux, whose font lacks most of it). With ASCII every other character that the app
writes is replaced too (`AsciiFilter`).
"""

from __future__ import annotations

import locale
import math
from collections.abc import Mapping, Sequence

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

GLYPH_SETS = ("braille", "block", "ascii")

# Dots of a braille cell, from the bottom up, in its left and right column (Unicode's bit order).
_LEFT = (0x40, 0x04, 0x02, 0x01)
_RIGHT = (0x80, 0x20, 0x10, 0x08)
_LEFT_FILL = tuple(sum(_LEFT[:n]) for n in range(5))
_RIGHT_FILL = tuple(sum(_RIGHT[:n]) for n in range(5))
_LEFT_FILL_DOWN = tuple(sum(_LEFT[4 - n :]) for n in range(5))
_RIGHT_FILL_DOWN = tuple(sum(_RIGHT[4 - n :]) for n in range(5))
BRAILLE_UP = tuple(tuple(chr(0x2800 + left + right) for right in _RIGHT_FILL) for left in _LEFT_FILL)
BRAILLE_DOWN = tuple(tuple(chr(0x2800 + left + right) for right in _RIGHT_FILL_DOWN) for left in _LEFT_FILL_DOWN)
_BLOCK_UP = " ▁▂▃▄▅▆▇█"
# There are no lower-eighths from the top but these two: hanging blocks have three steps.
_BLOCK_DOWN = "  ▔▔▀▀▀██"
_ASCII_UP = " .:|#"
_ASCII_DOWN = " ':|#"
BAR = {"braille": " ▏▎▍▌▋▊▉█", "block": " ▏▎▍▌▋▊▉█", "ascii": " -#"}
SHADES = {"braille": " ░▒▓█", "block": " ░▒▓█", "ascii": " .:+#"}


def choose(setting: str, environ: Mapping[str, str]) -> str:
    """The glyph set to use for a setting of "auto" or one of `GLYPH_SETS`."""
    if setting in GLYPH_SETS:
        return setting
    names = (environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "").lower()
    utf8 = "utf-8" in names or "utf8" in names or (not names and "utf" in locale.getpreferredencoding(False).lower())
    return "braille" if utf8 and environ.get("TERM", "") not in ("linux", "dumb", "vt100", "vt220") else "ascii"


def samples_per_cell(glyphs: str) -> int:
    """How many samples one column of cells shows."""
    return 2 if glyphs == "braille" else 1


def fill_rows(
    values: Sequence[float], width: int, height: int, top: float, glyphs: str, down: bool = False
) -> list[str]:
    """A filled graph of `values` (newest last, at most as many as fit) as `height` strings of `width` cells.

    `top` is the value at full height; NaN is a gap; anything above zero shows at least one dot. The values are
    right-aligned. With `down` the graph hangs from its first row.
    """
    per_cell = samples_per_cell(glyphs)
    steps_per_row = {"braille": 4, "block": 8, "ascii": 4}[glyphs]
    full = height * steps_per_row
    room = width * per_cell
    levels = [0] * (room - len(values)) if len(values) < room else []
    scale = full / top if top > 0 else 0.0
    for value in values[-room:]:
        if value != value or value <= 0:
            levels.append(0)
        else:
            levels.append(max(1, min(full, round(value * scale))))
    rows: list[str] = []
    order = range(height) if down else range(height - 1, -1, -1)
    for row in order:
        base = row * steps_per_row
        clipped = [0 if n <= base else steps_per_row if n >= base + steps_per_row else n - base for n in levels]
        if glyphs == "braille":
            table = BRAILLE_DOWN if down else BRAILLE_UP
            pairs = zip(clipped[::2], clipped[1::2], strict=True)
            rows.append("".join([table[a][b] for a, b in pairs]).replace("\u2800", " "))
        elif glyphs == "block":
            chars = _BLOCK_DOWN if down else _BLOCK_UP
            rows.append("".join([chars[n] for n in clipped]))
        else:
            chars = _ASCII_DOWN if down else _ASCII_UP
            rows.append("".join([chars[n] for n in clipped]))
    return rows


def line_cells(
    values: Sequence[float], width: int, height: int, low: float, high: float, glyphs: str
) -> dict[tuple[int, int], int]:
    """A line graph as dots: (row, column) → bits of a braille cell, or for other sets the step 1… within the cell.

    `values` lie between `low` (bottom) and `high` (top); NaN is a gap. Dots of neighbouring samples are joined
    vertically.
    """
    per_cell = samples_per_cell(glyphs)
    steps = 4 if glyphs == "braille" else 2 if glyphs == "block" else 1
    full = height * steps
    span = high - low
    room = width * per_cell
    shown = list(values)[-room:]
    start = room - len(shown)
    cells: dict[tuple[int, int], int] = {}
    previous: int | None = None
    for index, value in enumerate(shown, start):
        if math.isnan(value) or span <= 0:
            previous = None
            continue
        level = max(0, min(full - 1, int((value - low) / span * full)))
        first, last = (level, level) if previous is None else (min(previous, level), max(previous, level))
        if previous is not None and first != last:
            first, last = (first + 1, last) if previous < level else (first, last - 1)
        previous = level
        column, half = divmod(index, per_cell)
        for step in range(first, last + 1):
            row = height - 1 - step // steps
            bit = (_RIGHT if half else _LEFT)[step % 4] if glyphs == "braille" else 1 << (step % steps)
            cells[row, column] = cells.get((row, column), 0) | bit
    return cells


def line_char(bits: int, glyphs: str) -> str:
    """The character for the bits of `line_cells`."""
    if glyphs == "braille":
        return chr(0x2800 + bits)
    if glyphs == "block":
        return " ▄▀█"[bits]
    return "*"


def bar(fraction: float, width: int, glyphs: str) -> str:
    """A horizontal bar of at most `width` cells, without trailing blanks; anything above zero shows."""
    chars = BAR[glyphs]
    steps = len(chars) - 1
    if fraction != fraction or fraction <= 0:
        return ""
    filled = max(1, round(min(fraction, 1.0) * width * steps))
    return chars[-1] * (filled // steps) + (chars[filled % steps] if filled % steps else "")


_ASCII_TABLE = str.maketrans(
    {
        **dict.fromkeys("─━═╌┄╴╶╸╺▔▁▂", "-"),
        **dict.fromkeys("│┃║┆┊▏▎▕▌▐▍", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛╔╗╚╝╞╡┝┥", "+"),
        **dict.fromkeys("█▓▇▆▅▉▊▋▄▀", "#"),
        **dict.fromkeys("▒░▃", ":"),
        **dict.fromkeys("▲△▴↑⬆", "^"),
        **dict.fromkeys("▼▽▾↓⬇", "v"),
        **dict.fromkeys("▶▸►→❯❭›", ">"),
        **dict.fromkeys("◀◂◄←❮‹", "<"),
        **dict.fromkeys("●•◉■◆✔✓", "*"),
        **dict.fromkeys("○◌□◇·", "."),
        **dict.fromkeys("✗✘❌×✕", "x"),
        **dict.fromkeys("–—−‐", "-"),
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”", '"'),
        "µ": "u",
        "…": "~",
        "≤": "<",
        "≥": ">",
        "≈": "~",
        "±": "~",
        "∞": "-",
        "⚠": "!",
        "ℹ": "i",
        "⭘": "o",
    }
)


def to_ascii(text: str) -> str:
    """The text with every character that is not ASCII replaced by one that is, cell for cell."""
    if text.isascii():
        return text
    replaced = text.translate(_ASCII_TABLE)
    return replaced if replaced.isascii() else "".join(c if c.isascii() else _other(c) for c in replaced)


def _other(char: str) -> str:
    return ":" if 0x2800 <= ord(char) < 0x2900 else "?"


class AsciiFilter(LineFilter):
    """Makes every line that is drawn ASCII, whatever widget drew it."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """See `LineFilter`."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
