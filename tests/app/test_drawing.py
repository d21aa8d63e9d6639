"""What drawing must not get wrong: which columns and rows fit, curves that have gaps, what colours cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from truezram.app.columns import COLUMNS, Row
from truezram.app.config import Config
from truezram.app.screens.chart import COLOURS
from truezram.app.widgets.grid import Grid, Head, _with_place
from truezram.app.widgets.histogram import squeeze
from truezram.app.widgets.page_map import LETTERS, lettered, region_kinds
from truezram.app.widgets.still import shade, unbroken
from truezram.codec import KINDS
from truezram.engine.device.events import Detector
from truezram.engine.device.sanity import emptied, implausible
from truezram.engine.model import Snapshot

from .conftest import SMALL, Bench, eight
from .test_pages import page_map

Make = Callable[..., Bench]


class TestGrid:
    @pytest.mark.parametrize(
        ("titles", "place"),
        [
            ("NAME  SIZE                   ", "1-7 of 120"),
            ("NAME              SIZE NAME IN config.toml", "1-7 of 120"),
            ("NAME            A B C D", "1-7/120"),
            ("NAME         A B C D", "of 120"),
            ("NAME A B C D", ""),
        ],
    )
    def test_which_rows_are_shown_is_written_where_there_is_room(self, titles: str, place: str) -> None:
        found = _with_place(titles, "1-7", 120)
        assert len(found) == len(titles)
        assert place in found
        assert found.replace(place, "").split() == titles.split()

    def test_a_column_grows_up_to_its_most(self) -> None:
        grid = Grid([Head("A", 5, grow=True, most=9), Head("B", 4)])
        assert grid._fit(10) == [(0, 5), (1, 4)]
        assert grid._fit(13) == [(0, 8), (1, 4)]
        assert grid._fit(200) == [(0, 9), (1, 4)]


class TestChart:
    def test_a_curve_has_gaps(self) -> None:
        nan = math.nan
        pieces = list(unbroken([0, 1, 2, 3, 4, 5], [nan, 1.0, 2.0, nan, nan, 3.0]))
        assert pieces == [([1, 2], [1.0, 2.0]), ([5], [3.0])]
        assert list(unbroken([0, 1], [nan, nan])) == []

    @pytest.mark.parametrize(("theme", "several"), [("dark", True), ("ansi", True), ("no-colour", False)])
    async def test_curves_differ_in_colour_or_in_sign(self, bench: Make, theme: str, several: bool) -> None:
        b = bench(1, config=Config(theme=theme, glyphs="braille"))
        async with b.app.run_test(size=SMALL):
            colours = {shade(b.app.theme_variables[name], b.app.current_theme.ansi) for name in COLOURS}
            assert len(colours) == (4 if several else 1)
            assert (None in colours) != several  # with none, still.py takes a sign for each


class TestUnreadable:
    def test_no_figure_of_it_is_shown(self) -> None:
        broken = replace(eight(1)[5].devices[0], orig_data_size=-1)
        row = Row(emptied(broken, implausible(broken)))
        shown = {column.key: column.cell(row) for column in COLUMNS}
        assert (shown["name"], shown["state"]) == ("ublkb0", "unreadable")
        assert {shown[key] for key in ("disksize", "data", "compr", "total", "ratio", "algorithm", "limit")} == {"-"}

    def test_what_it_lost_is_no_event(self) -> None:
        good = eight(1)[5]
        limited = replace(good.devices[0], mem_limit=1 << 32)
        broken = emptied(limited, "orig_data_size is -1")
        detector = Detector()

        def texts(device: object) -> list[str]:
            return [event.text for event in detector.feed(Snapshot(good.machine, (device,)), 0.0)]  # type: ignore[arg-type]

        assert texts(limited) == []
        assert texts(broken) == ["live → unreadable: orig_data_size is -1"]
        assert texts(limited) == ["unreadable → live"]


async def test_regions_tell_their_own_pages(real: Make) -> None:
    """The numbers of the region under the cursor are those of its pages, though regions are not of one size."""
    b = real()
    async with b.app.run_test(size=SMALL) as pilot:
        view, shown = await page_map(b, pilot)
        view.map = replace(shown, first=100, pages=10, regions=((3, 0, 0), (0, 0, 4), (1, 0, 2)))
        texts = []
        for view.picked in range(3):
            texts.append("".join(segment.text for segment in view._picked(60)))
        assert [text.split(":")[0] for text in texts] == ["pages 100-102", "pages 103-106", "pages 107-109"]
        assert "empty 1 (33%)" in texts[2]


async def test_without_colours_capitals_are_fuller(real: Make) -> None:
    b = real(config=Config(theme="no-colour", glyphs="braille"))
    async with b.app.run_test(size=SMALL) as pilot:
        view, _ = await page_map(b, pilot)
        fast = KINDS.index("fast")

        def cell(empty: int, full: int) -> str:
            region = [0] * len(KINDS)
            region[0], region[fast] = empty, full
            return view._cell(tuple(region))[0]

        assert [cell(0, 9), cell(4, 5), cell(5, 4), cell(9, 0)] == ["F", "F", "f", "."]


class TestKinds:
    def test_squeeze_keeps_the_sum(self) -> None:
        assert sum(squeeze(list(range(65)), 30)) == sum(range(65))
        assert len(squeeze([1.0, 2.0], 7)) == 7

    def test_same_filled_encodings_are_one_kind(self) -> None:
        assert region_kinds((5, 1, 2, 3, 0, 7)) == {"empty": 5, "same": 6, "lz4": 7}

    def test_every_kind_has_a_letter_of_its_own(self) -> None:
        assert LETTERS == {
            "same": "s", "huge": "h", "lz4": "l", "zstd": "z",
            "turbo": "t", "fast": "f", "dense": "d", "zstd_dict": "i", "cold": "c", "backing": "b",
        }  # fmt: skip
        many = lettered([*LETTERS, "sz", "lzo", *(f"s{number}" for number in range(30))])
        assert (many["sz"], many["lzo"]) == ("a", "o")
        assert len({letter for letter in many.values() if letter != "?"}) == 26
