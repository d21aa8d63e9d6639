"""What compressed memory this machine should have: swap on truezram, on the kernel's zram, or zswap in front of its
swap on disk; how large, and why.

Everybody asks here, so that everybody says the same: `setup`, Create, What if, Tune, `create`'s warnings. The rules:

- zswap where there is enough swap on disk: pages that nobody reads end up there, which is the only thing that frees
  their memory altogether. Compressed swap in front of a disk does it the wrong way round: once it is full, the oldest
  pages stay in memory, and those in use go to the disk.
- Otherwise truezram, if a device outlives its server here (`recovery`), else kernel zram, which has no server.
- Nothing, if pages do not compress, or if the machine has compressed memory already.

The sizes do not depend on what happens to run: the limit is half of the memory, the swap space as large as the memory.
Only where a measurement says that pages compress to more than half is it smaller.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from truezram.engine.answers import Advice
from truezram.engine.errors import Unsupported, UsageError
from truezram.engine.machine import procfs, users
from truezram.engine.machine.procfs import ROOT
from truezram.engine.units import format_size

if TYPE_CHECKING:
    from truezram.engine.machine.doctor import Probes

PRIORITY = 100
"""Before any disk, whose priorities are negative unless given; what zram-generator takes, too."""
USES = ("truezram", "zram", "zswap")
LEAST_RATIO = 1.25
"""Below it compressed memory is not worth its cost: a tenth of the memory at best, for every page twice."""
FULL_RATIO = 2.0
"""Pages that compress so well fill the swap space before the limit: no larger space is suggested."""
_MIB = 1 << 20


def mem_limit(memory: int) -> int:
    """The memory limit of a device for a machine with `memory` bytes: half of it, in whole MiB. What does not compress
    then leaves the other half to programs."""
    return max(memory // 2 // _MIB, 1) * _MIB


def swap_size(memory: int, ratio: float | None = None) -> int:
    """The size of compressed swap: what the limit holds at two to one, or at `ratio` if that is less, rounded down."""
    share = min(ratio, FULL_RATIO) if ratio else FULL_RATIO
    return rounded(int(mem_limit(memory) * share))


def limit_for(disksize: int, memory: int) -> int:
    """The limit for a device that has none; 0 if it cannot take more than that anyhow."""
    return mem_limit(memory) if memory and disksize > mem_limit(memory) else 0


def rounded(size: int) -> int:
    """Rounded down to a size that one would type."""
    unit = 1 << 30 if size >= 4 << 30 else 1 << 28 if size >= 1 << 30 else 1 << 24
    return max(size // unit, 1) * unit


def is_enough_for_zswap(disk_swap: int, memory: int) -> bool:
    """Whether zswap is worth it: each of its pages has a slot on the disk, so it holds no more than that."""
    return memory > 0 and disk_swap >= memory // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides. Sizes in bytes."""

    memory: int
    kernel: str = ""
    compressed: tuple[str, ...] = ()
    """Swap areas in use that are compressed memory."""
    disk_swap: int = 0
    disk_priority: int | None = None
    """The highest of them; None: there are none."""
    rotating: bool = False
    """One of them is on a disk that turns."""
    zswap: str = ""
    """``on``, ``off``; empty: this kernel has none."""
    zram: bool = False
    """Whether this kernel has zram."""
    ublk_why: str = ""
    """Why no ublk device can be made, with the remedy; empty: it can."""
    no_recovery: str = ""
    """Why a device would not outlive its server; empty: it would."""
    ratio: float | None = None
    """Measured on the memory of running programs; None: not measured."""


def facts(root: Path = ROOT, probes: Probes | None = None, ratio: float | None = None) -> Facts:
    """Looks at the machine; some milliseconds. That this user is not root is not held against truezram."""
    from truezram.engine.machine import doctor  # (verbs that only need a size do without)

    machine = procfs.machine(root)
    report = doctor.examine(root, probes)
    bad = [check for check in report.checks if check.state == "fail" and check.name != "root"]
    compressed = [area for area in machine.swaps if doctor.is_compressed(area, root)]
    disks = [area for area in machine.swaps if area not in compressed]
    known = os.path.exists(f"{root}/sys/module/zswap/parameters/enabled")  # noqa: PTH110
    return Facts(
        memory=machine.mem_total,
        kernel=machine.kernel,
        compressed=tuple(area.path for area in compressed),
        disk_swap=sum(area.size for area in disks),
        disk_priority=max((area.priority for area in disks), default=None),
        rotating=any(users.is_rotating(area, root) for area in disks),
        zswap="" if not known else "on" if machine.zswap.enabled else "off",
        zram=_has_zram(machine.kernel, root),
        ublk_why=f"{bad[0].detail}. {bad[0].remedy}".strip(". ") if bad else "",
        no_recovery=report.no_recovery,
        ratio=ratio,
    )


def _has_zram(kernel: str, root: Path) -> bool:
    if os.path.isdir(f"{root}/sys/class/zram-control"):  # noqa: PTH112
        return True
    return any(
        "/zram.ko" in (procfs.read_text(f"{root}/{top}/modules/{kernel}/{name}") or "")
        for top in ("lib", "usr/lib")
        for name in ("modules.builtin", "modules.dep")
    )


# ---- the decision ----


