"""Pictures that look the same in every viewer: shapes where fonts differ, every word in its cell, nothing fetched."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from truezram.app.picture import CELL, LINE, portable, shape

from .conftest import SMALL, Bench

SCREENSHOTS = Path(__file__).parents[2] / "screenshots"


def boxes(path: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of the rectangles of a path."""
    found = re.findall(r"M(-?[\d.]+) (-?[\d.]+)h([\d.]+)v([\d.]+)", path)
    return [(float(x), float(y), float(x) + float(w), float(y) + float(h)) for x, y, w, h in found]


def texts(svg: str) -> list[str]:
    """What is written in a picture."""
    return [found.text or "" for found in ET.fromstring(svg).iter() if found.tag.endswith("text")]


@pytest.mark.parametrize("char", [*map(chr, range(0x2801, 0x2900)), *"▀▁▄█▉▌▏▐░▒▓▖▟─│┌╮╰┤┼━┃┏"])
def test_a_shape_stays_in_its_cell(char: str) -> None:
    path = shape(char, 100, 50)
    assert path is not None
    assert boxes(path)
    for left, top, right, bottom in boxes(path):
        assert left >= 99.9
        assert top >= 49.9
        assert right <= 100.2 + CELL
        assert bottom <= 50.2 + LINE


def test_shapes_are_what_the_characters_are() -> None:
    assert len(boxes(shape("⠿", 0, 0) or "")) == 6
    assert boxes(shape("▄", 0, 0) or "")[0][1] == pytest.approx(LINE / 2, abs=0.06)
    assert boxes(shape("▌", 0, 0) or "")[0][2] == pytest.approx(CELL / 2, abs=0.06)
    assert boxes(shape("▐", 0, 0) or "")[0][0] == pytest.approx(CELL / 2, abs=0.06)
    # What meets in a corner reaches the two sides that it should, and no other.
    corner = boxes(shape("╭", 0, 0) or "")
    assert max(box[2] for box in corner) == pytest.approx(CELL, abs=0.06)
    assert max(box[3] for box in corner) == pytest.approx(LINE, abs=0.06)
    assert min(box[0] for box in corner) > 4
    assert shape("x", 0, 0) is None


async def test_the_picture_of_the_app(bench: Callable[..., Bench]) -> None:
    b = bench(2)
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(90)
        await pilot.pause()
        svg = b.app.export_screenshot()
    made = portable(svg)
    before, after = texts(svg), texts(made)
    assert "ublkb0" in after
    assert not [text for text in after if re.search(r"\s", text) or shape(text[0], 0, 0)]
    # Every character that is not a shape is still there, in order.
    left = [char for text in before for char in text if not char.isspace() and not shape(char, 0, 0)]
    assert [char for text in after for char in text] == left
    assert "url(https" not in made
    assert "@font-face" not in made


@pytest.mark.parametrize("path", sorted(SCREENSHOTS.glob("*.svg")), ids=lambda path: path.name)
def test_screenshots_are_portable(path: Path) -> None:
    made = path.read_text()
    ET.fromstring(made)
    assert "@font-face" not in made


def test_the_readme_shows_what_there_is() -> None:
    readme = (SCREENSHOTS.parent / "README.md").read_text()
    shown = re.findall(r"!\[([^\]]+)\]\((screenshots/[\w-]+\.svg)\)", readme)
    assert 3 <= len(shown) <= 5
    for text, path in shown:
        assert text
        assert (SCREENSHOTS.parent / path).is_file()
