"""A device's last minutes as one large static chart with axes, drawn by plotext."""

from __future__ import annotations

import math
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from truezram.app.screens.dialog import Dialog
from truezram.app.series import DeviceSeries
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.still import StillChart, shade
from truezram.engine.units import format_duration

CHARTS: tuple[tuple[str, tuple[str, ...], float, bool], ...] = (
    ("throughput, MiB/s", ("read", "write"), 1 << 20, False),
    ("service time, µs", ("read_p50", "read_p99", "write_p50", "write_p99"), 1e3, True),
    ("memory, MiB", ("logical", "resident"), 1 << 20, False),
    ("ratio", ("ratio",), 1.0, False),
    ("server CPU, %", ("cpu",), 0.01, False),
)
COLOURS = ("graph-read", "graph-write", "graph-ratio", "graph-p99")
"""The theme's variables for the curves, in their order."""


class ChartScreen(Dialog[None]):
    """Tab selects the chart, + and - the time span."""

    GUIDE: ClassVar[str] = "A static chart of the data when it was opened. Tab: next chart. + and -: less or more time."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,C,q", "dismiss(None)", "Close", id="chart.close"),
        Binding("tab,v", "next", "Next chart", id="chart.next"),
        Binding("plus,equals_sign", "span(-1)", "Less time", key_display="+", id="chart.less"),
        Binding("minus", "span(1)", "More time", key_display="-", id="chart.more"),
    ]
    SPANS = (60, 120, 300, 900)

    def __init__(self, name: str, series: DeviceSeries) -> None:
        super().__init__()
        self.device = name
        self.values = {metric: list(ring.values) for metric, ring in series.rings.items()}
        self.which = 0
        length = len(self.values["read"])
        self.span = next((i for i, seconds in enumerate(self.SPANS) if seconds >= length), len(self.SPANS) - 1)

    def compose(self) -> ComposeResult:
        """The chart."""
        with Vertical(id="dialog"):
            yield StillChart(id="chart")
        yield Footer()

    def on_mount(self) -> None:
        """Draws."""
        self._draw()

    def _draw(self) -> None:
        title, metrics, scale, log = CHARTS[self.which]
        seconds = self.SPANS[self.span]
        series = []
        for metric in metrics:
            values = self.values[metric][-seconds:]
            # Nothing that is not above 0 has a place on a logarithmic axis.
            known = [v / scale if v > 0 or not log else math.nan for v in values]
            if not all(map(math.isnan, known)):
                series.append((metric.replace("_", " "), [i - len(known) + 1 for i in range(len(known))], known))
        axis = f"the last {format_duration(seconds)}, in seconds from now"
        app = self.tz
        shades = [shade(app.theme_variables[name], app.current_theme.ansi) for name in COLOURS]
        self.query_one(StillChart).lines(series, f"{self.device}: {title}", axis, log, shades, app.view)

    def action_next(self) -> None:
        """The next chart."""
        self.which = (self.which + 1) % len(CHARTS)
        self._draw()

    def action_span(self, step: int) -> None:
        """More or less time."""
        self.span = max(0, min(len(self.SPANS) - 1, self.span + step))
        self._draw()
