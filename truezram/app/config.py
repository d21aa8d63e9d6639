"""The user's settings: ``$XDG_CONFIG_HOME/truezram/config.toml``, read at the start, written by the settings screen.

A file that cannot be used is reported and left alone; the app then runs on defaults and does not overwrite it until the
user saves settings.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import tomli_w

from truezram.app.columns import BY_KEY
from truezram.app.glyphs import GLYPH_SETS

REMOTE_REFRESH = 0.5
"""Seconds: at most two redraws a second over ssh or in tmux."""


@dataclass(frozen=True)
class Config:
    """All settings; the defaults are the program's."""

    theme: str = ""
    """Empty: dark, or no-colour when NO_COLOR is set, or ansi where the terminal has 16 colours."""
    glyphs: str = "auto"
    units: str = "bytes"
    """What throughput is shown in: "bytes" or "pages" a second."""
    refresh: float = 0.0
    """Seconds between refreshes; 0 chooses 0.25, and 0.5 over ssh and in tmux."""
    columns: tuple[str, ...] = ()
    """Columns of the device table; none: as many as fit."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Binding id → keys, comma-separated; the help screen shows the ids."""


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the settings and the user's themes are."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.config").expanduser()) / "truezram"


def _check(data: Mapping[str, object]) -> Config:
    known = {f.name for f in fields(Config)}
    for key in data:
        if key not in known:
            raise ValueError(f"unknown setting {key!r}; known are {', '.join(sorted(known))}")
    config = Config()
    theme = data.get("theme", "")
    if not isinstance(theme, str):
        raise ValueError("theme must be text")
    glyphs = data.get("glyphs", "auto")
    if glyphs not in ("auto", *GLYPH_SETS):
        raise ValueError(f"glyphs must be one of auto, {', '.join(GLYPH_SETS)}")
    units = data.get("units", "bytes")
    if units not in ("bytes", "pages"):
        raise ValueError("units must be bytes or pages")
    refresh = data.get("refresh", 0.0)
    if isinstance(refresh, bool) or not isinstance(refresh, int | float) or not (refresh == 0 or 0.1 <= refresh <= 60):
        raise ValueError("refresh must be a number of seconds from 0.1 to 60, or 0 to choose by itself")
    columns = data.get("columns", [])
    if not isinstance(columns, list) or any(not isinstance(c, str) or c not in BY_KEY for c in columns):
        raise ValueError(f"columns must be a list of {', '.join(BY_KEY)}")
    keys = data.get("keys", {})
    if not isinstance(keys, dict) or any(not isinstance(value, str) or not value for value in keys.values()):
        raise ValueError('[keys] must hold lines such as "app.create" = "c,insert"')
    return replace(
        config,
        theme=theme,
        glyphs=str(glyphs),
        units=str(units),
        refresh=float(refresh),
        columns=tuple(columns),
        keys=keys,
    )


def load(path: Path) -> tuple[Config, str]:
    """The settings, and what is wrong with the file (empty when nothing is, or there is none)."""
    try:
        return _check(tomllib.loads(path.read_text(encoding="utf-8"))), ""
    except FileNotFoundError:
        return Config(), ""
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        return Config(), f"{path}: {error}; running on defaults"
    except OSError as error:
        return Config(), f"{path}: {error.strerror}; running on defaults"


def save(path: Path, config: Config) -> None:
    """Writes the settings that differ from the defaults; whole or not at all. Raises `OSError`."""
    default = Config()
    data: dict[str, object] = {}
    for f in fields(Config):
        value = getattr(config, f.name)
        if value != getattr(default, f.name):
            data[f.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(tomli_w.dumps(data), encoding="utf-8")
    temporary.replace(path)


def refresh_interval(config: Config, environ: Mapping[str, str]) -> float:
    """Seconds between refreshes, slower where every redraw goes over a line."""
    remote = bool(environ.get("SSH_CONNECTION") or environ.get("SSH_TTY") or environ.get("TMUX") or environ.get("STY"))
    chosen = config.refresh or 0.25
    return max(chosen, REMOTE_REFRESH) if remote else chosen
