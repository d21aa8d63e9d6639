"""Completions, the manual page and docs/cli.md: made of the parsers, and taken by what they are made for."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from conftest import HANG

from truezram.cli import main, verbs
from truezram.cli.completion import SHELLS
from truezram.cli.reference import Command, program
from truezram.cli.verbs import man
from truezram.engine.algorithms import algorithms

ROOT = Path(__file__).parents[2]
LIST = "NAME DISKSIZE\nublkb0 1G\nlocal3 2G\ntotal 2 3G\n"


def is_left_out(program: str) -> bool:
    """Whether it is missing; with CI set it must be there, and the test fails for want of it."""
    return shutil.which(program) is None and not os.environ.get("CI")


def have(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(is_left_out(program), reason=f"{program} is not installed")


def run(*command: str, cwd: Path, text: str = "") -> str:
    done = subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], list[str]]:
    """Completes a line in a real bash, the cursor at its end; `truezram list` there is a fixed one."""
    (tmp_path / "script").write_text(SHELLS["bash"](program()))
    (tmp_path / "list").write_text(LIST)
    (tmp_path / "notes.jsonl").touch()

    def complete(line: str) -> list[str]:
        # As readline splits: = and : are words of their own.
        words = []
        for word in shlex.split(line):
            head, equals, tail = word.partition("=")
            words += [head, equals, tail] if equals else [word]
        words = [word for word in words if word] + ([""] if line.endswith((" ", "=")) else [])
        script = (
            f"source {tmp_path}/script; truezram() {{ cat {tmp_path}/list; }}\n"
            "complete -p truezram >/dev/null || exit 9\n"
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n_truezram\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return [line for line in run("bash", "--norc", "-u", "-c", script, cwd=tmp_path).split("\n") if line]

    return complete


@have("bash")
def test_bash_completes(bash: Callable[[str], list[str]]) -> None:
    names = [algorithm.name for algorithm in algorithms()]
    everything = bash("truezram ")
    assert set(main.verb_names()) < set(everything)
    assert "--replay" in everything
    assert bash("truezram cr") == ["create"]
    assert bash("truezram create --mem") == ["--mem-limit"]
    assert bash("truezram create --transport ") == ["ublk", "nbd", "local"]
    assert bash("truezram create --algorithm ") == names
    assert bash("truezram create --algorithm=z") == ["zstd"]
    assert bash("truezram --no-tui --json tune un") == ["undo"]
    assert bash("truezram create --pri") == ["--priority"]
    assert bash("truezram setup ") == ["apply", "undo"]
    assert bash("truezram benchmark ")[0] == "codec"
    assert bash("truezram benchmark codec --html no") == ["notes.jsonl"]
    assert bash("truezram --record no") == ["notes.jsonl"]
    # Devices are those that there are at that moment.
    assert bash("truezram remove ") == ["ublkb0", "local3"]
    assert bash("truezram stat l") == ["local3"]
    assert "--force" in bash("truezram remove --")
    # An option's value is not a verb, even if it looks like one.
    assert bash("truezram --record list cr") == ["create"]
    assert bash("truezram create --size ") == []


@have("bash")
def test_bash_knows_every_option(bash: Callable[[str], list[str]]) -> None:
    for command in program().walk():
        flags = {flag for option in command.options for flag in option.flags if flag.startswith("--")}
        assert set(bash(f"{command.name} --")) == flags, command.name


@have("fish")
def test_fish_completes(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SHELLS["fish"](program()))

    def complete(line: str) -> list[str]:
        code = f"source {tmp_path}/script; function truezram; echo '{LIST}'; end; complete -C {shlex.quote(line)}"
        out = run("fish", "--no-config", "-c", code, cwd=tmp_path)
        return [line.split("\t")[0] for line in out.splitlines()]

    assert set(main.verb_names()) <= set(complete("truezram "))
    assert complete("truezram create --mem") == ["--mem-limit"]
    assert set(complete("truezram create --transport ")) == {"ublk", "nbd", "local"}
    assert set(complete("truezram remove ")) == {"ublkb0", "local3"}
    assert "codec" in complete("truezram benchmark ")
    assert "create" not in complete("truezram create ")


@have("zsh")
def test_zsh_completes(tmp_path: Path) -> None:
    """On a pseudo-terminal, with the keys a user presses."""
    (tmp_path / "_truezram").write_text(SHELLS["zsh"](program()))
    setup = f"PS1= fpath=({tmp_path} $fpath); autoload -U compinit; compinit -D -u; stty cols 200; echo re''ady"
    lines = ["zmodload zsh/zpty", "zpty z zsh -f -i", f"zpty -w z {shlex.quote(setup)}", "zpty -r z out '*ready*'"]
    for typed, completed in (
        ("truezram ben", "mark"),
        ("truezram create --mem", "-limit"),
        ("truezram create --transport lo", "cal"),
    ):
        # -r waits for what only the completion writes.
        lines += [f"zpty -n -w z {shlex.quote(typed)}$'\\t'", f"zpty -r z out '*{typed}*{completed}*'"]
        lines += ["zpty -w z ' #'"]
    run("zsh", "-f", "-c", "\n".join([*lines, "zpty -d z"]), cwd=tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_parse(shell: str, tmp_path: Path) -> None:
    if is_left_out(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(SHELLS[shell](program()))
    run(shell, "-n", "script", cwd=tmp_path)


def test_the_verbs_print_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completions", "fish"]) == 0
    assert capsys.readouterr().out == SHELLS["fish"](program())
    assert main.main(["man"]) == 0
    assert capsys.readouterr().out == man.page(program())
    assert main.main(["completions", "tcsh"]) == 2


def test_the_manual_page_has_everything() -> None:
    text = man.page(program()).replace("\\-", "-")
    for command in program().walk():
        for argument in (a for a in command.arguments if "-h" not in a.flags):
            assert man.escape(argument.words).replace("\\-", "-") in text, (command.name, argument.words)
    # No line begins a request by accident.
    known = {".TH", ".nh", ".ad", ".SH", ".SS", ".PP", ".TP"}
    assert {line.split(" ")[0] for line in text.splitlines() if line[:1] in (".", "'")} <= known


@have("groff")
def test_groff_takes_the_manual_page(tmp_path: Path) -> None:
    """Without one warning, and what comes out is what went in."""
    out = run("groff", "-man", "-ww", "-Tutf8", "-P-cbou", cwd=tmp_path, text=man.page(program()))
    words = " ".join(out.split())
    for command in program().commands:
        assert command.help.split()[0].lower() in words.lower()
    assert "tune undo '#3'" in words
    assert "~/.config/truezram" in words
    assert "130 Interrupted." in words


def test_docs_cli_is_what_the_script_makes() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "make_cli.py", "--check"], timeout=HANG, check=False)
    assert done.returncode == 0, "run: python docs/make_cli.py"


@pytest.mark.parametrize("module", main.verb_names().values())
def test_schemas_are_as_documented(module: str) -> None:
    """Every document of a verb is ``truezram.NAME/VERSION`` of its module, as docs/cli.md says."""
    tree = ast.parse((Path(verbs.__path__[0]) / f"{module}.py").read_text())
    printers = {"print_json": 2, "print_json_line": 2, "idle_pages.run": 3}  # with arguments before the version
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in printers]
    assert calls
    for call in calls:
        assert isinstance(call.args[0], ast.Name)
        assert call.args[0].id == "NAME"
        needed = printers[ast.unparse(call.func)]
        versions = [n.id for n in call.args[needed:] if isinstance(n, ast.Name)]
        assert versions == ["SCHEMA_VERSION"] * hasattr(import_module(f"{verbs.__name__}.{module}"), "SCHEMA_VERSION")
        assert len(call.args) == needed + len(versions)
        assert not call.keywords


def test_exclusive_options_and_their_synopsis() -> None:
    found: dict[str, Command] = {command.name: command for command in program().walk()}
    assert "[--user USER | --cgroup PATH | --pid PID]" in found["truezram estimate"].synopsis()
    assert "--size SIZE" in found["truezram create"].synopsis()
    assert "[--size SIZE]" not in found["truezram create"].synopsis()
    assert found["truezram remove"].synopsis().endswith("DEVICE...")
    assert found["truezram benchmark"].synopsis().endswith(" KIND ...")
