"""``truezram tune``: the machine's settings, current against suggested; apply, undo, journal."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import asdict
from datetime import datetime

from truezram.cli.output import Column, format_table, print_json, terminal_width
from truezram.engine.device import settings
from truezram.engine.errors import UsageError
from truezram.engine.machine import tune
from truezram.engine.machine.journal import Change

NAME = "tune"
HELP = "show the machine's settings that matter to compressed swap, change them, put them back"
EXAMPLE = "truezram tune"
_EPILOG = """`tune` lists; `tune apply` sets everything to its suggestion, `tune apply swappiness` one setting to its
suggestion, `tune apply swappiness=120` to a value; `tune undo` puts everything back, last change first; `tune undo
swappiness` or `tune undo '#3'` one; `tune journal` shows what was changed. Changes last until the next restart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "apply", "undo", "journal"), default="list", help="default: list"
    )
    parser.add_argument(
        "setting", nargs="*", metavar="KEY[=VALUE]", help="of apply; of undo: KEY or #ID (default: all)"
    )
    parser.add_argument("--dry-run", action="store_true", help="with apply: only show what would be changed")
    parser.add_argument("--force", action="store_true", help="with undo: even if it was changed again since")
    parser.epilog = _EPILOG


def _change_json(change: Change) -> dict[str, object]:
    return {name: value for name, value in asdict(change).items() if name != "boot"}


def _list(as_json: bool) -> None:
    found = (*tune.tunables(), *settings.of_devices())
    if as_json:
        print_json(NAME, {"settings": [{**asdict(item), "differs": item.differs} for item in found]})
        return
    if not found:
        print("This system has none of the settings.")
        return
    columns = [Column("WHERE"), Column("KEY"), Column("CURRENT"), Column("SUGGESTED"), Column("ALLOWED", keep=1)]
    rows = []
    for item in found:
        suggested = "-" if item.suggested in ("", item.current) else item.suggested
        rows.append([item.device or "machine", item.key, item.current, suggested, item.hint])
    print(format_table(columns, rows, terminal_width()))
    print()
    for item in found:
        fixed = f" Cannot be changed here: {item.readonly}." if item.readonly else ""
        gain = f" {item.gain[0].upper()}{item.gain[1:]}." if item.gain else ""
        text = f"{item.device} {item.key}: {item.reason}.{gain}{fixed}".lstrip()
        print(textwrap.fill(text, min(terminal_width() or 100, 100), subsequent_indent="    "))
    better = [item for item in found if item.suggested and item.suggested != item.current]
    if any(not item.device for item in better):
        print("\nApply the machine's suggestions: sudo truezram tune apply       Undo: sudo truezram tune undo")
    for item in better:
        if item.device and item.differs:
            print(f"Apply a device's: sudo truezram set {item.device} {item.key}={item.suggested}")
            break


def _apply(args: argparse.Namespace) -> None:
    if args.dry_run:
        planned = tune.preview(args.setting)
        if args.json:
            would = [{"key": key, "before": before, "after": after} for key, before, after in planned]
            print_json(NAME, {"dry_run": True, "changes": would})
        elif not planned:
            print("Nothing would be changed.")
        else:
            print("\n".join(f"{key}: {before} would become {after}" for key, before, after in planned))
        return
    changes = tune.apply(args.setting)
    if args.json:
        print_json(NAME, {"dry_run": False, "changes": [_change_json(change) for change in changes]})
        return
    for change in changes:
        print(f"{change.key}: {change.before} -> {change.after}  (change #{change.id})")
    print("Until the next restart; `truezram tune undo` puts it back." if changes else "Nothing to change.")


def _undo(args: argparse.Namespace) -> None:
    undone = tune.undo(args.setting, args.force)
    if args.json:
        print_json(NAME, {"undone": [{**_change_json(item.change), "note": item.note} for item in undone]})
        return
    for item in undone:
        note = f"  ({item.note})" if item.note else ""
        print(f"{item.change.key}: {item.change.after} -> {item.change.before}{note}")
    if not undone:
        print("No change is in force.")


def _journal(as_json: bool) -> None:
    changes, damaged = tune.history()
    if damaged:
        lines = ", ".join(map(str, damaged))
        sys.stderr.write(f"truezram: the journal is damaged and was read without line {lines}\n")
    if as_json:
        print_json(NAME, {"changes": [_change_json(change) for change in changes], "damaged_lines": damaged})
        return
    if not changes:
        print("Nothing was changed.")
        return
    columns = [Column("ID", True), Column("TIME"), Column("KEY"), Column("BEFORE"), Column("AFTER"), Column("STATE")]
    rows = []
    for change in changes:
        when = datetime.fromtimestamp(change.time).isoformat(" ", "seconds")
        state = "put back" if change.undone else "in force"
        rows.append([str(change.id), when, change.key, change.before, change.after, state])
    print(format_table(columns, rows, terminal_width()))


def run(args: argparse.Namespace) -> int:
    if args.setting and args.action in ("list", "journal"):
        raise UsageError(f"tune {args.action} takes no settings", f"{args.setting[0]!r} was given", "See tune --help")
    if args.dry_run and args.action != "apply":
        raise UsageError(f"tune {args.action} has no --dry-run", "", "It goes with: tune apply")
    if args.force and args.action != "undo":
        raise UsageError(f"tune {args.action} has no --force", "", "It goes with: tune undo")
    if args.action == "list":
        _list(args.json)
    elif args.action == "apply":
        _apply(args)
    elif args.action == "undo":
        _undo(args)
    else:
        _journal(args.json)
    return 0
