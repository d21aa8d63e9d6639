"""Makes the app's SVG pictures look the same in every viewer.

Textual writes each run of equal style as one text, in a font that it asks the network for. A viewer without that font
misplaces braille dots, blocks and lines. Here these are drawn as shapes, each word is placed at
its own cell, and nothing is fetched.
"""

from __future__ import annotations

import html
import re

from rich.cells import cell_len

CELL, LINE, ASCENT, TOP = 12.2, 24.4, 20.0, 1.5
"""Pixels: the width and height of a cell, its base line below the line's top, and where a line's background begins."""
FONTS = "Fira Code, DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
_FACE = re.compile(r"\s*@font-face \{.*?\}", re.S)
_TEXT = re.compile(r'<text class="([\w-]+)" x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+" [^>]*>(.*?)</text>', re.S)
_CLIP = re.compile(r'<clipPath id="[\w-]+-line-\d+">.*?</clipPath>\s*', re.S)
_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
"""Column and row of each bit of a braille character."""
_QUADRANTS = dict(zip("▘▝▖▗▀▄▌▐▚▞▛▜▙▟", (1, 2, 4, 8, 3, 12, 5, 10, 9, 6, 7, 11, 13, 14), strict=True))
_SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75}
# left, right, up, down
_LINES = {
    **dict.fromkeys("─━╌┄┈═", "lr"),
    **dict.fromkeys("│┃╎┆┊║", "ud"),
    **dict.fromkeys("┌╭┏", "rd"),
    **dict.fromkeys("┐╮┓", "ld"),
    **dict.fromkeys("└╰┗", "ru"),
    **dict.fromkeys("┘╯┛", "lu"),
    **dict.fromkeys("├┣", "rud"),
    **dict.fromkeys("┤┫", "lud"),
    **dict.fromkeys("┬┳", "lrd"),
    **dict.fromkeys("┴┻", "lru"),
    **dict.fromkeys("┼╋", "lrud"),
    "╴": "l",
    "╶": "r",
    "╵": "u",
    "╷": "d",
}
_HEAVY = "━┃┏┓┗┛┣┫┳┻╋"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f"M{_short(x)} {_short(y)}h{_short(width)}v{_short(height)}h{_short(-width)}z"


def _braille(bits: int, x: float, y: float) -> str:
    size = 3.0
    return "".join(
        _rect(x + (0.28 + 0.44 * column) * CELL - size / 2, y + (0.125 + 0.25 * row) * LINE - size / 2, size, size)
        for bit, (column, row) in enumerate(_DOTS)
        if bits >> bit & 1
    )


def _lines(char: str, x: float, y: float) -> str:
    thick = 3.0 if char in _HEAVY else 1.4
    left, top = x + (CELL - thick) / 2, y + (LINE - thick) / 2
    arms = {
        "l": (x, top, left + thick - x, thick),
        "r": (left, top, x + CELL - left, thick),
        "u": (left, y, thick, top + thick - y),
        "d": (left, top, thick, y + LINE - top),
    }
    return "".join(_rect(*arms[arm]) for arm in _LINES[char])


def shape(char: str, x: float, y: float) -> str | None:
    """The path of one character in the cell whose upper left corner is (x, y); None for what is written as text."""
    code = ord(char)
    if 0x2800 <= code <= 0x28FF:
        return _braille(code - 0x2800, x, y)
    if char in _QUADRANTS:
        width, height = CELL / 2, LINE / 2
        bits = _QUADRANTS[char]
        corners = (bit for bit in range(4) if bits >> bit & 1)
        return "".join(_rect(x + bit % 2 * width, y + bit // 2 * height, width, height) for bit in corners)
    if 0x2581 <= code <= 0x2588:
        height = LINE * (code - 0x2580) / 8
        return _rect(x, y + LINE - height, CELL, height)
    if 0x2589 <= code <= 0x258F:
        return _rect(x, y, CELL * (0x2590 - code) / 8, LINE)
    if char in _SHADES:
        return _rect(x, y, CELL, LINE)
    return _lines(char, x, y) if char in _LINES else None


def _run(found: re.Match[str]) -> str:
    """One run of text as words and shapes."""
    style, start, base = found[1], float(found[2]), float(found[3])
    text = html.unescape(found[4]).replace("\xa0", " ")
    words: list[tuple[int, str]] = []
    paths: dict[float, list[str]] = {}
    column, open_word = 0, False
    for char in text:
        path = shape(char, start + column * CELL, base - ASCENT + TOP)
        # A character that is not ASCII is a text of its own: fonts disagree on its width.
        plain = path is None and not char.isspace()
        if path is not None:
            paths.setdefault(_SHADES.get(char, 1.0), []).append(path)
        elif plain and open_word and char.isascii():
            words[-1] = (words[-1][0], words[-1][1] + char)
        elif plain:
            words.append((column, char))
        open_word = plain and char.isascii()
        column += cell_len(char) if char != "\n" else 0
    parts = [
        f'<path class="{style}" d="{"".join(path)}"' + (f' fill-opacity="{opacity}"' if opacity < 1 else "") + "/>"
        for opacity, path in paths.items()
    ]
    parts += [
        f'<text class="{style}" x="{_short(start + place * CELL)}" y="{_short(base)}"'
        f' textLength="{_short(cell_len(word) * CELL)}">{html.escape(word)}</text>'
        for place, word in words
    ]
    return "".join(parts)


def portable(svg: str) -> str:
    """The picture that `App.export_screenshot` made, for every viewer."""
    svg = _CLIP.sub("", _FACE.sub("", svg))
    svg = svg.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}")
    return _TEXT.sub(_run, svg)
