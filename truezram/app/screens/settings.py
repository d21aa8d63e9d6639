"""Settings of the app: theme, glyphs, units, refresh, and the key map. Kept in config.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, Select, Static

from truezram.app import keymap
from truezram.app.appearance import Appearance
from truezram.app.config import refresh_interval
from truezram.app.glyphs import GLYPH_SETS
from truezram.app.screens.page import Page, owners
from truezram.app.widgets.grid import Grid, Head, Item

REFRESH = (("automatic", 0.0), ("0.25 s", 0.25), ("0.5 s", 0.5), ("1 s", 1.0), ("2 s", 2.0), ("5 s", 5.0))


class KeyScreen(ModalScreen[str | None]):
    """Waits for a key. Returns its name, or None for Escape."""

    def __init__(self, what: str, held_by: Callable[[str], str]) -> None:
        """`what`: the action's description. `held_by`: the description of the action that has a key already, or ""."""
        super().__init__()
        self.what = what
        self.held_by = held_by

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(id="dialog"):
            yield Label(f"Press the new key for: {self.what}", id="heading")
            yield Static("Escape cancels.", id="answer", markup=False)

    def on_key(self, event: events.Key) -> None:
        """The answer."""
        event.stop()
        event.prevent_default()
        key = None if event.key == "escape" else event.key
        holder = self.held_by(key) if key else ""
        if holder:
            self.query_one("#answer", Static).update(
                f"{key} is already used for: {holder}. Press another key, or Escape."
            )
        else:
            self.dismiss(key)


class SettingsPage(Page):
    """Changes take effect immediately and are saved."""

    MODE = "settings"
    TITLE_TEXT = "Settings"
    GUIDE = (
        "Changes take effect immediately and are saved in config.toml. Themes are TOML files: put yours into "
        "the folder themes next to it; they appear here as soon as they are saved. Glyphs auto: braille if "
        "the terminal can show it, otherwise ASCII. Keys: press Enter on an action, then its new key; r "
        "restores the default."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "rebind", "Change key", key_display="Enter", id="settings.key"),
        Binding("r", "reset_key", "Default key", id="settings.reset"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="settings.back"),
    ]

    @property
    def tz(self) -> Appearance:
        """The app, with its themes."""
        return cast(Appearance, self.app)

    def bindings(self) -> keymap.Bindings:
        """All actions whose key can be changed."""
        return keymap.bindings_of((type(self.app), *owners()))

    def content(self) -> ComposeResult:
        """Choices, then the key map."""
        app = self.tz
        config = app.config
        themes = [("automatic", "")] + [(title, name) for name, title in app.theme_titles().items()]
        with Vertical(id="choices"):
            for label, name, options, value in (
                ("Theme", "theme", themes, config.theme if config.theme in app.theme_titles() else ""),
                ("Glyphs", "glyphs", [(g, g) for g in ("auto", *GLYPH_SETS)], config.glyphs),
                ("Throughput", "units", [("bytes per second", "bytes"), ("pages per second", "pages")], config.units),
                ("Refresh", "refresh", list(REFRESH), self._known(config.refresh)),
            ):
                with Horizontal(classes="field"):
                    yield Label(label)
                    yield Select(options, value=value, allow_blank=False, id=name, compact=True)
                    yield Static(id=f"{name}-note", classes="note")
        yield Grid(
            [
                Head("KEY", 20, left=True),
                Head("DOES", 16, left=True, grow=True, most=40),
                Head("NAME IN config.toml", 22, left=True, rank=1),
            ],
            id="keys",
        )

    @staticmethod
    def _known(refresh: float) -> float:
        return refresh if refresh in [value for _, value in REFRESH] else 0.0

    def tick(self, sampled: bool) -> None:
        """Only changed settings are redrawn."""
        if sampled:
            self._show()

    def _show(self) -> None:
        app = self.tz
        where = app.config_path or "not saved: no settings file"
        self._note("theme", str(where))
        self._note("glyphs", f"in use: {app.view.glyphs}")
        seconds = refresh_interval(app.config, app.environ)
        slower = ", slower over ssh and in tmux" if seconds != (app.config.refresh or 0.25) else ""
        self._note("refresh", f"in use: {seconds:g} s{slower}")
        self.query_one("#keys", Grid).show(self._keys())

    def _note(self, name: str, text: str) -> None:
        note = self.query_one(f"#{name}-note", Static)
        if str(note.content) != text:
            note.update(text)

    def _keys(self) -> list[Item]:
        config = self.tz.config
        items = []
        for name, (keys, what) in self.bindings().items():
            own = name in config.keys
            items.append(Item(name, (config.keys.get(name, keys), what, name), "warn" if own else ""))
        return items

    @on(Select.Changed)
    def _changed(self, event: Select.Changed) -> None:
        name = event.select.id or ""
        if name and getattr(self.tz.config, name) != event.value and self.is_current:
            self.tz.change_config(**{name: event.value})
            self._show()

    @on(Grid.Chosen, "#keys")
    def action_rebind(self) -> None:
        """Changes the key of the action under the cursor."""
        name = self.query_one("#keys", Grid).cursor
        bindings = self.bindings()

        def held_by(key: str) -> str:
            return next((bindings[other][1] for other in keymap.holders(bindings, self.tz.config.keys, name, key)), "")

        def pressed(key: str | None) -> None:
            if key is not None:
                self.tz.change_config(keys={**self.tz.config.keys, name: key})
                self._show()

        self.app.push_screen(KeyScreen(bindings[name][1], held_by), pressed)

    def action_reset_key(self) -> None:
        """Restores the default key of the action under the cursor."""
        keys = dict(self.tz.config.keys)
        if keys.pop(self.query_one("#keys", Grid).cursor, None) is not None:
            self.tz.change_config(keys=keys)
            self._show()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Reset only for a changed key."""
        if action == "rebind":
            return self.is_mounted and self.query_one("#keys", Grid).has_focus
        if action == "reset_key":
            return self.is_mounted and self.query_one("#keys", Grid).cursor in self.tz.config.keys
        return True