def advise(found: Facts, use: str = "") -> Advice:
    """What this machine should have; with `use` (one of `USES`) how it would have that. Raises `UsageError`,
    `Unsupported`: that cannot be had here."""
    if use:
        _refuse(found, use)
        return _advice(found, use, (f"You asked for {use}.", *_reasons(found, use)))
    if found.compressed:
        names = " and ".join(found.compressed)
        return _advice(found, "nothing", (f"{names} is compressed swap already: a second one would only share it.",))
    if found.ratio is not None and found.ratio < LEAST_RATIO:
        why = f"The memory of what runs here compresses only {found.ratio:.2f} to 1: compressing it gains nothing."
        return _advice(found, "nothing", (why,))
    if is_enough_for_zswap(found.disk_swap, found.memory) and found.zswap:
        if found.zswap == "on":
            why = "zswap is on, in front of the swap on disk: that is what fits this machine."
            return _advice(found, "nothing", (why, *_reasons(found, "zswap")))
        return _advice(found, "zswap", _reasons(found, "zswap"))
    if not found.ublk_why and not found.no_recovery:
        return _advice(found, "truezram", _reasons(found, "truezram"))
    if found.zram:
        why = found.no_recovery and f"on it, a server that dies takes the pages along: {found.no_recovery}"
        return _advice(found, "zram", (f"Not truezram: {found.ublk_why or why}.", *_reasons(found, "zram")))
    if not found.ublk_why:
        return _advice(found, "truezram", _reasons(found, "truezram"))
    return _advice(found, "nothing", (f"No truezram: {found.ublk_why}.", "This kernel has no zram either."))


def _refuse(found: Facts, use: str) -> None:
    what = f"cannot set up {use}"
    if use not in USES:
        raise UsageError(what, "it is not in the list", f"One of: {', '.join(USES)}")
    if use == "truezram" and found.ublk_why:
        raise Unsupported(what, found.ublk_why, "See truezram doctor")
    if use == "zram" and not found.zram:
        raise Unsupported(what, f"kernel {found.kernel} has no module zram", "Install the kernel's extra modules")
    if use == "zswap" and not found.zswap:
        raise Unsupported(what, f"kernel {found.kernel} has no zswap", "A kernel with CONFIG_ZSWAP")
    if use == "zswap" and not found.disk_swap:
        raise Unsupported(what, "there is no swap on disk for it to be in front of", "Make a swap partition or file")


def _reasons(found: Facts, use: str) -> tuple[str, ...]:
    if use == "zswap":
        return _why_zswap(found)
    limit, size = mem_limit(found.memory), swap_size(found.memory, found.ratio)
    reasons = [_why_device(found, use)]
    reasons.append(
        f"At most {format_size(limit)}, half of the memory, is used for it: what does not compress fills that, and not"
        " the machine."
    )
    if found.ratio is None:
        reasons.append(f"It holds {format_size(size)} of pages if they compress to half; most do better. Not measured.")
    else:
        full = int(size / found.ratio)
        reasons.append(
            f"The memory of what runs here compresses {found.ratio:.2f} to 1 (measured): {format_size(size)} of pages"
            f" would take {format_size(min(full, limit))} of it."
        )
    if found.disk_swap:
        reasons.append(_beside_disk(found))
    if found.zswap == "on":
        reasons.append("zswap is turned off: it would compress every page a first time.")
    return tuple(reasons)


def _beside_disk(found: Facts) -> str:
    stays = f"The swap on disk ({format_size(found.disk_swap)}) stays, and is used when this is full"
    if not is_enough_for_zswap(found.disk_swap, found.memory):
        return f"{stays}; it is too small to put zswap in front of it."
    if not found.zswap:
        return f"{stays}. zswap would fit better, but this kernel has none."
    return f"{stays}. zswap would fit better: what is cold would end up there, not what is new."


def _why_device(found: Facts, use: str) -> str:
    if use == "zram":
        return "Kernel zram needs no server and answers a single page sooner; truezram can watch it, not change it."
    lost = f" But a server that dies takes the pages along: {found.no_recovery}." if found.no_recovery else ""
    return (
        "truezram holds more in the same memory than kernel zram and can be changed while it runs; reading a single"
        f" page back takes longer.{lost}"
    )


def _why_zswap(found: Facts) -> tuple[str, ...]:
    disk = "a disk that turns" if found.rotating else "disk"
    reasons = [
        f"There is swap on {disk} ({format_size(found.disk_swap)}): zswap keeps what is read again compressed in memory"
        " and lets the rest go to the disk.",
        "Compressed swap in front of a disk would do the reverse: once it is full, old pages stay in memory, and those"
        " in use go to the disk.",
    ]
    if found.rotating:
        reasons.append("With swap on a disk that turns, the kernel reads ahead less on every swap device.")
    return tuple(reasons)


def _advice(found: Facts, use: str, reasons: tuple[str, ...]) -> Advice:
    device = use in ("truezram", "zram")
    priority = max(PRIORITY, (found.disk_priority if found.disk_priority is not None else -1) + 1)
    return Advice(
        use=use,
        reasons=reasons,
        machine=_machine(found),
        size=swap_size(found.memory, found.ratio) if device else 0,
        mem_limit=mem_limit(found.memory) if device else 0,
        priority=min(priority, 32767) if device else 0,
        ratio=found.ratio,
    )


def _machine(found: Facts) -> str:
    disk = "no swap on disk"
    if found.disk_swap:
        disk = f"{format_size(found.disk_swap)} of swap on {'a disk that turns' if found.rotating else 'disk'}"
    ublk = "no ublk" if found.ublk_why else "ublk, without recovery" if found.no_recovery else "ublk with recovery"
    return f"{format_size(found.memory)} of memory, {disk}, Linux {found.kernel}, {ublk}"
