"""``truezram completions``: completion scripts for the shells, generated from the parsers."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import print_json

NAME = "completions"
HELP = "print a script that completes this command line in bash, zsh or fish"
EXAMPLE = "truezram completions bash"
_EPILOG = """bash: truezram completions bash > ~/.local/share/bash-completion/completions/truezram. zsh: truezram
completions zsh > FOLDER/_truezram, with FOLDER in $fpath. fish: truezram completions fish >
~/.config/fish/completions/truezram.fish."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    from truezram.cli.completion import SHELLS
    from truezram.cli.reference import program

    script = SHELLS[args.shell](program())
    if args.json:
        print_json(NAME, {"shell": args.shell, "script": script})
    else:
        sys.stdout.write(script)
    return 0
