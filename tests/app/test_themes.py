"""Themes: every shipped one loads, is readable (contrast), and bad ones are messages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.color import Color
from textual.theme import Theme

from truezram.app import theme
from truezram.app.config import Config

from .conftest import SMALL, Bench

SHIPPED = theme.load((theme.shipped_folder(),))
TRUE_COLOUR = sorted(name for name, found in SHIPPED.themes.items() if not found.ansi)
MINIMUM = {"high-contrast": 7.0}


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(text: str) -> float:
        channels = [c / 255 for c in Color.parse(text).rgb]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_what_is_shipped() -> None:
    assert SHIPPED.problems == ()
    assert {"dark", "light", "high-contrast", "colour-blind", "ansi", "no-colour"} <= set(SHIPPED.themes)
    assert not SHIPPED.themes["light"].dark


@pytest.mark.parametrize("name", TRUE_COLOUR)
def test_text_is_readable(name: str) -> None:
    found, least = SHIPPED.themes[name], MINIMUM.get(name, 4.5)
    backgrounds = [found.background, found.surface, found.panel]
    for key in ("foreground", "error", "warning", "success", "primary"):
        for background in backgrounds:
            assert contrast(getattr(found, key), background) >= least, (key, background)
    for key in ("muted", "heading", "key"):
        for background in backgrounds:
            assert contrast(found.variables[key], background) >= least, (key, background)
    assert contrast(found.variables["row-cursor"], found.variables["row-cursor-background"]) >= least


@pytest.mark.parametrize("name", TRUE_COLOUR)
def test_curves_and_map_stand_out(name: str) -> None:
    found = SHIPPED.themes[name]
    for key in theme.GRAPH_KEYS:
        if key != "track":
            # These colours are also those of the figures in the titles.
            assert contrast(found.variables[f"graph-{key}"], found.background) >= 4.5 - 1.0 * (key == "axis"), key
    for key in theme.MAP_KEYS:
        if key != "empty":
            assert contrast(found.variables[f"map-{key.replace('_', '-')}"], found.background) >= 3.0, key
    written = [found.variables[f"map-{key}"] for key in ("lz4", "zstd", "turbo", "fast", "dense", "cold")]
    assert len(set(written)) == len(written), "kinds that a device may have at the same time look the same"


def seen_by(text: str, kind: str) -> tuple[float, float, float]:
    """How a colour looks with full protanopia, deuteranopia or tritanopia (Viénot 1999, Brettel's plane for the
    last)."""
    red, green, blue = ((c / 255) ** 2.2 for c in Color.parse(text).rgb)
    if kind == "protan":
        red, green, blue = (
            0.1124 * red + 0.8876 * green,
            0.1124 * red + 0.8876 * green,
            0.0040 * red - 0.0040 * green + blue,
        )
    elif kind == "deutan":
        red, green, blue = (
            0.2928 * red + 0.7072 * green,
            0.2928 * red + 0.7072 * green,
            -0.0223 * red + 0.0223 * green + blue,
        )
    elif kind == "tritan":
        red, green, blue = (
            red + 0.1274 * green - 0.1274 * blue,
            0.8739 * green + 0.1261 * blue,
            0.8739 * green + 0.1261 * blue,
        )
    x = 0.4124 * red + 0.3576 * green + 0.1805 * blue
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = 0.0193 * red + 0.1192 * green + 0.9505 * blue

    def f(t: float) -> float:
        return t ** (1 / 3) if t > 0.008856 else 7.787 * max(t, 0.0) + 16 / 116

    fx, fy, fz = f(x / 0.9505), f(y), f(z / 1.089)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


PAIRS = (
    ("graph-read", "graph-write"),
    ("graph-p50", "graph-p99"),
    ("graph-logical", "graph-resident"),
    ("map-huge", "map-lz4"),
)


@pytest.mark.parametrize("kind", ["none", "protan", "deutan", "tritan"])
def test_the_colour_blind_theme_tells_its_pairs_apart(kind: str) -> None:
    found = SHIPPED.themes["colour-blind"]
    pairs = [(found.variables[a], found.variables[b]) for a, b in PAIRS] + [(found.success or "", found.error or "")]
    for a, b in pairs:
        one, two = seen_by(a, kind), seen_by(b, kind)
        assert sum((p - q) ** 2 for p, q in zip(one, two, strict=True)) ** 0.5 > 25, (a, b)


BAD = {
    "not TOML": "= =",
    "unknown key": "colour = 1",
    "no 'prime'": '[colors]\nprime = "#fff"',
    "not a colour": '[colors]\nprimary = "#ggg"',
    "must be a table": "colors = 1",
    "must be true or false": 'dark = "yes"',
    "which is not there": 'extends = "gone"',
    "extends itself": 'extends = "user"',
    "missing": "dark = true",
    "must be a colour": "[graph]\nread = 3",
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_file_is_a_message(tmp_path: Path, reason: str) -> None:
    (tmp_path / "user.toml").write_text(BAD[reason])
    got = theme.load((theme.shipped_folder(), tmp_path))
    assert "user" not in got.themes
    assert set(got.themes) == set(SHIPPED.themes)
    assert len(got.problems) == 1
    assert reason in got.problems[0]
    assert str(tmp_path / "user.toml") in got.problems[0]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "user.toml").write_bytes(b"\xff\xfe\x00")
    assert "user.toml" in theme.load((theme.shipped_folder(), tmp_path)).problems[0]


def test_a_user_theme_extends_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "dark"\ntitle = "Mine"\n[graph]\nread = "#ffffff"')
    got = theme.load((theme.shipped_folder(), tmp_path))
    assert got.problems == ()
    assert got.themes["mine"].variables["graph-read"] == "#ffffff"
    assert got.themes["mine"].background == SHIPPED.themes["dark"].background


def test_a_theme_needs_no_colour_for_a_kind_of_page(tmp_path: Path) -> None:
    """It has one all the same, of the graphs'; a kind that there is not is refused."""
    text = (theme.shipped_folder() / "dark.toml").read_text()
    (tmp_path / "mine.toml").write_text(re.sub(r"^(lz4|dense|zstd_dict) = .*\n", "", text, flags=re.MULTILINE))
    (tmp_path / "other.toml").write_text('extends = "dark"\n[map]\nlz5 = "#ffffff"\nempty = "#123456"')
    got = theme.load((theme.shipped_folder(), tmp_path))
    mine, dark = got.themes["mine"].variables, SHIPPED.themes["dark"].variables
    graphs = {dark[f"graph-{key}"] for key in theme.CYCLE}
    assert all(mine[f"map-{kind}"] in graphs for kind in ("lz4", "dense", "zstd-dict"))
    assert len({mine[f"map-{kind}"] for kind in ("lz4", "dense", "zstd-dict")}) == 3
    assert mine["map-turbo"] == dark["map-turbo"]
    assert ["[map] has no 'lz5'" in problem for problem in got.problems] == [True]


