"""Every command in the README and in docs/: run, or taken by the parser of its program, or named here with the reason.

What can be run without root is run as it is written, with three changes: a device is a local one that the test made,
`create` makes local ones, and what would change the machine is told `--dry-run`. A line that nobody has decided
about fails.
"""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from conftest import kill, unmount_arenas
from doc_commands import PAGES, ROOT, Line, all_lines, bare, blocks, commands, program, words

from truezram.cli import main
from truezram.cli.reference import Command
from truezram.cli.reference import program as reference
from truezram.engine import paths
from truezram.engine.device import server
from truezram.engine.device.client import Client
from truezram.engine.errors import TruezramError

LINES = all_lines()
OURS = [line for line in LINES if any(program(command) == "truezram" for command in commands(line.text))]

RUN = {
    "check", "compact", "completions", "config", "create", "doctor", "entropy", "estimate", "events", "export", "find",
    "idle", "list", "man", "recompress", "remove", "set", "setup", "stat", "tune",
}  # fmt: skip
"""Verbs that are run."""
PARSED = {
    "": "the app needs a terminal: tests/app",
    "benchmark": "minutes: test_benchmark.py, test_store_benchmark.py, test_device_benchmark.py",
    "boot": "as root: tests/device/test_50_enable.py",
    "demo": "ten seconds: test_local_device.py",
    "disable": "as root: tests/device/test_50_enable.py",
    "enable": "as root: tests/device/test_50_enable.py",
    "recover": "as root, when a server has died: tests/device/test_41_recovery.py",
    "reset": "no local devices: tests/device/test_51_reset.py",
    "top": "the app needs a terminal: tests/app",
    "train": "seconds of training: test_training.py",
    "tune undo": "needs a change to undo: test_tune.py",
    "upgrade": "as root: tests/device/test_41_recovery.py",
    "writeback": "needs a backing file: tests/device/test_47_backing.py",
}
"""Verbs, or verbs with an action, that are not, with the reason, and where they are run."""
PARSED_WITH = {
    "--follow": "goes on until it is interrupted: test_events.py",
    "--listen": "goes on until it is interrupted: test_export.py",
    "--watch": "goes on until it is interrupted: test_verbs.py",
    "--from-zram-generator": "needs its configuration: test_zram_generator.py",
    "swappiness": "a value is suggested while there is compressed swap: test_tune.py",
    "backing=": "needs a block device or a file, and an encrypted one root: tests/device/test_47_backing.py",
}
"""Words, or with ``=`` their beginnings, with which the verbs of `RUN` are not."""
LEFT_OUT = {
    "--swap": 0, "--enable": 0, "--fs": 1, "--mount": 1, "--backing": 1, "--backing-limit": 1, "--backend": 1,
    "--data-mode": 1,
}  # fmt: skip
"""Options of `create` that a local device has not, and how many words belong to each: parsed, not run."""
EXIT_CODES = {"doctor": {0, 1, 3}}
"""Where it is not 0: what this machine lacks is no fault of the page."""
DEVICE = re.compile(r"\d+|ublkb\d+|/dev/ublkb\d+|DEVICE")

OTHERS = {
    "apt": "the Debian package is installed in tests/device/test_52_package.py",
    "cut": "in a line with sudo",
    "grep": "reads the status of a server, as root",
    "kill": "ends a device: tests/device/test_52_package.py",
    "ln": "writes into /usr/local, as root",
    "pip": ".ci/run installs the product so; textual-serve is a package of others",
    "python": "textual-serve is a package of others",
    "python3": "makes a virtual environment: .ci/run",
    "ssh": "needs another machine",
}
"""Programs that are not ours, and why they are not run here. (pytest, meson and the scripts of this repository have a
test of their own below.)"""


