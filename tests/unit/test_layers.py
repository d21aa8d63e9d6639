"""Who may import whom: nothing below the app knows Textual or the app, and a verb does not pay for them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG

import truezram

PACKAGE = Path(__file__).parents[2] / "truezram"
FORBIDDEN = ("textual", "textual_plotext", "plotext", "rich", "truezram.app")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it; relative ones made absolute."""
    package = ["truezram", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def forbidden(path: Path) -> list[str]:
    return [name for name in imported(path) if any(name == bad or name.startswith(bad + ".") for bad in FORBIDDEN)]


def test_engine_never_imports_the_app_or_textual() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "app"]
    assert len(files) > 20
    bad = {str(path.relative_to(PACKAGE)): forbidden(path) for path in files}
    # The command line loads the app by name, when it will be shown; see the test of a run below.
    assert {name: names for name, names in bad.items() if names} == {}


def test_the_rule_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to write such an import is found."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "engine").mkdir()
    path = tmp_path / "engine" / "verb.py"
    for line in (
        "import textual.app",
        "from textual import on",
        "def f():\n    from rich.text import Text",
        "from truezram.app import app",
        "from truezram import app",
        "from .. import app",
        "from ..app.theme import load",
    ):
        path.write_text(line)
        assert forbidden(path), line
    path.write_text("import textwrap\nfrom .units import parse_size\nfrom truezram.engine import app_config")
    assert forbidden(path) == []


@pytest.mark.parametrize("words", [["--help"], ["list"], ["stat", "--help"], ["create", "--size", "0"]])
def test_a_verb_loads_neither(words: list[str]) -> None:
    """What is true of the source is true of a run, third-party modules included."""
    code = (
        "import sys\nfrom truezram.engine.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"forbidden = {FORBIDDEN!r}\n"
        "below = tuple(name + '.' for name in forbidden)\n"
        "bad = [name for name in sys.modules if name in forbidden or name.startswith(below)]\n"
        "sys.exit(repr(bad) if bad else 0)\n"
    )
    folder = Path(truezram.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr
