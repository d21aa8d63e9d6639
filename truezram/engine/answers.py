"""The frozen values that the engine is asked for and answers with, other than snapshots (model.py).

They are in a file of their own because a verb that only looks at devices, such as `list`, needs none of them, and each
class takes half a millisecond to create.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One codec. `level_min` and `level_max` are both 0 for one without levels."""

    name: str
    isa: str = ""
    """The instruction set of the variant that this CPU gets: "portable", "avx2", "avx512", "neon"."""
    level_min: int = 0
    level_max: int = 0
    level_default: int = 0
    unavailable: str = ""
    """Why it cannot be used on this machine; empty when it can."""
    summary: str = ""
    """What to choose it for, in a few words."""

    @property
    def has_levels(self) -> bool:
        return bool(self.level_min or self.level_max)


AGES = 8
"""Steps of the age of a page (stats.h, ``TZ_AGES``)."""
MAP_AGES = ("empty", "no age", *map(str, range(AGES)))
"""What a region of a page map by age counts (stats.h, ``enum tz_map_age``); same-filled pages have no age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMap:
    """What a range of a device's pages is stored as, or how old they are: `regions` equal parts of `pages` pages from
    page `first` on. Each region holds a count per kind, in the order of `codec.KINDS`, or per age, in the order of
    `MAP_AGES`."""

    first: int
    pages: int
    regions: tuple[tuple[int, ...], ...]
    by: str = "kind"
    """Or "age"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor: `state` is "ok", "warn" (works, but read this) or "fail" (no ublk device until this is
    put right)."""

    name: str
    state: str
    detail: str
    remedy: str = ""
    """What to do; empty when the state is "ok"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What compressed memory a machine should have (machine/advice.py). Bytes; 0 where there is no device."""

    use: str
    """``truezram``, ``zram``, ``zswap``, or ``nothing``."""
    reasons: tuple[str, ...]
    """Sentences."""
    machine: str = ""
    """What was found, in a line."""
    size: int = 0
    mem_limit: int = 0
    priority: int = 0
    ratio: float | None = None
    """As measured; None: it was not."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """One live setting, of the machine or of a device, as it is and as it should be."""

    key: str
    path: str = ""
    """The kernel's file; empty for a setting of a device."""
    current: str = ""
    suggested: str = ""
    """Empty: no better value is known."""
    reason: str = ""
    hint: str = ""
    """What may be entered: "0 to 200", "a size, or none for no limit"."""
    choices: tuple[str, ...] = ()
    """All values, if there are few."""
    readonly: str = ""
    """Why it cannot be changed now; empty when it can."""
    device: str = ""
    """The device's name; empty for a setting of the machine."""
    gain: str = ""
    """What it has saved on this device, or what another value would save; empty: nothing can be said."""

    @property
    def differs(self) -> bool:
        """Whether there is something better than what is set, and it can be set."""
        return bool(self.suggested) and self.suggested != self.current and not self.readonly


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one of the machine's settings (journal.py)."""

    id: int
    time: float
    """CLOCK_REALTIME, seconds."""
    key: str
    before: str
    after: str
    boot: str = ""
    """Boot in which it was made (/proc/sys/kernel/random/boot_id); empty: not known."""
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memory: `kind` is one of `estimate.SCOPES`, `value` a user's name or number, a cgroup's path (with all
    below it), comma-separated pids, or empty for all."""

    kind: str = "all"
    value: str = ""


@dataclass(frozen=True, slots=True)
class AlgorithmEstimate:
    """The estimate of one algorithm for a group's memory. `low` and `high` bound the 95 % confidence interval."""

    algorithm: str
    ratio: float
    """Memory divided by `resident`, with everything included, same-filled pages too (as `DeviceSnapshot.ratio`)."""
    ratio_low: float
    ratio_high: float
    compression_ratio: float | None
    """The codec alone, without same-filled pages; a page that does not shrink counts as 4096 bytes (as in
    benchmarks)."""
    resident: int
    """Bytes that a device would take."""
    resident_low: int
    resident_high: int
    gained: int
    """Bytes that become free: memory minus `resident`."""
    compress_us: float | None
    """Microseconds per page that is not same-filled, on one core; None if there was none."""
    decompress_us: float | None
    incompressible: float
    """Share of all pages that would be stored raw, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Recompressed:
    """A recompression that has ended. What else happened to the device meanwhile is in its memory's figures, too."""

    pages: int
    saved: int
    """Bytes by which their objects are smaller."""
    cpu_ns: int
    stopped: bool
    before: int
    """mem_used_total, bytes."""
    after: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBack:
    """Writing idle pages to the backing file, or bringing all back, that has ended. What else happened to the device
    meanwhile is in these figures, too."""

    pages: int
    """That were written,"""
    freed: int
    """and bytes of memory that they took;"""
    written: int
    """bytes written to the file."""
    returned: int
    """Pages that came back."""
    on_file: int
    """Pages that are there now,"""
    used: int
    """and bytes of it in use."""
    cpu_ns: int
    stopped: bool
    state: str
    """Of the backing file (`model.BACKING_STATES`),"""
    why: str
    """and why it has ended early, if it has; else empty."""
    before: int
    """mem_used_total, bytes."""
    after: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ArenaProblem:
    """Something that is wrong in an arena."""

    page: int | None
    """Of the disk; None: of none in particular."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaCheck:
    """What a check of an arena found (engine/device/check.py)."""

    source: str
    """The device, or the file."""
    live: bool
    """A server was at work on it: the counts are not of one instant."""
    version: int
    state: str
    uuid: str
    generation: int
    """How many servers have had it."""
    disksize: int
    algorithm: str
    pages: int
    """That hold something: same-filled ones and objects."""
    same_filled: int
    dup_pages: int
    objects: int
    payload_bytes: int
    object_bytes: int
    """What the objects take in segments."""
    table_pages: int
    populated_bytes: int
    """What the file takes."""
    unsettled: int = 0
    """Pages that were written so often that they could not be looked at."""
    group_pages: int = 0
    """Members of groups, each of which is one object."""
    backing_pages: int = 0
    """Pages on the backing file,"""
    backing_bytes: int = 0
    """and what they take there."""
    backing_read: bool = False
    """Whether they were looked at: a file that is not there cannot be, nor that of an arena without a device."""
    problems: tuple[ArenaProblem, ...] = ()
    problems_found: int = 0
    """All of them; `problems` has at most 1000."""

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.problems_found
