"""``truezram doctor``: what this machine supports, one line per check, each with its remedy."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict

from truezram.cli.output import print_json, terminal_width
from truezram.engine.errors import EXIT_OK, EXIT_UNSUPPORTED

NAME = "doctor"
HELP = "check whether ublk devices can be made here and are safe as swap, with remedies"
EXAMPLE = "truezram doctor --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Changes nothing. Exit code 0 when a ublk device can be made here, 3 when not."


def _lines(name: str, state: str, text: str, indent: int, width: int | None) -> str:
    head = f"{state:<5} {name:<{indent - 8}}  "
    return (
        head
        + textwrap.fill(
            text, width=max(40, (width or 10_000) - 1), initial_indent=" " * indent, subsequent_indent=" " * indent
        ).lstrip()
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.machine import modules
    from truezram.engine.machine.doctor import examine

    report = examine()
    if args.json:
        checks = [asdict(check) for check in report.checks]
        print_json(NAME, {"ublk": report.ublk, "kernel": report.kernel, "checks": checks})
        return EXIT_OK if report.ublk else EXIT_UNSUPPORTED
    indent = max(len(check.name) for check in report.checks) + 8
    width = terminal_width()
    for check in report.checks:
        state = check.state.upper() if check.state == "fail" else check.state
        print(_lines(check.name, state, check.detail, indent, width))
        if check.remedy:
            print(_lines("", "", f"-> {check.remedy}", indent, width))
    print()
    if report.ublk:
        print("ublk devices can be made here: sudo truezram create --size 4G --swap")
        return EXIT_OK
    failed = ", ".join(check.name for check in report.checks if check.state == "fail")
    print(f"No ublk device can be made here, now, by this user ({failed}).")
    if not any(check.name == "server" and check.state == "fail" for check in report.checks):
        if modules.where("nbd", report.kernel):
            print("A disk can do without ublk, swap cannot: sudo truezram create --transport nbd --size 4G")
        print("A local device works without ublk and without root, for truezram's own programs: truezram demo")
    return EXIT_UNSUPPORTED
