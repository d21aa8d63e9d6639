#!/usr/bin/env python3
"""What a change must keep: style, types, tests, and how much of the code the tests run. Prints a table at the end.

    python3 .ci/quality.py [-n WORKERS]

Installs the product and what is needed here (groups `test` and `quality` of pyproject.toml) into .venv; needs a C
compiler with gcov. Everything is done even if something before it failed; the exit status is 0 only if all passed and
the tests run at least 90 % of the lines of Python. Lines of C are counted in a build of the native tests of its own: no
more is asked of them than that the tests pass. Neither figure has what only the device tests run, in their guests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
LEAST_PYTHON = 90.0
"""Per cent of the lines of Python that tests must run."""
TAIL = 60
"""Lines that are shown of what failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    passed: bool
    figure: str
    seconds: float


class Failure(Exception):
    """A program failed; the text is the end of what it said."""


def run(*command: str | Path, **variables: str) -> str:
    """What the program printed. Raises Failure."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise Failure("\n".join(done.stdout.splitlines()[-TAIL:]))
    return done.stdout


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip("= ")


def install() -> str:
    """The environment, with the product as it is in this tree."""
    if not BIN.exists():
        run(sys.executable, "-m", "venv", BIN.parent)
    run(BIN / "pip", "install", "-q", ".[test,quality]")
    return ""


def ruff() -> str:
    return last_line(run(BIN / "ruff", "check", "."))


def ruff_format() -> str:
    return last_line(run(BIN / "ruff", "format", "--check", "."))


def mypy() -> str:
    """One folder at a time: tests are not packages, and each folder has a conftest.py."""
    return "; ".join(last_line(run(BIN / "mypy", *where)) for where in ((), ("tests/device",)))


def tests(folder: Path, workers: str) -> str:
    """The tests of Python and of the app, each process that they start measured. The measured package is the installed
    one, hence PYTHONSAFEPATH."""
    command = (BIN / "coverage", "run", "-m", "pytest", "-q", "-n", workers, "tests/unit", "tests/app")
    return last_line(run(*command, **_coverage(folder)))


def python_lines(folder: Path) -> str:
    """The share of lines that were run. Raises Failure below LEAST_PYTHON, with the files that have most of the
    others."""
    variables = _coverage(folder)
    run(BIN / "coverage", "combine", "-q", folder, **variables)
    run(BIN / "coverage", "json", "-q", "-o", folder / "python.json", **variables)
    totals = json.loads((folder / "python.json").read_text())["totals"]
    share = 100 * totals["covered_lines"] / totals["num_statements"]
    figure = f"{share:.1f} % of {totals['num_statements']:,} lines"
    if share < LEAST_PYTHON:
        report = run(BIN / "coverage", "report", "--skip-covered", "--sort=-miss", **variables)
        raise Failure("\n".join([*report.splitlines()[:30], f"{figure}, and not {LEAST_PYTHON:.0f} %"]))
    return figure


def _coverage(folder: Path) -> dict[str, str]:
    return {
        "COVERAGE_FILE": str(folder / "data"),
        "COVERAGE_RCFILE": str(ROOT / "pyproject.toml"),
        "PYTHONSAFEPATH": "1",
    }


def native_tests(folder: Path) -> str:
    """The tests of C, built for gcov. They do an eighth of their work, as under emulation: which lines they run does
    not depend on it."""
    options = ("-Dpython=false", "-Dnative_tests=true", "-Db_coverage=true", "--buildtype=debugoptimized")
    run(BIN / "meson", "setup", folder / "native", *options)
    run(BIN / "meson", "compile", "-C", folder / "native")
    command = (BIN / "meson", "test", "-C", folder / "native", "--no-rebuild", "--print-errorlogs")
    said = run(*command, TRUEZRAM_TEST_EMULATED="1")
    counts = {name: int(number) for name, number in re.findall(r"^(Ok|Skipped|Fail):\s+(\d+)", said, re.MULTILINE)}
    return f"{counts['Ok']} passed, {counts.get('Skipped', 0)} skipped"


def native_lines(folder: Path) -> str:
    """The share of lines of C that they run."""
    summary = folder / "native.json"
    where = ("--root", ".", "--filter", "truezram/native/")
    run(BIN / "gcovr", *where, "--json-summary", summary, "--gcov-ignore-parse-errors=all", folder / "native")
    found = json.loads(summary.read_text())
    return f"{found['line_percent']:.1f} % of {found['line_total']:,} lines"


def row(name: str, check: Callable[[], str]) -> Row:
    """Does one thing and says so."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    try:
        passed, figure = True, check()
    except Failure as failure:
        print(failure, flush=True)
        passed, figure = False, last_line(str(failure))
    return Row(name, passed, figure, time.monotonic() - began)


def table(rows: list[Row]) -> str:
    lines = [("check", "result", "seconds", "")]
    lines += [(r.name, "pass" if r.passed else "FAIL", f"{r.seconds:.0f}", r.figure) for r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {result:<{widths[1]}}  {seconds:>{widths[2]}}  {figure}".rstrip()
        for name, result, seconds, figure in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", metavar="WORKERS", default="auto", help="processes of the tests (default: cores + 2)")
    workers = parser.parse_args().n
    with tempfile.TemporaryDirectory(prefix="truezram-quality-") as name:
        folder = Path(name)
        (folder / "python").mkdir()
        checks: dict[str, Callable[[], str]] = {
            "install": install,
            "ruff": ruff,
            "ruff format": ruff_format,
            "mypy": mypy,
            "tests of Python and the app": lambda: tests(folder / "python", workers),
            "lines of Python run by them": lambda: python_lines(folder / "python"),
            "tests of C": lambda: native_tests(folder),
            "lines of C run by them": lambda: native_lines(folder),
        }
        rows = [row(check, function) for check, function in checks.items()]
    print(f"\n{table(rows)}")
    return int(not all(r.passed for r in rows))


if __name__ == "__main__":
    sys.exit(main())
