"""Inputs and results of benchmarks of page codecs (benchmark.py, zram_bench.py, report.py): values only."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from truezram.engine.errors import EXIT_INTERRUPTED, TruezramError
from truezram.engine.units import PAGE

TOTAL = "total"
WITH_DICTIONARY = "+dictionary"
"""Suffix in results for an algorithm that uses a dictionary."""


class Cancelled(TruezramError):
    """The caller cancelled the measurement."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True, slots=True)
class Input:
    """Pages to measure on."""

    name: str
    data: memoryview
    """n * 4096 bytes."""
    order: array[int] = field(repr=False)
    """Indices of the pages that are not same-filled, ascending."""

    @property
    def pages(self) -> int:
        return len(self.data) // PAGE

    @property
    def same_filled(self) -> int:
        """Pages that repeat one 8-byte word; they are neither timed nor included in ratios."""
        return self.pages - len(self.order)


@dataclass(frozen=True, slots=True)
class Speed:
    """MB/s (10^6 bytes of page data a second), one sample per round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.samples)


@dataclass(frozen=True, slots=True)
class Result:
    """One codec on one input, or on all of them (`input` is `total`)."""

    algorithm: str
    implementation: str
    """`truezram`, `liblz4`, `libzstd`, `libc` or `zram`."""
    isa: str | None
    """Of our code; None for other libraries."""
    input: str
    ratio: float
    """Bytes of pages divided by bytes of objects; a page that does not shrink counts as 4096."""
    raw_pages: int
    """Pages that do not shrink."""
    compress: Speed
    decompress: Speed
    version: str = ""
    """Version and origin of the library: of a baseline, or of the libzstd that our zstd uses."""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the codec: (implementation, algorithm)."""
        return self.implementation, self.algorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class InputInfo:
    """An input as described in results."""

    name: str
    pages: int
    same_filled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryInfo:
    """The dictionary of the algorithms whose names end in `WITH_DICTIONARY`."""

    file: str
    bytes: int
    id: int


@dataclass(frozen=True, slots=True)
class Report:
    """The state after `rounds` complete rounds; during the first round, `results` has the inputs that are done."""

    host: dict[str, str | int | float]
    inputs: tuple[InputInfo, ...]
    results: tuple[Result, ...]
    baseline: tuple[str, str]
    """(implementation, algorithm) that the others are compared with."""
    cold: bool
    rounds: int
    """Complete rounds, 0 during the first one."""
    disturbed: float
    """Share of timings that were interrupted by other threads on every try, 0 … 1."""
    dictionary: DictionaryInfo | None = None

    def of(self, name: str) -> list[Result]:
        """The results of an input, or of `total`, in the order of the subjects."""
        return [result for result in self.results if result.input == name]

    def relative(self, result: Result) -> tuple[float, float, float] | None:
        """(ratio, compression speed, decompression speed) as multiples of the baseline's on the same input; for speeds,
        the median of each round's multiple. None if the baseline has no result there."""
        for other in self.results:
            if other.input == result.input and other.key == self.baseline:
                compress = map(_divide, result.compress.samples, other.compress.samples)
                decompress = map(_divide, result.decompress.samples, other.decompress.samples)
                return result.ratio / other.ratio, median(compress), median(decompress)
        return None


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a measurement."""

    fraction: float
    """0 … 1."""
    text: str
    report: Report | None
    """Results so far; the same object until there are new ones. None before the first."""


ProgressCallback = Callable[[Progress], None]


def _divide(a: float, b: float) -> float:
    return a / b
