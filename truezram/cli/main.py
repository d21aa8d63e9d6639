"""The command line: finds the verb, runs it, and turns errors into a message and an exit code.

Every verb is a module of `truezram.cli.verbs` with ``NAME``, ``HELP``, ``EXAMPLE``, ``add_arguments(parser)`` and
``run(args) -> int``; a new file there is a new verb. Only the module of the requested verb is imported, and Textual
never is, unless the app will be shown: ``truezram`` alone on a terminal. Without a terminal on stdout that is ``list``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal`, without the enums that it takes a millisecond to make
import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, Protocol, cast

import truezram
from truezram.cli import verbs
from truezram.cli.output import has_screen
from truezram.engine import errors
from truezram.engine.errors import Failed, TruezramError, UsageError

ORDER = (
    "create",
    "list",
    "stat",
    "set",
    "remove",
    "compact",
    "check",
    "demo",
    "doctor",
    "estimate",
    "benchmark",
    "train",
)
"""Verbs in the order of --help; others follow by name."""

DESCRIPTION = """Compressed RAM block devices in userspace. Without a verb, on a terminal: the app."""
EPILOG = """exit codes: 0 ok, 1 failed, 2 usage, 3 permission or missing kernel support, 4 busy, 130 interrupted,
141 the reader of the output is gone"""


class Verb(Protocol):
    """What a module of `truezram.cli.verbs` has; ``SCHEMA_VERSION`` as well, if that of its document is not 1."""

    NAME: str
    HELP: str
    EXAMPLE: str
    """A command line that is worth showing, as it is typed."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the verb's options; ``--json`` is there already."""

    def run(self, args: argparse.Namespace) -> int:
        """Runs the verb; the exit code. Raises `TruezramError`."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of leaving the process, so that ``--json`` gets its error as JSON."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError("invalid command line", message, f"See {self.prog} --help")


def verb_names() -> dict[str, str]:
    """Module name by verb, in the order of --help: ``{"list": "list_", ...}``."""
    modules = {
        module.name.rstrip("_").replace("_", "-"): module.name
        for module in pkgutil.iter_modules(verbs.__path__)
        if not module.name.startswith("_")
    }
    rank = {name: index for index, name in enumerate(ORDER)}
    return {name: modules[name] for name in sorted(modules, key=lambda name: (rank.get(name, len(ORDER)), name))}


def load(module: str) -> Verb:
    """Imports a verb's module."""
    loaded: ModuleType = importlib.import_module(f"truezram.cli.verbs.{module}")
    return cast(Verb, loaded)


def build_parser(only: str | None = None) -> Parser:
    """The parser with every verb, or with one."""
    parser = Parser(
        prog="truezram",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"truezram {truezram.__version__}")
    parser.add_argument("--no-tui", action="store_true", help="never show the app: without a verb, list the devices")
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")
    app = parser.add_argument_group(
        "the app", "options of the app, which is what `truezram` shows on a terminal without a verb"
    )
    app.add_argument("--record", type=Path, metavar="FILE", help="record what the app shows into FILE")
    app.add_argument("--replay", type=Path, metavar="FILE", help="show the recording FILE instead of this machine")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, module in verb_names().items():
        if only in (None, name):
            verb = load(module)
            description = verb.HELP[0].upper() + verb.HELP[1:] + "."
            sub = subparsers.add_parser(verb.NAME, help=verb.HELP, description=description)
            sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, errors too")
            verb.add_arguments(sub)
            sub.epilog = f"{sub.epilog or ''} Example: `{verb.EXAMPLE}`".strip()
            sub.set_defaults(run=verb.run)
    return parser


def _wanted(argv: Sequence[str]) -> str | None:
    """The verb, when the command line begins with it (after --no-tui and --json): only its module need be imported."""
    for word in argv:
        if word in ("--no-tui", "--json"):
            continue
        return word if word in verb_names() else None
    return None


def run(argv: Sequence[str]) -> int:
    """Parses and runs. Raises `TruezramError`."""
    args = build_parser(_wanted(argv)).parse_args(argv)
    if args.verb is None:
        if args.record or args.replay:
            if args.no_tui or args.json or not has_screen():
                raise UsageError(
                    "cannot record or replay", "only the app does that, and it needs a terminal", "Leave it out"
                )
            return run_app(args.record, args.replay)
        if not args.no_tui and not args.json and has_screen():
            return run_app()
        args = build_parser("list").parse_args([*argv, "list"])
    if args.record or args.replay:
        raise UsageError(
            "cannot record or replay", f"only the app does that, not `{args.verb}`", "Leave one of them out"
        )
    code: int = args.run(args)
    return code


def run_app(record: Path | None = None, replay: Path | None = None, device: str = "") -> int:
    """Shows the app, opened on a device if one is named; the exit code. Imported here and nowhere else outside the app,
    by name, and only now: no verb pays for Textual."""
    app = importlib.import_module("truezram.app.main")
    code: int | None = app.run(record, replay, device)
    return code or 0


def report(error: TruezramError, as_json: bool) -> None:
    """Reports an error: text on stderr, and with `as_json` a document on stdout."""
    if as_json:
        body = {
            "schema": "truezram.error/1",
            "error": {"what": error.what, "why": error.why, "remedy": error.remedy},
            "exit_code": error.exit_code,
        }
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"truezram: {error}\n")


def _asks_for_json(argv: Sequence[str]) -> bool:
    words = list(argv)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def main(argv: Sequence[str] | None = None) -> int:
    """The whole program: never raises, except SystemExit for --help and --version."""
    if argv is None:
        argv = sys.argv[1:]
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else it is ignored, as after `&`
            _signal.signal(_signal.SIGINT, _interrupt)
    try:
        try:
            code = run(argv)
            sys.stdout.flush()
            if sys.unraisablehook is _lost:
                _signal.setitimer(_signal.ITIMER_REAL, 0)  # what it was to break off is done
            return code
        except BrokenPipeError:
            raise
        except OSError as error:
            # What the verbs expect is a TruezramError; this is the rest: a full disk behind stdout, for example.
            name = f" ({error.filename})" if error.filename else ""
            raise Failed("a system call failed", f"{error.strerror or error}{name}") from error
    except TruezramError as error:
        with contextlib.suppress(OSError):
            report(error, _asks_for_json(argv))
        return _silence(error.exit_code)
    except KeyboardInterrupt:
        if _signal.getsignal(_signal.SIGINT) is _once_more:
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # a handler of ours would end with the interpreter
        sys.stderr.write("truezram: interrupted\n")
        return _silence(errors.EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _silence(errors.EXIT_BROKEN_PIPE)


def _interrupt(signum: int, frame: object) -> NoReturn:
    """Ctrl-C. Whoever is in a hurry presses it again, which would break off what the first has to end in order."""
    _signal.signal(_signal.SIGINT, _once_more)
    sys.unraisablehook = _lost
    raise KeyboardInterrupt


def _lost(unraisable: Any) -> None:
    """What was raised in a destructor, or in a callback of a weak reference: Python says so and goes on. An interrupt
    that came just then comes again in a moment."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _signal.signal(_signal.SIGALRM, _interrupt)
        _signal.setitimer(_signal.ITIMER_REAL, 0.001)
    elif not _is_late_signal(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _is_late_signal(error: BaseException | None) -> bool:
    """Whether Python says that a signal came while `main` was about to ignore it: it is ignored, as it should be."""
    return isinstance(error, OSError) and error.errno is None and "race condition" in str(error)


def _once_more(signum: int, frame: object) -> None:
    pass


def _silence(code: int) -> int:
    """Keeps Python from complaining at its end about output that has no reader."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code
