"""Colour themes: TOML files of ours (``themes/``) and the user's (``$XDG_CONFIG_HOME/truezram/themes``), checked
before use.

A theme has ``title``, ``dark``, optionally ``extends`` (another theme's name) and ``ansi`` (colours are the
terminal's own 16), and the tables ``[colors]``, ``[graph]``, ``[map]``, ``[tier]`` and ``[text]``. Every key is known
and every colour parses; otherwise the file is reported and not used, and the app keeps the theme it had. Keys of
``[map]`` and ``[tier]`` are optional. A theme's name is its file's name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

from truezram.codec import KINDS
from truezram.engine.answers import AGES

BASE_KEYS = (
    "primary",
    "secondary",
    "accent",
    "foreground",
    "background",
    "surface",
    "panel",
    "success",
    "warning",
    "error",
)
GRAPH_KEYS = ("read", "write", "ratio", "p50", "p99", "cpu", "axis", "logical", "resident", "track")
MAP_KEYS = tuple(dict.fromkeys(KINDS))
"""The kinds of stored pages. A theme does not need a colour for each: see `_map_colours`."""
TIERS = {"hot": "write", "dense": "ratio", "cold": "read", "backing": "logical"}
"""Where idle pages go (`DeviceSnapshot.tiers`), and the graph colour of each in a theme that names none. Ages of pages
go from hot to cold."""
TIER_KEYS = tuple(TIERS)
OPTIONAL = ("map", "tier")
TEXT_KEYS = ("muted", "heading", "key", "cursor", "cursor_background")
TABLES = {"colors": BASE_KEYS, "graph": GRAPH_KEYS, "map": MAP_KEYS, "tier": TIER_KEYS, "text": TEXT_KEYS}
SCALARS = ("title", "dark", "extends", "ansi")
MAX_BYTES = 64 * 1024


class ThemeError(ValueError):
    """A theme file that cannot be used; the message gives the place and the reason."""


@dataclass(frozen=True)
class ThemeSpec:
    """A theme as read from its file, before it inherits anything."""

    name: str
    title: str
    path: Path
    dark: bool | None = None
    ansi: bool | None = None
    extends: str = ""
    colors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table → key → colour."""


@dataclass(frozen=True)
class ThemeSet:
    """All themes that could be read, and the problems with the others."""

    themes: Mapping[str, Theme]
    titles: Mapping[str, str]
    problems: tuple[str, ...] = ()
    stamp: tuple[tuple[str, int, int], ...] = ()
    """Names, times and sizes of the files: a different stamp means that something changed."""


def shipped_folder() -> Path:
    """The folder of our themes: inside the package when installed, at the top of a source tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "themes"
    return installed if installed.is_dir() else package.parent / "themes"


def user_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the user's themes are."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.config").expanduser()) / "truezram" / "themes"


def parse(name: str, text: str, path: Path) -> ThemeSpec:
    """Checks one theme file. Raises `ThemeError`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ThemeError(f"{path}: not TOML: {error}") from error
    colors: dict[str, dict[str, str]] = {}
    for key, value in data.items():
        if key in TABLES:
            if not isinstance(value, dict):
                raise ThemeError(f"{path}: {key} must be a table: [{key}]")
            colors[key] = {}
            for inner, color in value.items():
                if inner not in TABLES[key]:
                    raise ThemeError(f"{path}: [{key}] has no {inner!r}; it has {', '.join(TABLES[key])}")
                colors[key][inner] = _color(path, f"{key}.{inner}", color)
        elif key not in SCALARS:
            raise ThemeError(f"{path}: unknown key {key!r}; known are {', '.join((*SCALARS, *TABLES))}")
    for key in ("dark", "ansi"):
        if key in data and not isinstance(data[key], bool):
            raise ThemeError(f"{path}: {key} must be true or false")
    for key in ("title", "extends"):
        if key in data and not isinstance(data[key], str):
            raise ThemeError(f"{path}: {key} must be text")
    return ThemeSpec(
        name, data.get("title", name), path, data.get("dark"), data.get("ansi"), data.get("extends", ""), colors
    )


