"""Who may import whom: rooms are in order, in Python and in C, nothing points back, and there are no circles. Nothing
below the app knows Textual or the app, and no verb loads them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG

import truezram

PACKAGE = Path(__file__).parents[2] / "truezram"
NATIVE = PACKAGE / "native"

# Rooms and what is in them, the lowest first: a room may use itself and those of earlier lines. Rooms of one line do
# not see each other. A file is in the room whose prefix fits it best.
Rooms = tuple[dict[str, tuple[str, ...]], ...]
PYTHON_ROOMS: Rooms = (
    {"codec": ("truezram.codec", "truezram._native", "truezram._version")},
    {"values": ("truezram.engine",)},  # errors, model, answers, units, paths, algorithms, rates, pace
    {"machine": ("truezram.engine.machine",)},
    {"device": ("truezram.engine.device",)},
    {"measure": ("truezram.engine.measure",)},
    {"library": ("truezram", "truezram.library")},
    {"cli": ("truezram.cli",), "app": ("truezram.app",)},
    {"main": ("truezram.__main__",)},
)
NATIVE_ROOMS: Rooms = (
    {"codecs": ("codecs",)},
    {"store": ("store",)},
    {"transport": ("transport",)},
    {"server": ("server",), "python": ("python",)},
)
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


def room(name: str, rooms: Rooms, separator: str) -> tuple[int, str]:
    """(line, name) of the room that a module or file is in."""
    fitting = [
        (len(prefix), line, title)
        for line, same_line in enumerate(rooms)
        for title, prefixes in same_line.items()
        for prefix in prefixes
        if not prefix or name == prefix or name.startswith(prefix + separator)
    ]
    return max(fitting)[1:]


def pointing_back(graph: dict[str, set[str]], rooms: Rooms, separator: str) -> list[str]:
    """The imports of something in a later line, or in another room of the same one."""
    found = []
    for name, targets in graph.items():
        mine = room(name, rooms, separator)
        for target in sorted(targets):
            other = room(target, rooms, separator)
            if other[0] > mine[0] or (other[0] == mine[0] and other != mine):
                found.append(f"{name} -> {target}")
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle in the graph, or nothing."""
    done: set[str] = set()
    for start in graph:
        path = [start]
        stack = [iter(sorted(graph[start]))]
        while stack:
            following = next((name for name in stack[-1] if name not in done), None)
            if following is None:
                stack.pop()
                done.add(path.pop())
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                path.append(following)
                stack.append(iter(sorted(graph.get(following, ()))))
    return []


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_graph() -> dict[str, set[str]]:
    """Which modules of the package each module imports, anywhere in it and under TYPE_CHECKING too."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py") if "native" not in path.parts}
    made = {"truezram._native", "truezram._version"}
    graph = {}
    for name, path in files.items():
        names = imported(path)
        # A package is imported with its modules; only what is meant counts.
        wanted = {other for other in names if other in files or other in made}
        graph[name] = {
            other
            for other in wanted - {name}
            if not (files.get(other, path).name == "__init__.py" and any(n.startswith(other + ".") for n in wanted))
        }
    return graph


def native_graph() -> dict[str, set[str]]:
    """Which files of ours each C file includes."""
    files = [path for end in ("c", "h") for path in NATIVE.rglob(f"*.{end}")]
    by_name = {path.name: str(path.relative_to(NATIVE)) for path in files}
    assert len(by_name) == len(files), "two files of one name: headers are included by name alone"
    graph = {}
    for path in files:
        included = re.findall(r'^[ \t]*#[ \t]*include "([^"]+)"', path.read_text(), re.MULTILINE)
        graph[str(path.relative_to(NATIVE))] = {by_name[Path(name).name] for name in included}
    return graph


def test_rooms_are_in_order() -> None:
    assert pointing_back(python_graph(), PYTHON_ROOMS, ".") == []
    assert pointing_back(native_graph(), NATIVE_ROOMS, "/") == []


def test_there_are_no_circles() -> None:
    assert circle(python_graph()) == []
    assert circle(native_graph()) == []


def test_the_order_is_checked() -> None:
    assert len(python_graph()) > 100
    assert {"codecs/codec.h", "codecs/bref/bref.h"} <= native_graph()["codecs/fast.c"] | native_graph()["codecs/cpu.h"]
    assert pointing_back({"store/pool.c": {"transport/queue.h", "codecs/codec.h"}}, NATIVE_ROOMS, "/") == [
        "store/pool.c -> transport/queue.h"
    ]
    assert pointing_back({"truezram.engine.model": {"truezram.engine.measure.load"}}, PYTHON_ROOMS, ".")
    assert not pointing_back({"truezram.engine.measure.load": {"truezram.engine.model"}}, PYTHON_ROOMS, ".")
    order = ("model", "machine.zram", "device.client", "measure.load")
    for index, lower in enumerate(order):
        for higher in order[index + 1 :]:
            graph = {f"truezram.engine.{lower}": {f"truezram.engine.{higher}"}}
            assert pointing_back(graph, PYTHON_ROOMS, "."), (lower, higher)
    assert pointing_back({"a.x": {"b.y", "a.z"}}, ({"A": ("a",), "B": ("b",)},), ".") == ["a.x -> b.y"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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


def test_circles_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the imports are written."""
    package = tmp_path / "truezram"
    folder = package / "app"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from truezram.app import b\n"
    )
    (folder / "b.py").write_text("def f():\n    import truezram.app.c\n")
    (folder / "c.py").write_text("from truezram.engine.units import PAGE\n")
    assert circle(python_graph()) == []
    (folder / "c.py").write_text("from truezram.app.a import A\n")
    assert set(circle(python_graph())) == {"truezram.app.a", "truezram.app.b", "truezram.app.c"}


@pytest.mark.parametrize("words", [["--help"], ["list"], ["stat", "--help"], ["create", "--size", "0"]])
def test_a_verb_loads_neither(words: list[str]) -> None:
    """What is true of the source is true of a run, third-party modules included."""
    code = (
        "import sys\nfrom truezram.cli.main import main\n"
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
