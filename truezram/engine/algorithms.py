"""The algorithms a device can have, as the C library's table has them (codec.h), and the check of what a user asks
for."""

from __future__ import annotations

from functools import cache

from truezram._native import ffi, lib
from truezram.codec import ISAS
from truezram.codec import default_algorithm as default_algorithm
from truezram.engine.answers import Algorithm as Algorithm
from truezram.engine.errors import Unsupported, UsageError


@cache
def algorithms() -> tuple[Algorithm, ...]:
    """All of them, in the library's order."""
    table = lib.tz_codecs()
    found = []
    index = 0
    while table[index] != ffi.NULL:
        codec = table[index]
        why = ffi.new("const char **")
        usable = codec.workspace_size(codec.level_default, why)
        reason = "" if usable else ffi.string(why[0]).decode() if why[0] != ffi.NULL else "it has no workspace"
        found.append(
            Algorithm(
                name=ffi.string(codec.name).decode(),
                isa=ISAS[codec.isa],
                level_min=codec.level_min,
                level_max=codec.level_max,
                level_default=codec.level_default,
                unavailable=reason,
                summary=ffi.string(codec.summary).decode(),
            )
        )
        index += 1
    return tuple(found)


def parse_algorithm(text: str) -> tuple[Algorithm, int]:
    """(algorithm, level) from ``NAME[:LEVEL]``.

    Raises `UsageError` for an unknown name and a level that is not a number or out of range, `Unsupported` for an
    algorithm whose library this machine lacks.
    """
    bad = f"invalid algorithm {text[:40]!r}"
    name, colon, level_text = text.strip().partition(":")
    known = {algorithm.name: algorithm for algorithm in algorithms()}
    algorithm = known.get(name)
    if algorithm is None:
        raise UsageError(
            bad, f"unknown algorithm {name!r}" if name else "it has no name", f"Choose one of {', '.join(known)}"
        )
    if not colon:
        level = algorithm.level_default
    elif not algorithm.has_levels:
        raise UsageError(bad, f"{name} has no levels", f"Write {name} alone")
    else:
        bounds = f"Levels of {name} are {algorithm.level_min} to {algorithm.level_max}"
        try:
            level = int(level_text) if level_text.isascii() and "_" not in level_text else int("x")
        except ValueError:
            raise UsageError(bad, f"{level_text[:20]!r} is not a whole number", bounds) from None
        if not algorithm.level_min <= level <= algorithm.level_max:
            raise UsageError(bad, f"level {level} is out of range", bounds)
    if algorithm.unavailable:
        raise Unsupported(f"cannot use {name}", algorithm.unavailable, _REMEDIES.get(name, "Choose another algorithm"))
    return algorithm, level


_REMEDIES = {"zstd": "Install libzstd (Debian: apt install libzstd1; Fedora: dnf install libzstd), or use lz4"}


def canonical(text: str) -> str:
    """``NAME[:LEVEL]`` as the server takes it: checked, without blanks."""
    algorithm, level = parse_algorithm(text)
    return f"{algorithm.name}:{level}" if ":" in text else algorithm.name
