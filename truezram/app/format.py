"""Short forms of figures for places with little room (everywhere else truezram.engine.units is used), and words."""

from __future__ import annotations

from truezram.engine.units import format_duration, format_size


def short_size(size: float) -> str:
    """Three digits and a unit, at most five characters: ``954M``, ``1.25G``, ``12.3G``, ``1023M``; ``-`` for NaN."""
    if size != size:
        return "-"
    if size < 1024:
        return f"{size:.0f}B" if size >= 0 else format_size(size)
    for unit in "KMGTP":
        size /= 1024
        if size < 1023.5 or unit == "P":
            digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
            return f"{size:.0f}{unit}" if size == int(size) else f"{size:.{digits}f}{unit}"
    raise AssertionError


def short_rate(rate: float) -> str:
    """As `short_size`; ``0`` below one byte a second."""
    return "0" if rate < 1 else short_size(rate)


def short_ns(ns: float) -> str:
    """Two or three digits: ``64ns``, ``1.2µs``, ``12µs``, ``3.4ms``, ``1.5s``; ``-`` for NaN."""
    if ns != ns:
        return "-"
    for unit in ("ns", "µs", "ms"):
        if ns < 999.5:
            return f"{ns:.0f}{unit}" if unit == "ns" or ns >= 9.95 else f"{ns:.1f}{unit}"
        ns /= 1000
    return f"{ns:.1f}s" if ns < 9.95 else f"{ns:.0f}s"


def elapsed(seconds: float) -> str:
    """How long something has lasted, at most four characters: ``0:03``, ``9:59``, ``12m``, ``3h``, ``5d``."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02}" if whole < 600 else format_duration(whole).split()[0]


def decade(ns: float) -> str:
    """A power of ten of nanoseconds: ``1µs``, ``100µs``, ``10ms``."""
    return short_ns(ns).replace(".0", "")


def capitalized(text: str) -> str:
    """The text with a capital where it begins, and the rest as it is."""
    return text[:1].upper() + text[1:]
