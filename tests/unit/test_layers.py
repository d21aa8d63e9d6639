"""Who may import whom: nothing below the app knows Textual or the app, a verb does not pay for them, and no imports go
in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


HELD = "truezram.app"
"""Modules from here down must not import one another in a circle; "truezram" will hold the whole package to it."""


def name_of(path: Path) -> str:
    """The module's name, of ``__init__.py`` the package's."""
    parts = ["truezram", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, set[str]]:
    """Module → the modules below `HELD` that it imports anywhere: in functions and under TYPE_CHECKING, too."""
    files = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    held = {name for name in files if f"{name}.".startswith(f"{HELD}.")}
    return {name: (imported(files[name]) & held) - {name} for name in held}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach one another, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            if len(stack) - place > 1:
                found.append(sorted(stack[place:]))
            del stack[place:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_imports_go_in_a_circle() -> None:
    graph = modules()
    assert len(graph) > 40
    assert circles(graph) == []


def test_circles_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the imports are written."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from truezram.app import b\n"
    )
    (folder / "b.py").write_text("def f():\n    import truezram.app.c\n")
    (folder / "c.py").write_text("from truezram.engine.units import PAGE\n")
    assert circles(modules()) == []
    (folder / "c.py").write_text("from truezram.app.a import A\n")
    assert circles(modules()) == [["truezram.app.a", "truezram.app.b", "truezram.app.c"]]


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
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
