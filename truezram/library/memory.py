"""`truezram.estimate`: what the memory of running processes would compress to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from truezram.engine.answers import Scope
from truezram.engine.errors import UsageError

if TYPE_CHECKING:
    from truezram.engine.measure.estimate import Estimate


def estimate(
    pid: int | Sequence[int] | None = None,
    *,
    user: str | None = None,
    cgroup: str | None = None,
    algorithms: Sequence[str] = (),
    by: Literal["process", "user", "cgroup"] = "process",
    pages: int = 8192,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
) -> Estimate:
    """Measures what memory would compress to: copies a sample of the pages that are in memory, runs the algorithms on
    the copies, and extrapolates, with 95 % confidence intervals.

    Nothing is written, and nothing is brought back from swap. Without root only one's own processes can be read; those
    that could not are in `skipped` of the answer. It takes some seconds for a whole machine, and blocks meanwhile.

    Args:
        pid: Only this process, or these; also one's own (`os.getpid()`). Without it, `user` and `cgroup`: the machine.
        user: Only the processes of this user, a name or a number.
        cgroup: Only the processes in this cgroup and below, such as `/user.slice`.
        algorithms: `NAME` or `NAME:LEVEL`; all that this machine has if empty.
        by: What one entry of `groups` is for.
        pages: How many pages to draw at most.
        seed: Another one draws other pages.
        progress: Called with the share that is done (0 to 1) and what is being done.

    Returns:
        `total` and `groups` (the largest first), each with its memory in bytes, the share of same-filled pages and, for
        each algorithm, `ratio` with everything that a device takes, `ratio_low` and `ratio_high`, bytes that it would
        take (`resident`) and free (`gained`), and microseconds per page on one core.

    Raises:
        NotFound: No such process, or none of that user or in that cgroup.
        PermissionDenied: No process that was asked for may be read.
        UsageError: An unknown algorithm, or more than one of pid, user and cgroup.
        Failed: The processes have no memory to look at.
    """
    from truezram.engine.measure.estimate import estimate as measure

    given = {"pid": pid, "user": user, "cgroup": cgroup}
    chosen = [kind for kind, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise UsageError("cannot choose the processes", f"{' and '.join(chosen)} were given", "Give one of them")
    if pages < 1:
        raise UsageError("cannot sample the memory", f"{pages} pages were asked for", "Give 1 or more")
    scope = Scope(chosen[0], _text(given[chosen[0]])) if chosen else Scope()
    return measure(scope, algorithms, by=by, limit=pages, seed=seed, progress=progress)


def _text(value: int | str | Sequence[int] | None) -> str:
    return str(value) if isinstance(value, int | str) else ",".join(map(str, value or ()))
