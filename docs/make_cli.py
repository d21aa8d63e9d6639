"""Makes docs/cli.md of the parsers.

usage: make_cli.py [--check]      (--check: exit code 1 when the page is not what the parsers make)
"""

from __future__ import annotations

import sys
from pathlib import Path

from truezram.engine.parsers import EXIT_CODES, Argument, Command, program

PAGE = Path(__file__).parent / "cli.md"

HEAD = """# The command line

Made by `docs/make_cli.py` of the program's own parsers; do not edit. `truezram man | man -l -` shows the same as a
manual page, `truezram completions SHELL` prints completions for bash, zsh and fish; both are made of the parsers too.

`truezram` alone, on a terminal, is [the app](app.md); without a terminal it is `truezram list`. Devices are named `0`,
`ublkb0` or `/dev/ublkb0`, local ones `local0`. Sizes are bytes, or with a unit that is a power of
1024: `512M`, `8G`, `1.5GiB`.

## Exit codes

| Code | Meaning |
|--:|---|
"""

JSON = """
## JSON

With `--json` a verb prints one document and nothing else on standard output; an error is a document too,
`truezram.error/1`, with `what`, `why`, `remedy` and `exit_code`, and the text goes to standard error as always. The
number behind the slash rises when a field is renamed, removed or changes its meaning, not when one is added. Sizes
are in bytes.

| Verb | Schema |
|---|---|
"""


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(arguments: tuple[Argument, ...]) -> list[str]:
    shown = [a for a in arguments if "-h" not in a.flags]
    if not shown:
        return []
    rows = [f"| `{a.words.replace('|', chr(92) + '|')}` | {cell(a.help)} |" for a in shown]
    return ["| Argument | What it does |", "|---|---|", *rows, ""]


def section(command: Command) -> list[str]:
    lines = [f"{'#' * len(command.path)} {' '.join(command.path[1:])}", ""]
    if command.help:
        lines += [command.help[0].upper() + command.help[1:] + ".", ""]
    lines += ["```", command.synopsis(), "```", "", *table(command.arguments)]
    if command.epilog:
        lines += [command.epilog, ""]
    for below in command.commands:
        lines += section(below)
    return lines


def page() -> str:
    """The whole page."""
    root = program()
    text = HEAD + "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES)
    text += JSON + "".join(f"| {c.path[-1]} | `truezram.{c.path[-1]}/1` |\n" for c in root.commands)
    lines = ["", "## Without a verb", "", "```", root.synopsis(), "```", "", *table(root.arguments)]
    for command in root.commands:
        lines += section(command)
    return text + "\n".join(lines).rstrip() + "\n"


def main() -> int:
    made = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != made)
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
