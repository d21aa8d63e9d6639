"""Errors as they are shown to the user: what failed, why, and what to do; with the exit code of the CLI.

Everything the engine raises on purpose is a `TruezramError`. ``str(error)`` is one line, ``what: why. remedy``.
Exit codes are an API: 0 ok, 1 failed, 2 usage, 3 permission or missing kernel support, 4 busy, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar

from truezram._native import lib

EXIT_OK: int = lib.TZ_EXIT_OK
EXIT_FAILED: int = lib.TZ_EXIT_FAILED
EXIT_USAGE: int = lib.TZ_EXIT_USAGE
EXIT_UNSUPPORTED: int = lib.TZ_EXIT_UNSUPPORTED
EXIT_BUSY: int = lib.TZ_EXIT_BUSY
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""The reader of the output went away (128 + SIGPIPE, as a shell reports other tools)."""


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else text + "."


class TruezramError(Exception):
    """Something failed: `what`, `why`, and `remedy` (which may be empty when there is nothing to do about it)."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.what}: {self.why}" if self.why else self.what
        return " ".join(part for part in (_sentence(head), _sentence(self.remedy)) if part)


class Failed(TruezramError):
    """It was tried and failed."""


class UsageError(TruezramError):
    """The request is invalid; nothing was changed."""

    exit_code = EXIT_USAGE


class NotFound(Failed):
    """No device of that name."""


class PermissionDenied(TruezramError):
    """The user lacks the permission."""

    exit_code = EXIT_UNSUPPORTED


class Unsupported(TruezramError):
    """This machine, kernel or device does not support it."""

    exit_code = EXIT_UNSUPPORTED


class Busy(TruezramError):
    """The device or file is in use; `why` says by what."""

    exit_code = EXIT_BUSY


def from_exit_code(code: int, what: str, text: str, remedy: str = "") -> TruezramError:
    """The error for an exit code that the server reports (``tz_ready.exit_code``)."""
    kinds: dict[int, type[TruezramError]] = {EXIT_USAGE: UsageError, EXIT_UNSUPPORTED: Unsupported, EXIT_BUSY: Busy}
    return kinds.get(code, Failed)(what, text or "the server gave no reason", remedy)
