"""The cross-check of `benchmark device --fio`: the same load once more, by fio, whose figures everybody knows."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from truezram.engine.device import swap
from truezram.engine.errors import Failed, Unsupported
from truezram.engine.measure.device_results import Case, Fio
from truezram.engine.measure.store_results import Latency
from truezram.engine.units import PAGE

_LEAST_SECONDS = 1
_PATIENCE = 30.0
_WHAT = "cannot cross-check with fio"


def program() -> str:
    """fio's path. Raises `Unsupported` where it is not installed."""
    try:
        return swap.tool("fio", "fio", "leave --fio out")
    except Unsupported as error:
        raise Unsupported(_WHAT, error.why, error.remedy) from None


def command(path: str, case: Case, places: int, seconds: float) -> list[str]:
    """fio's command line for a case that only reads: io_uring, O_DIRECT, the same depth and jobs."""
    return [
        program(), "--name=truezram", f"--filename={path}", f"--rw={case.workload}", f"--bs={case.block}",
        f"--iodepth={case.depth}", f"--numjobs={case.jobs}", f"--size={places * PAGE // case.block * case.block}",
        f"--runtime={max(_LEAST_SECONDS, round(seconds))}", "--time_based", "--readonly", "--direct=1",
        "--ioengine=io_uring", "--group_reporting", "--thread", "--norandommap", "--allow_file_create=0",
        "--output-format=json",
    ]  # fmt: skip


def measure(path: str, case: Case, places: int, seconds: float, step: Callable[[str], None]) -> Fio:
    """One run of fio, at least a second. `step` is called all the time, and an exception of it ends fio. Raises
    `Failed`."""
    process = subprocess.Popen(
        command(path, case, places, seconds),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    deadline = time.monotonic() + seconds + _PATIENCE
    try:
        while True:
            try:
                out, err = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                step(f"fio, {case.text}, {path}")
                if time.monotonic() > deadline:
                    raise Failed(_WHAT, f"it did not end within {seconds + _PATIENCE:g} s") from None
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
        raise Failed(_WHAT, said.splitlines()[-1] if said else f"it ended with {process.returncode}")
    return parse(out.decode(errors="replace"))


def parse(text: str) -> Fio:
    """What fio says in JSON (a warning may precede it). Raises `Failed`."""
    try:
        read = json.loads(text[text.index("{") :])["jobs"][0]["read"]
        times = read["clat_ns"]["percentile"]
        found = Latency(*(int(times[f"{share}"]) for share in ("50.000000", "99.000000", "99.900000")))
        return Fio(float(read["iops"]), found)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Failed(_WHAT, f"its output is not understood ({type(error).__name__})", "Leave --fio out") from error
