"""Converts answers in recordings made by earlier versions to the current form of the engine's values.

Nothing is guessed or silently dropped: a field was renamed, can be computed from others, or was never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from truezram.app.backend.recording import Answer, Recording

Object = dict[str, Any]


def _renamed(old: str, new: str) -> Callable[[Object], Object]:
    return lambda data: {new if key == old else key: value for key, value in data.items()}


def _group(data: Object) -> Object:
    """Only the ratio, its interval and the gain were recorded; the resident sizes are computed from them."""
    if "algorithms" not in data:
        return data
    memory = data["bytes"]
    made = []
    for item in data["algorithms"]:
        gained = item.get("gained", 0)
        made.append(
            {
                "compression_ratio": None,  # not recorded
                "resident": memory - gained,
                "resident_low": round(memory / item["ratio_high"]),
                "resident_high": round(memory / item["ratio_low"]),
                "gained": gained,
                "incompressible": 0.0,
                **item,
            }
        )
    return {**data, "algorithms": made}


def _estimate(data: Object) -> Object:
    processes = [_group(item) for item in data.get("processes", ())]
    return {**data, "total": _group(data["total"]), **({"processes": processes} if processes else {})}


def _each(one: Callable[[Object], Object]) -> Callable[[list[Object]], list[Object]]:
    return lambda data: [one(item) for item in data]


UPGRADES: dict[str, Callable[[Any], Any]] = {
    "doctor": _each(_renamed("status", "state")),
    "estimate": _estimate,
    "page_map": _renamed("first_page", "first"),
}
"""Call → converter of its answer; an answer in the current form is returned as it is."""


def upgraded(recording: Recording) -> Recording:
    """The recording in the current form. A malformed answer is left as it is: decoding it reports the error."""

    def answer(old: Answer) -> Answer:
        upgrade = UPGRADES.get(old.call)
        if upgrade is None:
            return old
        try:
            return replace(old, result=upgrade(old.result))
        except (KeyError, TypeError, AttributeError, ZeroDivisionError):
            return old

    return replace(recording, answers=tuple(map(answer, recording.answers)))