@pytest.fixture
def device(run_dir: Path) -> Iterator[str]:
    """A local device; nothing is left running."""
    try:
        paths.server_path()
    except TruezramError as missing:
        pytest.skip(f"{missing}")
    assert call(["create", "--size", "64M", "--transport", "local"])[0] == 0
    yield "local0"
    with Client([run_dir]) as client:
        for entry in client.entries():
            pid = server.server_of(entry)
            if pid is not None:
                kill(pid)
            server.cleanup(entry)
    unmount_arenas(run_dir)


def call(arguments: list[str]) -> tuple[int, str]:
    """Exit code and all output."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main.main(arguments)
        except SystemExit as ended:  # --help, --version
            code = int(ended.code or 0)
    return code, text.getvalue()


def why_not_run(verb: str, arguments: list[str]) -> str:
    """Why it is only parsed; empty: it is run. Fails if nobody has decided."""
    for name in (verb, " ".join(arguments[:2])):
        if name in PARSED:
            return PARSED[name]
    assert verb in RUN, f"say in this file whether `{verb}` is run"
    return next((why for word, why in PARSED_WITH.items() if any(_begins(a, word) for a in arguments)), "")


def _begins(argument: str, word: str) -> bool:
    return argument == word or (word.endswith("=") and argument.startswith(word))


def adapted(verb: str, arguments: list[str], device: str, folder: Path) -> list[str]:
    """What is run instead: see above."""
    if verb == "create":
        kept = list(arguments)
        for option, values in LEFT_OUT.items():
            while option in kept:
                del kept[kept.index(option) : kept.index(option) + 1 + values]
        if "--dictionary" in kept:
            order = random.Random(1)
            samples: list[bytes | bytearray | memoryview] = [order.randbytes(64) * 64 for _ in range(100)]
            (folder / kept[kept.index("--dictionary") + 1]).write_bytes(
                zstandard.train_dictionary(4096, samples).as_bytes()
            )
        return [*kept, "--transport", "local"]
    if verb == "entropy":
        sample = folder / "sample"
        sample.write_bytes(b"some bytes " * 1000)
        named = [word for word in arguments if not word.startswith("-") and not word.isdecimal() and word != verb]
        return [str(sample) if word in (*named, "-") else word for word in arguments]
    if verb == "setup" or (verb == "tune" and {"apply", "undo"} & set(arguments)):
        return [*(word for word in arguments if word != "--dry-run"), "--dry-run"]
    if verb == "estimate":
        arguments = [*arguments, "--pages", "256"]  # not the default of thousands
    standing = {"--pid": str(os.getpid()), "--user": pwd.getpwuid(os.getuid()).pw_name}
    standing["--textfile"] = str(folder / "truezram.prom")
    changed = [standing.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]
    return [device if DEVICE.fullmatch(word) and not changed[i - 1].startswith("-") else word
            for i, word in enumerate(changed)]  # fmt: skip


def test_they_are_found() -> None:
    """From the pages' ways of writing them; `LINES` is not a few lines of one page."""
    page = (
        "```sh\ntruezram list  # all\n\n$ truezram \\\n  stat 0\n```\n\n    sudo truezram tune\n    set this up\n\n"
        "```\nprose\n```\n```text\ntruezram no\n```\n- list\n    truezram inside\n"
    )
    found = [block for block in blocks("x.md", page) if block.has_commands()]
    assert [(line.number, line.text) for block in found for line in block.lines()] == [
        (2, "truezram list  # all"), (4, "truezram stat 0"), (8, "sudo truezram tune"), (9, "set this up"),
    ]  # fmt: skip
    assert commands("A=1 x --y 'a b' && sudo z | cat < in  # no") == [
        ["A=1", "x", "--y", "a b"],
        ["sudo", "z"],
        ["cat"],
    ]
    assert commands("grep a $(cut -f1 b)/c; d") == [["grep", "a", "$", "/c"], ["cut", "-f1", "b"], ["d"]]
    assert len({line.page for line in OURS}) >= 10
    assert len(OURS) >= 80


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_line_is_known(line: Line) -> None:
    """bash can read it, and each of its programs is ours or has its reason."""
    done = subprocess.run(["bash", "-n", "-c", line.text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in commands(line.text):
        name = program(command)
        script = bare(command)[1 if name in ("bash", "python3") else 0]
        path = ROOT / script
        if script.endswith(".py") or name not in (*OTHERS, "truezram", "pytest", "meson"):
            assert path.is_file(), f"{name}: unknown; run it in a test, or say here why not"
            assert path.is_relative_to(ROOT)


@pytest.mark.parametrize("line", OURS, ids=str)
def test_ours_do_what_the_page_says(line: Line, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are parsed. What is run succeeds."""
    monkeypatch.chdir(tmp_path)
    for command in commands(line.text):
        if program(command) != "truezram":
            continue
        arguments = bare(command)[1:]
        if arguments in (["--version"], ["--help"]):
            assert call(arguments)[0] == 0
            continue
        parsed = main.build_parser().parse_args(arguments)  # raises what it does not take
        verb = parsed.verb or ""
        if not why_not_run(verb, arguments):
            changed = adapted(verb, arguments, device, tmp_path)
            code, text = call(changed)
            assert code in EXIT_CODES.get(verb, {0}), f"truezram {' '.join(changed)}: {code}\n{text}"


@pytest.mark.parametrize("line", [line for line in LINES if "pytest" in line.text or "meson" in line.text], ids=str)
def test_test_commands_name_what_there_is(line: Line) -> None:
    """Files and folders of pytest, its options of our own, and options of meson."""
    options = "".join(path.read_text() for path in (ROOT / "tests").glob("*/conftest.py"))
    declared = (ROOT / "meson.options").read_text()
    for command in commands(line.text):
        for word in bare(command)[1:]:
            if program(command) == "pytest" and word.startswith("tests/"):
                assert (ROOT / word).exists()
            if program(command) == "pytest" and word.startswith("--"):
                assert f'"{word.partition("=")[0]}"' in options
            if program(command) == "meson" and word.startswith("-D") and not word.startswith("-Db_"):
                assert f"option('{word[2:].partition('=')[0]}'" in declared


FOUND: dict[str, Command] = {command.name: command for command in reference().walk()}
METAVARIABLE = re.compile(r"[A-Z|]+|[\[\]()…]|\.\.\.")


def flags(*names: str) -> set[str]:
    """All options of these commands."""
    return {flag for name in names for option in FOUND[name].options for flag in option.flags}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_the_text(page: Path) -> None:
    """``truezram VERB …`` between the words of a sentence: there is such a verb, and it has these options; so do those
    in the messages that the page quotes."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`(?:sudo )?truezram\s([^`]+)`", text):
        rest = words(" ".join(quoted.replace("$(truezram find)", "0").split()))
        while rest and rest[0] in ("--no-tui", "--json"):
            del rest[0]
        if rest[0] in ("--record", "--replay", "--version", "VERB"):
            continue
        name = f"truezram {rest[0]}"
        assert name in FOUND, quoted
        below = f"{name} {rest[1]}" if len(rest) > 1 else name
        ours = flags("truezram", name, *([below] if below in FOUND else []))
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", quoted.partition(" | ")[0])) <= ours, quoted


def test_the_reasons_are_needed() -> None:
    """No verb is in both tables, none has no entry, no program is listed that no page names, and
    the tests that are referred to are there."""
    assert not RUN & set(PARSED)
    assert RUN | {name for name in PARSED if " " not in name} == {*main.verb_names(), ""}
    assert {program(command) for line in LINES for command in commands(line.text)} >= set(OTHERS)
    for where in re.findall(
        r"[\w/]*test_\w+\.py", " ".join([*PARSED.values(), *PARSED_WITH.values(), *OTHERS.values()])
    ):
        assert (ROOT / where).exists() or (Path(__file__).parent / where).exists(), where
