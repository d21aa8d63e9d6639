"""docs/troubleshooting.md quotes what the program says: each message there is one that the sources have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from truezram.cli.reference import EXIT_CODES
from truezram.engine.model import DeviceSnapshot, QueueSnapshot

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
KERNEL = ("Write-error on swap-device",)
"""Messages that are not the program's."""
_GAP = "\0"
"""Stands for what differs from one message to the next."""


def messages(page: str) -> list[str]:
    """What the page quotes: what is in backticks and has more than one word, in the first column of its tables."""
    cells = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    quoted = (text for cell in cells for text in re.findall(r"`([^`]+)`", cell))
    return [text for text in quoted if " " in text and not text.startswith("truezram ") and text not in KERNEL]


def sources() -> str:
    """All texts in the code: those of Python, with gaps for values, and those of C, with gaps for conversions."""
    found = []
    for path in (ROOT / "truezram").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else _GAP for part in node.values)
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for path in (ROOT / "truezram" / "native").rglob("*.c"):
        literals = re.sub(r'"\s*(?:PRI\w+|[A-Z_]+)?\s*"', "", path.read_text())
        literals = re.sub(r"%[-.\d*]*(?:ll|l|z)?[sdufxc%]?", _GAP, literals)
        found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', literals)
    return "\n".join(found)


TEXT = sources()


@pytest.mark.parametrize("message", messages(PAGE))
def test_the_program_says_so(message: str) -> None:
    """Word for word, with something else where the page has ``…``."""
    # A text put together of several is found by its parts.
    parts = [part.strip() for part in re.split(r"…", message) if part.strip(" ().")]
    assert parts
    for part in parts:
        assert re.search(rf"(?<!\w){re.escape(part)}(?!\w)", TEXT), part


def test_messages_are_found() -> None:
    assert messages("| `a b` or `c … d` | `e f` |\n|---|---|\n| `one` | x |\n| `truezram list` | y |\n") == [
        "a b",
        "c … d",
    ]
    assert len(messages(PAGE)) >= 25
    assert "only root may make one" in TEXT


def test_exit_codes_are_all_there() -> None:
    table = PAGE.partition("## Exit codes")[2].partition("##")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [code for code, _ in EXIT_CODES]


def test_every_field_is_real() -> None:
    """The fields of `stat` that the page sends its reader to."""
    known = {*DeviceSnapshot.__dataclass_fields__, *QueueSnapshot.__dataclass_fields__, "ratio"}
    quoted = re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)
    assert len(quoted) > 5
    assert {word for word in quoted if word not in known} == set()
