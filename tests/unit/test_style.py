"""ruff and strict mypy over all Python of the repository, with the settings in pyproject.toml; the width of C and of
prose."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(*command: str) -> None:
    """Runs a checker; fails with what it said."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}", pytrace=False)


def test_ruff() -> None:
    check("ruff", "check", ".")


# One folder at a time: tests are not packages, and each folder has a conftest.py.
@pytest.mark.parametrize("where", [(), ("tests/device",), ("examples",)], ids=["truezram", "tests-device", "examples"])
def test_mypy(where: tuple[str, ...]) -> None:
    check("mypy", *where)


def test_files_stay_readable() -> None:
    """No C file over 1,200 lines, no Python file over 600."""
    folders = ("truezram", "tests")
    files = [path for folder in folders for end in ("c", "h", "py") for path in (ROOT / folder).rglob(f"*.{end}")]
    assert len(files) > 40
    limits = {".py": 600, ".c": 1200, ".h": 1200}
    lengths = {path: len(path.read_text().splitlines()) for path in files}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > limits[path.suffix]} == {}


C_COLUMNS = 100
C_ROOMS = ("truezram/native", "tests/native", "tests/device")
PROSE_COLUMNS = 120
PROSE = ("README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def wide_lines(text: str, columns: int) -> list[int]:
    """Numbers of the lines that are wider, a tab reaching to the next multiple of 8."""
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line.expandtabs(8)) > columns]


def prose(text: str) -> str:
    """Markdown with the lines of tables and of code blanked: a table cannot be wrapped, nor can a command."""
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(\|| {4}).*$", "", text, flags=re.MULTILINE)


def test_c_is_narrow() -> None:
    files = [path for room in C_ROOMS for end in ("c", "h", "cdef") for path in (ROOT / room).rglob(f"*.{end}")]
    assert len(files) > 80
    wide = {str(path.relative_to(ROOT)): wide_lines(path.read_text(), C_COLUMNS) for path in files}
    assert {name: lines for name, lines in wide.items() if lines} == {}


@pytest.mark.parametrize("name", PROSE)
def test_prose_is_wrapped(name: str) -> None:
    assert wide_lines(prose((ROOT / name).read_text()), PROSE_COLUMNS) == []


def test_widths_are_measured() -> None:
    assert wide_lines("x" * 100 + "\n" + "x" * 101, 100) == [2]
    assert wide_lines("\t\tx\nx\ty", 16) == [1]
    text = "ab\n```\n" + "c" * 9 + "\n```\n| table |\n    code code\n" + "d" * 9
    assert wide_lines(prose(text), 8) == [7]
