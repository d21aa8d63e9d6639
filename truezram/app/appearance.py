"""How the app looks: themes and their live reload, plain ASCII if the terminal needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textual.app import App
from textual.filter import LineFilter, Monochrome, NoColor
from textual.theme import Theme

from truezram.app import glyphs, theme
from truezram.app.backend.protocol import Engine
from truezram.app.core import Core


class Appearance(Core):
    """The core with the user's theme."""

    def __init__(
        self,
        engine: Engine,
        *,
        environ: Mapping[str, str] = os.environ,
        theme_folders: tuple[Path, ...] | None = None,
        **options: Any,
    ) -> None:
        """`theme_folders`: where themes are looked for, the last one first. Else as `Core`."""
        self.no_colour = "NO_COLOR" in environ
        self._ascii = glyphs.AsciiFilter()
        self._themes = theme.ThemeSet({}, {})
        super().__init__(engine, environ=environ, **options)
        self._theme_folders = theme_folders or (theme.shipped_folder(), theme.user_folder(environ))
        self._load_themes(start=True)

    def on_mount(self) -> None:
        """Looks for changed themes from now on."""
        if self._read:
            self.set_interval(2.0, self._reload_themes)

    def get_line_filters(self) -> list[LineFilter]:
        """Plain ASCII if the terminal needs it; no colours with NO_COLOR."""
        filters = list(super().get_line_filters())
        if self.no_colour and self.current_theme.ansi:
            # Textual chose its filter before our theme was set, and that one makes the terminal's own colours black.
            filters = [NoColor() if isinstance(found, Monochrome) else found for found in filters]
        if self.view.glyphs == "ascii":
            filters.append(self._ascii)
        return filters

    def get_theme(self, theme_name: str) -> Theme | None:
        """A theme by name. Textual asks at every line it draws, and would merge all themes each time."""
        return self._themes.themes.get(theme_name) or super().get_theme(theme_name)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Values for our own variables, for the time before our themes are loaded."""
        return theme.DEFAULT_VARIABLES

    def pick_theme(self) -> str:
        """The theme to use: the user's choice, else what suits the terminal."""
        wanted = self.config.theme
        if not wanted:
            colours = self.console.color_system
            wanted = "no-colour" if self.no_colour else "ansi" if colours == "standard" else "dark"
        if wanted not in self._themes.themes:
            self._problems.append(f"unknown theme {wanted!r}")
            wanted = "dark" if "dark" in self._themes.themes else "textual-dark"
        return wanted

    def change_config(self, **changes: Any) -> None:
        """As `Core.change_config`; also applies the theme."""
        super().change_config(**changes)
        if "theme" in changes:
            self.theme = self.pick_theme()

    def theme_titles(self) -> dict[str, str]:
        """Name → title of the themes that can be used."""
        return dict(self._themes.titles)

    def _load_themes(self, start: bool = False) -> None:
        self._themes = theme.load(self._theme_folders)
        for found in self._themes.themes.values():
            self.register_theme(found)
        if start:
            self._problems += self._themes.problems
            # Set before the style sheet is parsed for the first time: a change afterwards would parse it all again.
            self.set_reactive(App.theme, self.pick_theme())
            self.stylesheet.set_variables(self.get_css_variables())
            self._refresh_truecolor_filter(self.ansi_theme)

    def _reload_themes(self) -> None:
        """Live reload: takes in what changed in the theme folders."""
        if theme.stamp(self._theme_folders) == self._themes.stamp:
            return
        before = self._themes
        self._load_themes()
        for problem in self._themes.problems:
            if problem not in before.problems:
                self.report("warning", problem)
        current = self.theme
        if current in self._themes.themes and before.themes.get(current) != self._themes.themes[current]:
            self._invalidate_css()
            self.call_next(self.refresh_css, animate=False)
            self.report("info", f"theme {current} reloaded")
