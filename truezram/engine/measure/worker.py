"""Long computations in a separate process with the lowest priority: the app's benchmark and estimate.

In the app's own process, a computing thread would hold the GIL while it waits for a CPU, and the app would wait for it.
The child sends pickled messages over its standard output (it is our own program, run by the same user) and exits when
its standard input is closed, so it never outlives the app. It has its own session, because the kernel's autogroups
divide CPU time between sessions first, and only within a session by nice values.

The child sends `("progress", fraction, text, partial)` messages, then `("result", value)` or `("error", exception)`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from truezram.engine.errors import Failed, TruezramError

Report = Callable[[float | None, str, Any], None]
"""Called with (fraction 0…1 or None, what is being done, partial result or None). An exception from it ends the
call."""
_NICE = 19
_STOP_TIMEOUT = 5.0
"""Seconds that a call has to end and clean up in."""
_MADE_DEVICES = {"device benchmark": 60.0, "tiers benchmark": 60.0}
"""The same of those that make several devices: they are not to leave any behind."""


def run(name: str, report: Report, **options: Any) -> Any:
    """Runs one of `CALLS` in a separate process and returns its result. Raises its exception, an exception of `report`,
    or `Failed` if the process ended without a result."""
    with _started(name, options) as (child, log):
        assert child.stdout is not None
        while True:
            try:
                kind, *values = pickle.load(child.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                raise Failed(f"the {name} ended without a result", _last_words(child, log)) from error
            if kind == "result":
                return values[0]
            if kind == "error":
                raise values[0]
            report(*values)


class _started:
    """The child and its standard error; the child has ended when the context is left."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.log = os.memfd_create(f"truezram-{name}", os.MFD_CLOEXEC)
        try:
            # -P: do not import from the current folder, which may be a source tree.
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", "truezram.engine.measure.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.log)
            raise Failed(f"cannot start the {name}", error.strerror or str(error)) from error
        self.options = options

    def __enter__(self) -> tuple[subprocess.Popen[bytes], int]:
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):  # it has died: reading its answer will report that
            pickle.dump(self.options, self.child.stdin)
            self.child.stdin.flush()
        return self.child, self.log

    def __exit__(self, *exception: object) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        # The child notices that it is no longer needed and cleans up (a zram device, for example).
        self.child.stdout.close()
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        try:
            self.child.wait(_patience(self.name))
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        os.close(self.log)


def _patience(name: str) -> float:
    return _MADE_DEVICES.get(name, _STOP_TIMEOUT)


def _last_words(child: subprocess.Popen[bytes], log: int) -> str:
    """Why the child ended, according to its standard error or exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_TIMEOUT)
    said = os.pread(log, 4096, max(0, os.fstat(log).st_size - 4096)).decode(errors="replace").strip()
    if said:
        return said.splitlines()[-1]
    code = child.returncode
    return f"it was killed by {signal.Signals(-code).name}" if code and code < 0 else f"it ended with {code}"


# ---- in the child ----


def _steps(report: Report) -> Callable[[Any], None]:
    """Passes on the steps of a benchmark (`results.Progress`, `store_results.StoreProgress`); their results only when
    there are new ones."""
    last = None

    def progress(step: Any) -> None:
        nonlocal last
        fresh = step.report is not last
        last = step.report
        report(step.fraction, step.text, step.report if fresh else None)

    return progress


def _benchmark(report: Report, cancelled: Callable[[], bool], *, seconds: float) -> Any:
    from truezram.engine.measure import benchmark

    return benchmark.run(seconds=seconds, progress=_steps(report), cancelled=cancelled)


def _estimate(report: Report, cancelled: Callable[[], bool], *, kind: str, value: str, by: str) -> Any:
    from truezram.engine.measure import estimate

    return estimate.estimate(
        estimate.Scope(kind, value),
        by=by,
        progress=lambda fraction, text: report(fraction, text, None),
        partial=lambda found: report(None, "measuring", found),
        cancel=cancelled,
    )


def _entropy(report: Report, cancelled: Callable[[], bool], *, path: str) -> Any:
    from truezram.engine.measure import entropy

    return entropy.entropy(
        [path], recursive=True, progress=lambda fraction, text: report(fraction, text, None), cancel=cancelled
    )


def _store_benchmark(report: Report, cancelled: Callable[[], bool], *, size: int, rounds: int) -> Any:
    from truezram.engine.measure import store_bench

    return store_bench.run(size=size, rounds=rounds, progress=_steps(report), cancelled=cancelled)


def _device_benchmark(
    report: Report, cancelled: Callable[[], bool], *, runtime: float, rounds: int, modes: list[str]
) -> Any:
    from truezram.engine.measure import device_bench

    return device_bench.run(runtime=runtime, rounds=rounds, modes=modes, progress=_steps(report), cancelled=cancelled)


def _tiers_benchmark(report: Report, cancelled: Callable[[], bool], *, rounds: int) -> Any:
    from truezram.engine.measure import tiers_bench

    return tiers_bench.run(rounds=rounds, progress=_steps(report), cancelled=cancelled)


CALLS: dict[str, Callable[..., Any]] = {
    "benchmark": _benchmark,
    "estimate": _estimate,
    "entropy": _entropy,
    "store benchmark": _store_benchmark,
    "device benchmark": _device_benchmark,
    "tiers benchmark": _tiers_benchmark,
}
"""The available calls and their options: `benchmark(seconds)`, `estimate(kind, value, by)`, `entropy(path)`, `store
benchmark(size, rounds)`, `device benchmark(runtime, rounds, modes)`, `tiers benchmark(rounds)`."""


def _give_way() -> None:
    """Sets the lowest priority, within the session and between sessions (if the kernel has autogroups)."""
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:  # noqa: PTH123
        file.write(str(_NICE))


def _end_with_input(patience: float) -> Callable[[], bool]:
    """Returns a function that says whether standard input has ended. Soon after that, this process exits in any
    case."""
    ended = threading.Event()

    def watch() -> None:
        # Not through sys.stdin, whose lock Python takes at exit.
        while os.read(0, 1):
            pass
        ended.set()
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return ended.is_set


def main(name: str) -> int:
    """The child's side."""
    _give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing else may write to the channel.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    options = pickle.load(sys.stdin.buffer)
    cancelled = _end_with_input(_patience(name))

    def send(*message: Any) -> None:
        pickle.dump(message, channel)
        channel.flush()

    try:
        result = CALLS[name](lambda *step: send("progress", *step), cancelled, **options)
        send("result", result)
    except TruezramError as error:
        send("error", error)
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
