"""The command line as data, read from the argparse parsers: the source of the manual page, the completions and
docs/cli.md, so that none of them can differ from what the parsers accept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from truezram.engine import errors

EXIT_CODES = (
    (errors.EXIT_OK, "done"),
    (errors.EXIT_FAILED, "failed"),
    (errors.EXIT_USAGE, "invalid command line; nothing was changed"),
    (errors.EXIT_UNSUPPORTED, "permission or kernel support is missing"),
    (errors.EXIT_BUSY, "the device is in use"),
    (errors.EXIT_INTERRUPTED, "interrupted"),
    (errors.EXIT_BROKEN_PIPE, "the reader of the output is gone"),
)
"""Exit codes and what they mean."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One option, or with no `flags` one positional argument."""

    flags: tuple[str, ...]
    value: str
    """The placeholder of its value, ``SIZE``, ``{ublk,nbd,local}``; empty for one that takes none."""
    help: str
    choices: tuple[str, ...]
    required: bool
    several: bool
    """Whether a positional argument may be given more than once."""
    group: int
    """Options with the same number, which is not 0, exclude each other."""

    @property
    def words(self) -> str:
        """``--size SIZE``, or ``DEVICE``."""
        return ", ".join(f"{flag} {self.value}".rstrip() for flag in self.flags) or self.value


@dataclass(frozen=True, slots=True)
class Command:
    """A parser: the program, a verb, or an action of a verb."""

    path: tuple[str, ...]
    """``("truezram", "benchmark", "codec")``."""
    help: str
    epilog: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]
    placeholder: str
    """The placeholder for one of `commands` in its usage."""
    needs_command: bool

    @property
    def name(self) -> str:
        """All its words."""
        return " ".join(self.path)

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments that begin with a dash."""
        return tuple(a for a in self.arguments if a.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The other arguments."""
        return tuple(a for a in self.arguments if not a.flags)

    def walk(self) -> Iterator[Command]:
        """Itself and all below."""
        yield self
        for command in self.commands:
            yield from command.walk()

    def synopsis(self) -> str:
        """One line: ``truezram set [-h] [--json] DEVICE KEY=VALUE...``."""
        words = [self.name]
        done: set[int] = set()
        for argument in self.options:
            if argument.group in done:
                continue
            same = [a for a in self.options if a.group == argument.group] if argument.group else [argument]
            done |= {argument.group} - {0}
            text = " | ".join(f"{a.flags[0]} {a.value}".rstrip() for a in same)
            words.append(text if argument.required and len(same) == 1 else f"[{text}]")
        for argument in self.positionals:
            text = argument.value + ("..." if argument.several else "")
            words.append(text if argument.required else f"[{text}]")
        if self.commands:
            words.append(f"{self.placeholder} ..." if self.needs_command else f"[{self.placeholder} ...]")
        return " ".join(words)


def _argument(parser: argparse.ArgumentParser, action: argparse.Action, groups: dict[int, int]) -> Argument:
    choices = tuple(map(str, action.choices or ()))
    value = ""
    if action.nargs != 0:
        shown = "{" + ",".join(choices) + "}" if choices else action.dest.upper()
        value = action.metavar if isinstance(action.metavar, str) else shown
        if action.nargs == "?" and action.option_strings:
            value = f"[{value}]"
    optional = action.nargs in ("?", "*") if not action.option_strings else not action.required
    return Argument(
        tuple(action.option_strings),
        value,
        parser._get_formatter()._expand_help(action) if action.help else "",
        choices,
        not optional,
        action.nargs in ("*", "+"),
        groups.get(id(action), 0),
    )


def describe(parser: argparse.ArgumentParser, help: str = "", path: tuple[str, ...] = ("truezram",)) -> Command:
    """The command that a parser reads, and all below it."""
    arguments: list[Argument] = []
    commands: list[Command] = []
    placeholder, needs = "", False
    groups = {
        id(action): number
        for number, group in enumerate(parser._mutually_exclusive_groups, 1)
        for action in group._group_actions
    }
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            placeholder, needs = str(action.metavar), bool(action.required)
            commands += [describe(sub, helps.get(name, ""), (*path, name)) for name, sub in action.choices.items()]
        else:
            arguments.append(_argument(parser, action, groups))
    epilog = " ".join((parser.epilog or "").split())
    return Command(path, help, epilog, tuple(arguments), tuple(commands), placeholder, needs)


def program() -> Command:
    """The whole command line."""
    from truezram.cli import main

    return describe(main.build_parser(), main.DESCRIPTION)
