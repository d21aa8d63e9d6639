"""The command palette: every action of the screen that is shown, every page, every theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.screen import Screen

from truezram.app.appearance import Appearance

if TYPE_CHECKING:
    from textual.dom import DOMNode


def commands(app: Appearance, screen: Screen[Any]) -> Iterator[SystemCommand]:
    """Name, help and action of everything that can be done now."""
    seen: set[str] = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        if not active.enabled or not binding.id or binding.action in seen or binding.action == "command_palette":
            continue
        seen.add(binding.action)
        key = app.get_key_display(binding)
        yield SystemCommand(binding.description, f"key {key}", _runner(app, binding.action, active.node))
    for name, title in app.theme_titles().items():
        if name != app.theme:
            yield SystemCommand(f"Theme: {title}", f"use the theme {name}", _themer(app, name))


def _runner(app: Appearance, action: str, node: DOMNode) -> Callable[[], Any]:
    async def run() -> None:
        await app.run_action(action, default_namespace=node)

    return run


def _themer(app: Appearance, name: str) -> Callable[[], None]:
    return lambda: app.change_config(theme=name)
