"""``truezram man``: the manual page, generated from the parsers."""

from __future__ import annotations

import argparse
import sys

import truezram
from truezram.cli.output import print_json
from truezram.cli.reference import EXIT_CODES, Argument, Command, program

NAME = "man"
HELP = "print the manual page; to read it: truezram man | man -l -"
EXAMPLE = "truezram man"

_FILES = (
    ("~/.config/truezram/config.toml", "Settings of the app."),
    ("~/.config/truezram/themes/", "Themes of the user, one TOML file each."),
    ("~/.local/state/truezram/", "Events and benchmark runs that the app keeps."),
)
_ENVIRONMENT = (
    ("NO_COLOR", "When set, the app uses no colours."),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME", "Used instead of ~/.config and ~/.local/state."),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def escape(text: str) -> str:
    """Text as roff takes it: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = text.replace("`", "\\(ga").replace("'", "\\(aq")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return f"\\&{text}" if text.startswith(".") else text


def _tagged(tag: str, text: str) -> list[str]:
    return [".TP", f"\\fB{escape(tag)}\\fR", escape(text) if text else "\\&"]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".") if text else ""


def _arguments(arguments: tuple[Argument, ...]) -> list[str]:
    return [line for a in arguments if "-h" not in a.flags for line in _tagged(a.words, a.help)]


def page(root: Command) -> str:
    """The page in roff, for man(7)'s macros."""
    lines = [f'.TH TRUEZRAM 1 "" "truezram {truezram.__version__}" "User Commands"', ".nh", ".ad l"]
    lines += [".SH NAME", "truezram \\- compressed RAM block devices in userspace", ".SH SYNOPSIS"]
    lines += [escape(root.synopsis()), ".SH DESCRIPTION", escape(_sentence(root.help))]
    lines += [".SH OPTIONS", *_arguments(root.arguments), ".SH COMMANDS"]
    for command in list(root.walk())[1:]:
        lines += [f'.SS "{escape(" ".join(command.path[1:]))}"', escape(_sentence(command.help)), ".PP"]
        lines += [f"\\fI{escape(command.synopsis())}\\fR", *_arguments(command.arguments)]
        if command.epilog:
            lines += [".PP", escape(command.epilog)]
    for title, pairs in (
        ("EXIT STATUS", [(str(code), _sentence(text)) for code, text in EXIT_CODES]),
        ("FILES", _FILES),
        ("ENVIRONMENT", _ENVIRONMENT),
    ):
        lines += [f'.SH "{title}"', *(line for tag, text in pairs for line in _tagged(tag, text))]
    lines += [".SH NOTES", escape("With --json every command prints one document, with its name and version as "
              '"schema": "truezram.COMMAND/1".')]  # fmt: skip
    lines += ['.SH "SEE ALSO"', "\\fBzramctl\\fR(8), \\fBswapon\\fR(8)"]
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> int:
    text = page(program())
    if args.json:
        print_json(NAME, {"page": text})
    else:
        sys.stdout.write(text)
    return 0