def _color(path: Path, where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ThemeError(f'{path}: {where} must be a colour such as "#7aa2f7"')
    try:
        Color.parse(value)
    except ColorParseError as error:
        raise ThemeError(f"{path}: {where}: {value!r} is not a colour; write it as #rrggbb or ansi_blue") from error
    return value


def resolve(spec: ThemeSpec, specs: Mapping[str, ThemeSpec]) -> Theme:
    """The Textual theme, with what it extends filled in. Raises `ThemeError` when keys are missing or it extends
    itself."""
    chain = [spec]
    while chain[-1].extends:
        parent = specs.get(chain[-1].extends)
        if parent is None:
            raise ThemeError(f"{chain[-1].path}: extends {chain[-1].extends!r}, which is not there")
        if parent in chain:
            raise ThemeError(f"{spec.path}: extends itself through {parent.name!r}")
        chain.append(parent)
    colors: dict[str, dict[str, str]] = {table: {} for table in TABLES}
    dark, ansi = True, False
    for part in reversed(chain):
        for table, values in part.colors.items():
            colors[table].update(values)
        dark = dark if part.dark is None else part.dark
        ansi = ansi if part.ansi is None else part.ansi
    needed = {table: keys for table, keys in TABLES.items() if table not in OPTIONAL}
    missing = [f"{table}.{key}" for table, keys in needed.items() for key in keys if key not in colors[table]]
    if missing:
        raise ThemeError(f'{spec.path}: {", ".join(missing)} missing; add them, or start with extends = "dark"')
    base: dict[str, Any] = dict(colors["colors"])
    return Theme(name=spec.name, dark=dark, ansi=ansi, variables=_variables(colors, ansi), **base)


CYCLE = ("read", "ratio", "write", "cpu", "p50", "p99", "logical", "resident")
"""The graph colours used for kinds of pages that a theme does not name."""


def _map_colours(colors: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A colour for every kind of page, so that a new codec is visible in older themes."""
    graph = colors["graph"]
    others = {key: graph[CYCLE[place % len(CYCLE)]] for place, key in enumerate(MAP_KEYS)}
    return {**others, "empty": graph["axis"], **colors["map"]}


def _tier_colours(colors: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Of the graphs' colours where a theme names none."""
    return {**{key: colors["graph"][graph] for key, graph in TIERS.items()}, **colors["tier"]}


def _age_colours(tiers: Mapping[str, str], ansi: bool) -> dict[str, str]:
    """From hot to cold, by way of dense; a terminal's own colours cannot be mixed."""
    stops = [tiers[key] for key in ("hot", "dense", "cold")]
    out = {}
    for age in range(AGES):
        place = age / (AGES - 1) * (len(stops) - 1)
        at = min(int(place), len(stops) - 2)
        mixed = None if ansi else Color.parse(stops[at]).blend(Color.parse(stops[at + 1]), place - at)
        out[str(age)] = stops[round(place)] if mixed is None else mixed.hex
    return out


def _variables(colors: Mapping[str, Mapping[str, str]], ansi: bool) -> dict[str, str]:
    base, text = colors["colors"], colors["text"]
    out = {f"graph-{key}": value for key, value in colors["graph"].items()}
    out |= {f"map-{key.replace('_', '-')}": value for key, value in _map_colours(colors).items()}
    tiers = _tier_colours(colors)
    out |= {f"tier-{key}": value for key, value in tiers.items()}
    out |= {f"age-{key}": value for key, value in _age_colours(tiers, ansi).items()}
    out |= {
        "muted": text["muted"],
        "heading": text["heading"],
        "key": text["key"],
        "row-cursor": text["cursor"],
        "row-cursor-background": text["cursor_background"],
        # Textual derives these by mixing; what we checked for contrast is what must be shown.
        "block-cursor-foreground": text["cursor"],
        "block-cursor-background": text["cursor_background"],
        "block-cursor-blurred-foreground": base["foreground"],
        "block-cursor-blurred-background": base["panel"],
        "button-color-foreground": text["cursor"],
        "text-muted": text["muted"],
        "text-error": base["error"],
        "text-warning": base["warning"],
        "text-success": base["success"],
        "border": base["primary"],
        "border-blurred": text["muted"],
        "scrollbar": text["muted"],
        "scrollbar-hover": base["primary"],
        "scrollbar-active": base["primary"],
        "scrollbar-background": base["surface"],
        "scrollbar-background-hover": base["surface"],
        "scrollbar-background-active": base["surface"],
        "scrollbar-corner-color": base["surface"],
        "input-selection-background": text["cursor_background"],
        "input-selection-foreground": text["cursor"],
    }
    # Without colours, the cursor is shown in reverse. The terminal's own colours are not made bold:
    # the Linux console shows bold as bright, and bright black on white can hardly be read.
    style = "reverse" if text["cursor"] == text["cursor_background"] else "none" if ansi else "bold"
    focus = "reverse" if ansi else "bold reverse"
    out |= {"row-cursor-style": style, "block-cursor-text-style": style, "button-focus-text-style": focus}
    if ansi:
        out |= {"input-cursor-text-style": "reverse", "ansi-background": "ansi_black", "ansi-foreground": "ansi_white"}
    return out


DEFAULT_VARIABLES = {
    **{f"graph-{key}": "ansi_default" for key in GRAPH_KEYS},
    **{f"map-{key.replace('_', '-')}": "ansi_default" for key in MAP_KEYS},
    **{f"tier-{key}": "ansi_default" for key in TIER_KEYS},
    **{f"age-{age}": "ansi_default" for age in range(AGES)},
    "muted": "ansi_default",
    "heading": "ansi_default",
    "key": "ansi_default",
    "row-cursor": "ansi_black",
    "row-cursor-background": "ansi_white",
    "row-cursor-style": "bold",
}
"""A valid value for every variable in app.tcss, for themes other than ours (Textual's own, at start-up)."""


def _files(folders: tuple[Path, ...]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        try:
            found += sorted(path for path in folder.iterdir() if path.suffix == ".toml")
        except OSError:
            continue  # no such folder: no user themes
    return found


def stamp(folders: tuple[Path, ...]) -> tuple[tuple[str, int, int], ...]:
    """The files and when they changed; cheap enough to check every two seconds."""
    out = []
    for path in _files(folders):
        try:
            status = path.stat()
        except OSError:
            continue  # deleted after it was listed: noticed next time
        out.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(out)


def load(folders: tuple[Path, ...]) -> ThemeSet:
    """Reads all themes; one in a later folder replaces one of the same name in an earlier. Bad files are reported."""
    seen = stamp(folders)
    specs: dict[str, ThemeSpec] = {}
    problems: list[str] = []
    for path in _files(folders):
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ThemeError(f"{path}: larger than {MAX_BYTES // 1024} KiB: not a theme")
            specs[path.stem] = parse(path.stem, path.read_text(encoding="utf-8"), path)
        except ThemeError as error:
            problems.append(str(error))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
    themes: dict[str, Theme] = {}
    for name, spec in specs.items():
        try:
            themes[name] = resolve(spec, specs)
        except ThemeError as error:
            problems.append(str(error))
    return ThemeSet(themes, {name: specs[name].title for name in themes}, tuple(problems), seen)
