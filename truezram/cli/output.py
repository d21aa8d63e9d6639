"""What verbs print: JSON with its schema, aligned tables, and progress on the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def _document(verb: str, body: dict[str, Any], version: int) -> dict[str, Any]:
    return {"schema": f"truezram.{verb}/{version}", **body}


def print_json(verb: str, body: dict[str, Any], version: int = 1) -> None:
    """One JSON document on stdout: ``{"schema": "truezram.VERB/1", ...}``. Sizes in bytes, times in ns or seconds by
    name."""
    json.dump(_document(verb, body, version), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_json_line(verb: str, body: dict[str, Any], version: int = 1) -> None:
    """One of many documents, a line each, written out at once: for what goes on until it is interrupted."""
    sys.stdout.write(json.dumps(_document(verb, body, version), ensure_ascii=False) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `keep` is its rank: on a narrow terminal, the highest ranks are left out first."""

    title: str
    right: bool = False
    keep: int = 0


def format_raw(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with one blank between cells, as zramctl's --raw: a blank in a cell is written ``\\x20``, and an empty cell
    is ``-``, so that every line has the same number of words."""
    return [" ".join(cell.replace("\\", "\\x5c").replace(" ", "\\x20") or "-" for cell in row) for row in rows]


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None, heading: bool = True
) -> str:
    """The table as text, columns aligned, with two blanks between them.

    With a `width` whole columns are left out until it fits, and a last line names them; cells are never cut. Without
    one (a pipe, a file) all columns are shown.
    """
    chosen = list(range(len(columns)))
    titles = [len(column.title) if heading else 0 for column in columns]
    widths = [max(title, *(len(row[i]) for row in rows), 0) for i, title in enumerate(titles)]
    while width is not None and sum(widths[i] + 2 for i in chosen) - 2 > width:
        last = max(chosen, key=lambda i: (columns[i].keep, i))
        if columns[last].keep == 0:
            break
        chosen.remove(last)
    lines = []
    for row in (*([[column.title for column in columns]] if heading else []), *rows):
        cells = [row[i].rjust(widths[i]) if columns[i].right else row[i].ljust(widths[i]) for i in chosen]
        lines.append("  ".join(cells).rstrip())
    left_out = [column.title for i, column in enumerate(columns) if i not in chosen]
    if left_out:
        lines.append(f"(not shown, the terminal is too narrow: {', '.join(left_out)})")
    return "\n".join(lines)


def terminal_width() -> int | None:
    """Columns of the terminal on stdout; None when stdout is not a terminal."""
    if not sys.stdout.isatty():
        return None
    import shutil  # slow (it brings bz2 and lzma), and scripts have no terminal

    return shutil.get_terminal_size().columns


def has_screen() -> bool:
    """Whether the app can be shown: on a terminal that can place text (TERM=dumb cannot), or in a browser,
    where textual-serve reads it through a pipe."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal or os.environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")


class ProgressLine:
    """One line on the terminal's stderr that is written over; silent when stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = False
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
