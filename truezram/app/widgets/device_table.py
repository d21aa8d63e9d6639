"""The table of devices: sorted, filtered, with a cursor that stays on its device whatever moves around it."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message

from truezram.app import columns
from truezram.app.columns import Column, Row
from truezram.app.format import short_size
from truezram.app.widgets.lines import Line, clip
from truezram.app.widgets.rows import RowsWidget, moving


def matches(row: Row, words: list[str]) -> bool:
    """Whether every word of a filter is found in the row: as text anywhere in it, or as ``column>value`` (also < and
    =)."""
    return all(_word(row, word) for word in words)


def _word(row: Row, word: str) -> bool:
    for sign in ("<", ">", "="):
        key, found, value = word.partition(sign)
        column = columns.BY_KEY.get(key.lower()) if found else None
        if column is None:
            continue
        order = column.order(row)
        if isinstance(order, str):
            return value.lower() in order.lower() if sign == "=" else False
        number = _number(value)
        if number is None:
            return False
        return order < number if sign == "<" else order > number if sign == ">" else abs(order - number) < 1e-9
    text = " ".join((row.state, *(column.cell(row) for column in columns.COLUMNS))).lower()
    return word.lower() in text


def _number(text: str) -> float | None:
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    scale = units.get(text[-1:].lower(), 1)
    try:
        return float(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        return None


class DeviceTable(RowsWidget, can_focus=True):
    """All devices, one a line, with a header that sorts when it is clicked and a line of totals."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header",
        "table--sorted",
        "table--row",
        "table--cursor",
        "table--cursor-blurred",
        "table--bad",
        "table--warn",
        "table--muted",
        "table--total",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        *moving("table"),
        Binding("enter,l", "open", "Open", key_display="Enter", id="table.open"),
        Binding("s", "sort(1)", "Sort", id="table.sort"),
        Binding("S", "sort(0)", "Reverse", show=False, id="table.reverse"),
    ]

    class Moved(Message):
        """The cursor is on another device."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Opened(Message):
        """The user asks for the device in depth."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows: list[Row] = []
        self.shown: list[Row] = []
        self.filter = ""
        self.sort = "name"
        self.descending = False
        self.wanted: tuple[str, ...] = ()
        self._columns: list[Column] = []

    # ---- data

    def show(self, rows: list[Row]) -> None:
        """Takes in the devices as they are now."""
        before = len(self.shown)
        self.rows = rows
        self._arrange()
        if len(self.shown) != before:
            self.refresh(layout=True)
            self.refresh_bindings()
        self.rebuild()

    def set_filter(self, text: str) -> None:
        """Shows only rows that match every word of `text`."""
        self.filter = text
        self._arrange()
        self.refresh(layout=True)
        self.refresh_bindings()
        self.rebuild()

    def _arrange(self) -> None:
        words = self.filter.split()
        column = columns.BY_KEY[self.sort]
        rows = [row for row in self.rows if matches(row, words)] if words else list(self.rows)
        rows.sort(key=lambda row: row.device.name)
        rows.sort(key=column.order, reverse=self.descending)
        place = self.index
        self.shown = rows
        if rows and self.index < 0:
            # The device under the cursor has gone: the one that took its place is next.
            self._move_to(max(0, min(place, len(rows) - 1)))
        elif not rows and not self.rows:
            self.cursor = ""

    @property
    def row_count(self) -> int:
        return len(self.shown)

    def key_of(self, index: int) -> str:
        return self.shown[index].device.name

    def moved(self, key: str) -> Message:
        return self.Moved(key)

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        index = self.index
        return self.shown[index] if index >= 0 else None

    # ---- actions

    def action_open(self) -> None:
        """Opens the device under the cursor."""
        if self.current:
            self.post_message(self.Opened(self.cursor))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing is offered for a table without devices."""
        return bool(self.shown) if action in ("open", "sort", "cursor") else True

    def action_sort(self, step: int) -> None:
        """Sorts by the next column shown, or turns the order round."""
        if step:
            keys = [column.key for column in self._columns] or ["name"]
            place = keys.index(self.sort) if self.sort in keys else -1
            self.sort_by(keys[(place + step) % len(keys)])
        else:
            self.descending = not self.descending
            self._arrange()
            self.rebuild()

    def sort_by(self, key: str) -> None:
        """Sorts by a column: numbers fall, text rises; the same column again turns the order round."""
        if key == self.sort:
            self.descending = not self.descending
        else:
            self.sort = key
            self.descending = not columns.BY_KEY[key].left
        self._arrange()
        self.rebuild()

    # ---- mouse

    def on_click(self, event: events.Click) -> None:
        """A header sorts, a row takes the cursor, a second click opens it."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            x = 0
            for column in self._columns:
                if x <= offset.x < x + column.width + columns.GAP:
                    self.sort_by(column.key)
                    return
                x += column.width + columns.GAP
            return
        index = self._top + offset.y - 1
        if 0 <= index < len(self.shown) and offset.y < self.size.height - 1:
            self._move_to(index)
            self.rebuild()
            if event.chain == 2:
                self.action_open()

    # ---- drawing

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Header, rows, totals."""
        return max(len(self.shown), 1) + 2

    def build(self, width: int, height: int) -> list[Line]:
        """Header, the rows around the cursor, totals."""
        self._columns = columns.fitting(width, self.wanted)
        room = max(height - 2, 1)
        self._follow(room)
        lines = [self._header(width)]
        for row in self.shown[self._top : self._top + room]:
            lines.append(self._row(row, width))
        if not self.shown:
            text = (
                "No device matches the filter (Esc clears it)."
                if self.rows
                else "No device yet: u sets this machine up, c creates one."
            )
            lines.append([Segment(clip(text, width), self.style("table--muted"))])
        while len(lines) < height - 1:
            lines.append([])
        if height >= 3 and self.rows:
            lines.append(self._totals(width, room))
        return lines

    def _header(self, width: int) -> Line:
        style, chosen = self.style("table--header"), self.style("table--sorted")
        line: Line = []
        for column in self._columns:
            title, gap = column.title, Segment(" " * columns.GAP, style)
            if column.key == self.sort:
                mark = "▼" if self.descending else "▲"
                if len(title) < column.width:
                    title += mark
                elif column.left or not line:
                    gap = Segment(mark, chosen)
                else:
                    line[-1] = Segment(mark, chosen)
            text = f"{title:<{column.width}}" if column.left else f"{title:>{column.width}}"
            line += [Segment(text, chosen if column.key == self.sort else style), gap]
        used = sum(column.width + columns.GAP for column in self._columns)
        line.append(Segment(" " * max(width - used, 0), style))
        return line

    def _row(self, row: Row, width: int) -> Line:
        cursor = row.device.name == self.cursor
        if cursor:
            style = self.style("table--cursor" if self.has_focus else "table--cursor-blurred")
        elif row.bad:
            style = self.style("table--bad")
        elif row.warns:
            style = self.style("table--warn")
        else:
            style = self.style("table--muted" if row.device.kind != "truezram" else "table--row")
        cells = []
        for column in self._columns:
            text = clip(column.cell(row), column.width)
            cells.append(f"{text:<{column.width}}" if column.left else f"{text:>{column.width}}")
        return [Segment(f"{(' ' * columns.GAP).join(cells):<{width}}", style)]

    def _totals(self, width: int, room: int) -> Line:
        style = self.style("table--total")
        values = {
            "name": f"total {len(self.shown)}",
            "data": short_size(sum(row.device.orig_data_size for row in self.shown)),
            "compr": short_size(sum(row.device.compr_data_size for row in self.shown)),
            "total": short_size(sum(row.device.mem_used_total for row in self.shown)),
            # What zswap holds has its place in swap areas: its size is theirs, counted already where they are devices.
            "disksize": short_size(sum(row.device.disksize for row in self.shown if row.device.kind != "zswap")),
            "read": self._sum([row.rates.read for row in self.shown]),
            "write": self._sum([row.rates.write for row in self.shown]),
        }
        total = sum(row.device.mem_used_total for row in self.shown)
        data = sum(row.device.orig_data_size for row in self.shown)
        if total and data:
            values["ratio"] = f"{data / total:.2f}"
        if len(self.shown) > room:
            values["state"] = f"{self._top + 1}-{min(self._top + room, len(self.shown))}/{len(self.shown)}"
        elif self.filter:
            values["state"] = f"of {len(self.rows)}"
        cells = []
        for column in self._columns:
            text = clip(values.get(column.key, ""), column.width)
            cells.append(f"{text:<{column.width}}" if column.left else f"{text:>{column.width}}")
        return [Segment(f"{(' ' * columns.GAP).join(cells):<{width}}", style)]

    def _sum(self, values: list[float]) -> str:
        known = [value for value in values if value == value]
        return self.shown[0].rate(sum(known)) if known else "-"
