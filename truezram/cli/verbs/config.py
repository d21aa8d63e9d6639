"""``truezram config``: the files in /etc/truezram, checked and shown."""

from __future__ import annotations

import argparse
from pathlib import Path

from truezram.cli.output import Column, format_table, print_json, terminal_width
from truezram.cli.verbs.enable import as_json
from truezram.engine.errors import EXIT_FAILED, TruezramError, UsageError

NAME = "config"
HELP = "check and show what comes back after a restart (/etc/truezram)"
EXAMPLE = "truezram config check"
_EPILOG = """One file each: ublkbN.toml or nbdN.toml is a device, its keys are the options of `create` and the
settings of `set` that are none; zramN.toml is kernel zram as swap; machine.toml has the machine's settings, by the keys
of `tune`. A file that was edited counts from the next start on, or now: sudo truezram disable NAME --now, then enable
NAME."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "check", "default"),
        default="show",
        help="show: what is enabled (default); check: is every file right; default: a file as `setup` would write it"
        " for this machine",
    )
    parser.add_argument("file", nargs="*", metavar="NAME", help="of show and check: ublkb0, machine, or a file's path")
    parser.epilog = _EPILOG


def _check(files: list[str], as_json: bool) -> int:
    from truezram.engine.device import config

    found = []
    for path in [Path(file) for file in files if "/" in file] or ([] if files else config.strange()):
        found.append(_checked(path, path.stem, path))
    for name in [file for file in files if "/" not in file] or ([] if files else config.names()):
        found.append(_checked(config.DIRECTORY / f"{name}.toml", name))
    bad = [item for item in found if item["error"]]
    if as_json:
        print_json(NAME, {"files": found, "ok": not bad})
        return EXIT_FAILED if bad else 0
    for item in found:
        print(f"{item['file']}: {item['error'] or 'right'}")
    if not found:
        print(f"There are no files in {config.DIRECTORY}.")
    return EXIT_FAILED if bad else 0


def _checked(path: Path, name: str, given: Path | None = None) -> dict[str, str]:
    from truezram.engine.device import config

    try:
        if given is None:
            config.read(name)
        else:
            config.parse(name, given.read_text(encoding="utf-8"))
    except TruezramError as error:
        return {"file": str(path), "error": " ".join(part for part in (error.why or error.what, error.remedy) if part)}
    except (OSError, UnicodeDecodeError) as error:
        return {"file": str(path), "error": getattr(error, "strerror", "") or str(error)}
    return {"file": str(path), "error": ""}


def _show(names: list[str], in_json: bool) -> None:
    from truezram.engine.device import boot

    wanted = {boot.canonical_name(name) for name in names}
    found = [item for item in boot.listed() if not wanted or item.config.name in wanted]
    for name in wanted - {item.config.name for item in found}:
        from truezram.engine.device import config

        config.read(name)  # says that it is not there
    if in_json:
        print_json(NAME, {"enabled": [as_json(item) for item in found]})
    elif names:
        for item in found:
            print(f"# {item.config.path}\n{item.config.text()}", end="")
    elif not found:
        print("Nothing is enabled. To set this machine up: sudo truezram setup")
    else:
        columns = [Column("NAME"), Column("AT START"), Column("NOW"), Column("UNIT"), Column("WHAT", keep=1)]
        rows = [[i.config.name, i.enabled or "-", i.active or "-", i.unit or "-", i.config.summary()] for i in found]
        print(format_table(columns, rows, terminal_width()))


def run(args: argparse.Namespace) -> int:
    if args.action == "check":
        return _check(args.file, args.json)
    if args.action == "show":
        _show(args.file, args.json)
        return 0
    from truezram.engine.device import config
    from truezram.engine.machine import procfs

    if args.file:
        raise UsageError("config default takes no name", f"{args.file[0]!r} was given", "Leave it out")
    made = config.default(procfs.machine().mem_total)
    if args.json:
        print_json(NAME, {"file": str(made.path), "text": made.text(), "values": config.values(made)})
    else:
        print(f"# {made.path}\n{made.text()}", end="")
    return 0
