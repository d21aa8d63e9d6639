"""Finds the commands in the documentation, for test_docs_commands.py.

A block of code is one of commands if it says so (``sh``, ``console``), or, if it says nothing, when one of its lines
begins with a program of `PROGRAMS`. Then every line of it is a command line, and what follows a ``#`` is a comment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMAND_LANGUAGES = ("sh", "console", "bash", "shell")
PROGRAMS = ("truezram", "sudo", "pytest", "pip", "meson", "python3", "apt", "apt-get", "systemctl", "modprobe", "git")
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```|((?:^ {4}[^\n]*\n(?:\n(?= {4}))*)+)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a block of commands, with those that continue it."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number} {self.text}"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language, empty if it names none."""

    page: str
    number: int
    language: str
    text: str

    def has_commands(self) -> bool:
        if self.language:
            return self.language in COMMAND_LANGUAGES
        return any(program(words(line.text)) in PROGRAMS for line in self.lines())

    def lines(self) -> Iterator[Line]:
        """Without empty lines and comments; ``$ `` before a command is not part of it."""
        before, first = "", self.number
        for number, text in enumerate(self.text.splitlines(), self.number):
            first = first if before else number
            before += text.strip().removeprefix("$ ")
            if before.endswith("\\"):
                before = before[:-1]
                continue
            if before and not before.startswith("#"):
                yield Line(self.page, first, before)
            before = ""


def blocks(name: str, text: str) -> Iterator[Block]:
    """All blocks of code of a page. An indented one begins after an empty line, or it is part of a list."""
    for match in _BLOCK.finditer(text):
        number = text[: match.start()].count("\n") + 1
        if match[3] is None:
            yield Block(name, number + 1, match[1], match[2])
        elif text[: match.start()].endswith("\n\n"):
            yield Block(name, number, "", match[3])


def all_lines() -> list[Line]:
    """All command lines of all pages."""
    pages = ((path.relative_to(ROOT).as_posix(), path.read_text()) for path in PAGES)
    found = (block for name, text in pages for block in blocks(name, text))
    return [line for block in found if block.has_commands() for line in block.lines()]


def words(text: str) -> list[str]:
    """The words of a line, without comments; as they are if quotes do not match (it is prose then)."""
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


def commands(text: str) -> list[list[str]]:
    """The commands of a line, each as its words: those that ``&&``, ``||``, ``;`` and ``|`` separate, and those in
    ``$(…)``. Redirections are left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    around: list[list[str]] = []
    tokens = iter(lexer)
    for token in tokens:
        if token == "(":
            around.append(found[-1])
            found.append([])
        elif token.startswith(")"):
            found.append(around.pop())  # (what follows is of the command around it)
        elif set(token) <= set("&|;"):
            found.append([])
        elif set(token) <= set("<>"):
            next(tokens)
        else:
            found[-1].append(token)
    once = {id(command): command for command in found if command}
    return list(once.values())


def program(command: list[str]) -> str:
    """The name of the program: without folder, ``sudo`` and variables."""
    rest = bare(command)
    return rest[0].rpartition("/")[2] if rest else ""


def bare(command: list[str]) -> list[str]:
    """The command without ``sudo`` and variables in front of it."""
    rest = list(command)
    while len(rest) > 1 and (rest[0] == "sudo" or re.match(r"[A-Z_]+=", rest[0])):
        del rest[0]
    return rest
