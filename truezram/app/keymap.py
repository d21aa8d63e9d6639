"""Keys that the user chose for actions: the actions that exist, and conflicts with other keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from textual.binding import Binding

WIDGETS = {"table", "list", "map"}
"""Scopes (the part of an action's name before the dot) of focusable widgets; only one of them has the focus."""

Bindings = Mapping[str, tuple[str, str]]
"""Action's name → (the program's own keys, what it does)."""


def bindings_of(owners: Iterable[type]) -> dict[str, tuple[str, str]]:
    """All actions of these screens and widgets whose key can be changed."""
    found: dict[str, tuple[str, str]] = {}
    for owner in owners:
        for binding in getattr(owner, "BINDINGS", ()):
            if isinstance(binding, Binding) and binding.id:
                found[binding.id] = (binding.key, binding.description)
    return found


def _keys(text: str) -> set[str]:
    """The names of keys in `text`: "c,?" → c, question_mark."""
    return {binding.key for binding in Binding.make_bindings([Binding(text, "")])}


def _meet(one: str, other: str) -> bool:
    """Whether actions of these scopes can be available at the same time."""
    if one == other or "app" in (one, other):
        return True
    return (one in WIDGETS) != (other in WIDGETS)


def holders(bindings: Bindings, own: Mapping[str, str], action: str, keys: str) -> Iterator[str]:
    """Names of the actions that already have one of `keys`, in the scope of `action`. Keys that the defaults share on
    purpose are left out."""
    wanted, before = _keys(keys), _keys(bindings[action][0])
    scope = action.partition(".")[0]
    for name, (default, _) in bindings.items():
        if name == action or not _meet(scope, name.partition(".")[0]):
            continue
        shared = wanted & _keys(own.get(name, default))
        if shared - (before & _keys(default)):
            yield name


def problems(bindings: Bindings, dialogs: set[str], own: Mapping[str, str]) -> Iterator[str]:
    """Problems with the user's keys `own`. `dialogs`: actions that `bindings` leaves out."""
    reported: set[frozenset[str]] = set()
    for action, keys in own.items():
        if action not in bindings:
            if action not in dialogs:
                yield f'[keys] in config.toml: no action is called "{action}"; Settings lists their names'
            continue
        for holder in holders(bindings, own, action, keys):
            pair = frozenset((action, holder))
            if pair not in reported:
                reported.add(pair)
                yield (
                    f'[keys] in config.toml: "{keys}" for {action} is also a key of {holder} ({bindings[holder][1]});'
                    " give one of them another"
                )