def close(a: Color, b: str) -> bool:
    """Textual's colour system rounds."""
    return all(abs(x - y) <= 2 for x, y in zip(a.rgb, Color.parse(b).rgb, strict=True))


async def test_live_reload(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    folder = tmp_path / "truezram" / "themes"
    folder.mkdir(parents=True)
    mine = folder / "mine.toml"
    mine.write_text('extends = "dark"\n[colors]\nbackground = "#112233"')
    b = bench(2, config=Config(theme="mine"))
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(3)
        await pilot.pause()
        assert close(b.app.screen.styles.background, "#112233")
        mine.write_text('extends = "dark"\n[colors]\nbackground = "#332211"\n# changed')
        b.app._reload_themes()
        await pilot.pause()
        await pilot.pause()
        assert close(b.app.screen.styles.background, "#332211")
        mine.write_text("broken")
        b.app._reload_themes()
        await pilot.pause()
        assert close(b.app.screen.styles.background, "#332211")
        assert "mine.toml" in b.app.events.events[-1].text
        shutil.rmtree(folder)
        b.app._reload_themes()
        await pilot.pause()
        assert b.app.is_running


def test_no_color_is_obeyed(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    b = bench(1, config=Config(), environ={"NO_COLOR": "1"})
    assert b.app.theme == "no-colour"
    chosen: Theme = b.app.current_theme
    assert chosen.ansi
