"""``truezram setup``: what this machine should have, shown, done, made to stay, and taken back."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truezram.cli.output import ProgressLine, print_json, terminal_width
from truezram.engine.errors import TruezramError, UsageError

if TYPE_CHECKING:
    from truezram.engine.device.setup import Plan

NAME = "setup"
HELP = "give this machine the compressed memory that fits it, now and after every restart"
EXAMPLE = "sudo truezram setup --dry-run"
_EPILOG = """It looks at memory, swap, disk and kernel, samples what the memory of running programs compresses to, says
what fits (swap on truezram, on kernel zram, or zswap) and why, shows the commands, and asks. What was done is taken
back by `setup undo`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("apply", "undo"), default="apply", help="undo: take back what setup has made"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--use", choices=("truezram", "zram", "zswap"), help="have this, whatever fits better")
    parser.add_argument("--no-measure", action="store_true", help="do not sample the memory of running programs")
    parser.add_argument(
        "--from-zram-generator",
        nargs="?",
        const="",
        metavar="FILE",
        help="devices as zram-generator's configuration says, on truezram (default: the file that it would read)",
    )
    parser.epilog = _EPILOG


def _ratio(line: ProgressLine) -> float | None:
    """What the memory of programs compresses to with the default algorithm; None when none can be read."""
    from truezram.engine.algorithms import default_algorithm
    from truezram.engine.measure.estimate import estimate

    line.show("sampling the memory of running programs")
    try:
        found = estimate(wanted=[default_algorithm()])
    except TruezramError as error:
        sys.stderr.write(f"truezram: not measured: {error}\n")
        return None
    finally:
        line.clear()
    return found.total.algorithms[0].ratio if found.total.algorithms else None


def _plan(args: argparse.Namespace, line: ProgressLine) -> Plan:
    from truezram.engine.device import setup

    if args.from_zram_generator is not None:
        path = Path(args.from_zram_generator) if args.from_zram_generator else None
        return setup.from_zram_generator(path, setup.measured_facts())
    return setup.plan(setup.measured_facts(None if args.no_measure else _ratio(line)), args.use or "")


def _json(plan: Plan, dry_run: bool, done: list[str]) -> dict[str, Any]:
    from truezram.engine.device.config import values

    found = plan.advice
    return {
        "use": found.use,
        "machine": found.machine,
        "ratio": found.ratio,
        "reasons": list(found.reasons),
        "devices": [{"name": device.name, "values": values(device)} for device in plan.devices],
        "settings": dict(plan.settings),
        "commands": plan.commands(),
        "notes": list(plan.notes),
        "dry_run": dry_run,
        "done": done,
    }


def _show(plan: Plan) -> None:
    width = min(terminal_width() or 100, 100)
    found = plan.advice
    head = {"nothing": "Nothing is to be set up.", "zswap": "zswap fits it, in front of the swap on disk."}
    print(f"This machine: {found.machine}.")
    print(head.get(found.use, f"Swap on {found.use} fits it."))
    for reason in found.reasons:
        print(textwrap.fill(reason, width, initial_indent="  - ", subsequent_indent="    "))
    if plan.commands():
        print("\nAs root:")
        print("\n".join(f"  {command}" for command in plan.commands()))
    if plan.notes:
        print()
    for note in plan.notes:
        print(textwrap.fill(note, width))


def _agreed(question: str) -> bool:
    """Asks on the terminal. Raises `UsageError` where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked", "standard input is not a terminal", "Add --yes, or --dry-run")
    sys.stderr.write(f"\n{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _undo(args: argparse.Namespace, line: ProgressLine) -> int:
    from truezram.engine.device import setup

    made = [item.name for item in setup.made()]
    if args.dry_run:
        if args.json:
            print_json(NAME, {"dry_run": True, "made": made, "done": []})
        else:
            print(f"Would be taken back: {', '.join(made) or 'nothing'}")
        return 0
    if made and not args.yes and not args.json and not _agreed(f"Take back {', '.join(made)}?"):
        print("Nothing was changed.")
        return 0
    try:
        done = setup.undo(line.show)
    finally:
        line.clear()
    if args.json:
        print_json(NAME, {"dry_run": False, "made": made, "done": done})
    else:
        print("\n".join(done))
    return 0


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device import boot, setup
    from truezram.engine.measure.zram_bench import ended_in_order

    line = ProgressLine()
    if args.action == "undo":
        if args.use or args.from_zram_generator is not None:
            raise UsageError("setup undo takes none of this", "", "Only --yes, --dry-run and --json")
        return _undo(args, line)
    if args.use and args.from_zram_generator is not None:
        raise UsageError("--use and --from-zram-generator exclude each other", "", "Leave one of them out")
    plan = _plan(args, line)
    if not args.json:
        _show(plan)
    if args.dry_run or plan.empty:
        if args.json:
            print_json(NAME, _json(plan, args.dry_run, []))
        return 0
    if args.json and not args.yes:
        raise UsageError("nobody can be asked", "--json has no questions", "Add --yes, or --dry-run")
    boot.need_init()
    if not args.yes and not _agreed("Do this now, and at every start of the machine?"):
        print("Nothing was changed.")
        return 0
    try:
        with ended_in_order():
            done = setup.apply(plan, line.show)
    except TruezramError as error:
        remedy = ". ".join(filter(None, (error.remedy.rstrip("."), "Everything is as it was before")))
        raise type(error)(error.what, error.why, remedy) from error
    finally:
        line.clear()
    if args.json:
        print_json(NAME, _json(plan, False, done))
    else:
        print("\n".join(["", *done, "To take it back: sudo truezram setup undo"]))
    return 0
