"""ruff and strict mypy over all Python of the repository, with the settings in pyproject.toml."""

from __future__ import annotations

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


# Folders apart: tests are no packages, and each folder has a conftest.py.
@pytest.mark.parametrize("where", [(), ("tests/device",)], ids=["truezram", "tests-device"])
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
