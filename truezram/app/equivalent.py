"""The exact command that does what the app is about to do: every action has its ``--no-tui`` verb, and previews name
it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from truezram.app.backend.protocol import PATH
from truezram.engine.answers import Scope
from truezram.engine.device.options import CreateOptions, RecompressOptions
from truezram.engine.device.settings import DEFAULT_MODE
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import format_exact

if TYPE_CHECKING:
    from truezram.engine.device.setup import Plan

PROGRAM = "truezram"


def _line(*words: str, root: bool = False) -> str:
    return shlex.join((*(("sudo",) if root else ()), PROGRAM, "--no-tui", *words))


def create(options: CreateOptions) -> str:
    """``sudo truezram --no-tui create --size 8G --algorithm zstd:3 --swap --priority 100``."""
    return _line(*options.words(), root=TRANSPORTS[options.transport].is_disk)


def setup(plan: Plan) -> list[str]:
    """What `truezram setup` does, a command a line."""
    return [f"sudo {line}" for line in plan.commands()]


def remove(name: str, force: bool = False, root: bool = True) -> str:
    """``sudo truezram --no-tui remove ublkb0 --force``."""
    return _line("remove", name, *(("--force",) if force else ()), root=root)


def reset(name: str, root: bool = True) -> str:
    """``sudo truezram --no-tui reset ublkb0``."""
    return _line("reset", name, root=root)


def recompress(name: str, options: RecompressOptions, root: bool = True) -> str:
    """``sudo truezram --no-tui recompress ublkb0 --idle 2h --to cold``."""
    return _line(*options.words(name), root=root)


def recover(name: str) -> str:
    """``sudo truezram --no-tui recover ublkb0``."""
    return _line("recover", name, root=True)


def set_value(name: str, key: str, value: str, root: bool = True) -> str:
    """``sudo truezram --no-tui set ublkb0 mem_limit=2G``."""
    return _line("set", name, f"{key}={value}", root=root)


def tune(key: str, value: str) -> str:
    """``sudo truezram --no-tui tune apply vm.swappiness=150``."""
    return _line("tune", "apply", f"{key}={value}", root=True)


def estimate(scope: Scope, by: str = "process") -> str:
    """``truezram --no-tui estimate --pid 4711``; of files ``truezram --no-tui entropy --recursive /var/log``."""
    if scope.kind == PATH:
        return _line("entropy", "--recursive", scope.value)
    whose = (f"--{scope.kind}", scope.value) if scope.kind != "all" else ()
    return _line("estimate", *whose, *(("--by", by) if by != "process" else ()))


def benchmark(seconds: float, root: bool = False) -> str:
    """``truezram --no-tui benchmark codec --seconds 20``; only as root is kernel zram measured."""
    return _line("benchmark", "codec", "--seconds", f"{seconds:g}", root=root)


def store_benchmark(size: int, rounds: int, root: bool = False) -> str:
    """``truezram --no-tui benchmark store --size 128M --rounds 3``; only as root is kernel zram measured."""
    return _line("benchmark", "store", "--size", format_exact(size), "--rounds", str(rounds), root=root)


def device_benchmark(runtime: float, rounds: int, modes: Sequence[str] = ()) -> str:
    """``sudo truezram --no-tui benchmark device --runtime 1 --rounds 5 --mode low-latency``."""
    words = ["--runtime", f"{runtime:g}", "--rounds", str(rounds)]
    words += [] if tuple(modes) in ((), (DEFAULT_MODE,)) else ["--mode", ",".join(modes)]
    return _line("benchmark", "device", *words, root=True)


def tiers_benchmark(rounds: int, root: bool = False) -> str:
    """``truezram --no-tui benchmark tiers --rounds 9``; only as root is kernel zram measured."""
    return _line("benchmark", "tiers", "--rounds", str(rounds), root=root)


def doctor() -> str:
    """``truezram --no-tui doctor``."""
    return _line("doctor")
