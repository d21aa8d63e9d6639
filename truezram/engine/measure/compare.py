"""`truezram benchmark … --compare OLD.json`: a run beside an earlier one, figure by figure.

What is compared with what, and which way is better, is one table for all kinds of benchmark. Whether two figures differ
is asked of the raw samples, one per round: if the two sets of samples could well be one (the rank test of Mann and
Whitney, exact, at 5 %), the difference is within noise. Four rounds each are the fewest that can tell. Figures without
samples, memory for example, are given with their ratio alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import comb, erfc, sqrt
from pathlib import Path
from statistics import median
from typing import Any

from truezram.engine.errors import Failed, UsageError
from truezram.engine.measure import html_page
from truezram.engine.measure.report import significant

SCHEMA = "truezram.benchmark/1"
SIGNIFICANCE = 0.05
EXACT = 30
"""Samples up to which the test is exact."""
NOISE, BETTER, WORSE, FEW, ALONE = "within noise", "better", "worse", "too few rounds", "one figure"
HOST = ("cpu", "cores", "isa", "kernel")
"""What must be equal of two machines for figures to be comparable; the version of truezram may differ."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a result: where it is, where its samples are, and whether more is better."""

    name: str
    value: tuple[str, ...]
    samples: tuple[str, ...] = ()
    more: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """How results of one kind are told apart, and what is compared of them."""

    keys: tuple[str, ...]
    metrics: tuple[Metric, ...]


def _speed(name: str) -> Metric:
    return Metric(name.removesuffix("_mb_s") + " MB/s", (name, "median"), (name, "samples"))


KINDS = {
    "codec": Kind(
        ("implementation", "algorithm", "input"),
        (Metric("ratio", ("ratio",)), _speed("compress_mb_s"), _speed("decompress_mb_s")),
    ),
    "store": Kind(
        ("implementation", "algorithm", "threads", "size"),
        (
            Metric("memory", ("used_bytes",), more=False),
            _speed("write_mb_s"),
            _speed("read_mb_s"),
            Metric("write p50", ("write_ns", "p50"), more=False),
            Metric("read p50", ("read_ns", "p50"), more=False),
        ),
    ),
    "tiers": Kind(
        ("implementation", "algorithm", "scenario"),
        (
            Metric("memory", ("used_bytes",), more=False),
            *(Metric(f"read {tier} p50", ("read_ns", tier, "p50"), more=False) for tier in ("hot", "dense", "cold")),
        ),
    ),
    "device": Kind(
        ("target", "algorithm", "mode", "data_mode", "queues", "workload", "block_size", "depth", "jobs"),
        (
            Metric("requests/s", ("iops",), ("samples", "iops")),
            Metric("p50 µs", ("latency_us", "p50"), ("samples", "p50_us"), more=False),
            Metric("CPU µs", ("cpu", "us_per_request"), ("samples", "cpu_us"), more=False),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure, before and now."""

    result: str
    metric: str
    before: float
    now: float
    verdict: str

    @property
    def ratio(self) -> float:
        """Now over before; 0 if there was nothing before."""
        return self.now / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside an earlier one."""

    file: str
    time: str
    """Of the earlier one."""
    differences: tuple[Difference, ...]
    hosts: tuple[str, ...]
    """What differs of the machine: then ratios say little of truezram."""
    only_before: int
    only_now: int
    """Results that the other one has not."""


def read(path: str, kind: str) -> dict[str, Any]:
    """The results of an earlier run. Raises `Failed` if the file cannot be read, and `UsageError` if it holds other
    things than the results of that kind."""
    what = f"cannot compare with {path}"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Failed(what, error.strerror or str(error)) from error
    except ValueError as error:
        raise UsageError(what, "it is not JSON", "Give a file that --json wrote") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not _is_whole(document):
        raise UsageError(what, "it is not the results of a benchmark", "Give a file that --json wrote")
    if document.get("kind") != kind:
        why = f"it is of `benchmark {document.get('kind')}`, and this is `benchmark {kind}`"
        raise UsageError(what, why, "Give a file of the same benchmark")
    return document


def _is_whole(document: dict[str, Any]) -> bool:
    results = document.get("results")
    whole = isinstance(results, list) and all(isinstance(entry, dict) for entry in results)
    return whole and isinstance(document.get("host"), dict)


def _at(entry: Any, path: Sequence[str]) -> Any:
    for step in path:
        entry = entry.get(step) if isinstance(entry, dict) else None
    return entry


@cache
def _ways(u: int, a: int, b: int) -> int:
    """In how many orders of a and b samples exactly u pairs have the second one before the first."""
    if u < 0 or u > a * b:
        return 0
    if not a or not b:
        return int(u == 0)
    return _ways(u - b, a - 1, b) + _ways(u, a, b - 1)


def chance(a: Sequence[float], b: Sequence[float]) -> float:
    """How probable a difference like that of `a` and `b`, or a greater one, is if both are of one kind: the two-sided
    test of Mann and Whitney. Equal values count half."""
    n, m = len(a), len(b)
    u = sum((x > y) + 0.5 * (x == y) for x, y in product(a, b))
    u = min(u, n * m - u)
    if max(n, m) <= EXACT:
        return min(1.0, 2 * sum(_ways(i, n, m) for i in range(int(u) + 1)) / comb(n + m, n))
    deviation = sqrt(n * m * (n + m + 1) / 12)
    return erfc((n * m / 2 - u) / deviation / sqrt(2))


def verdict(before: Sequence[float], now: Sequence[float], more: bool) -> str:
    """Whether the samples of now are better, or only differ as those of one run do."""
    if not before or not now:
        return ALONE
    if 2 / comb(len(before) + len(now), len(before)) > SIGNIFICANCE:
        return FEW
    if chance(before, now) > SIGNIFICANCE:
        return NOISE
    return BETTER if (median(now) > median(before)) == more else WORSE


def _numbers(found: Any) -> list[float]:
    return [float(value) for value in found] if isinstance(found, list) else []


def _name(entry: dict[str, Any], keys: Sequence[str], varying: set[str]) -> str:
    words = []
    for key in keys:
        value = entry.get(key)
        if value is not None and (key in varying or key in keys[:2]):
            words.append(f"{key.replace('_', ' ')} {value}" if isinstance(value, int) else str(value))
    return " ".join(words)


def compare(file: str, old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """All figures that both documents have, in the order of the new one."""
    kind = KINDS[new["kind"]]

    def by_key(document: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {tuple(entry.get(key) for key in kind.keys): entry for entry in document["results"]}

    before, now = by_key(old), by_key(new)
    varying = {key for index, key in enumerate(kind.keys) if len({entry[index] for entry in now}) > 1}
    found = []
    for key, entry in now.items():
        other = before.get(key)
        for metric in kind.metrics if other is not None else ():
            was, is_now = _at(other, metric.value), _at(entry, metric.value)
            if was is not None and is_now is not None:
                samples = _numbers(_at(other, metric.samples)), _numbers(_at(entry, metric.samples))
                word = verdict(*samples, metric.more) if metric.samples else ALONE
                name = _name(entry, kind.keys, varying)
                found.append(Difference(name, metric.name, float(was), float(is_now), word))
    hosts = [
        f"{name}: {old['host'].get(name)} then, {new['host'].get(name)} now"
        for name in HOST
        if old["host"].get(name) != new["host"].get(name)
    ]
    only = len(before.keys() - now.keys()), len(now.keys() - before.keys())
    return Comparison(file, str(old["host"].get("time", "")), tuple(found), tuple(hosts), *only)


TITLES = ("RESULT", "FIGURE", "BEFORE", "NOW", "RATIO", "DIFFERENCE")


def rows(found: Comparison) -> list[list[str]]:
    """The cells of all differences, in the order of `TITLES`."""
    return [
        [item.result, item.metric, f"{item.before:,.5g}", f"{item.now:,.5g}", f"{item.ratio:.3f}x", item.verdict]
        for item in found.differences
    ]


def about(found: Comparison) -> list[str]:
    """Sentences on what was compared and how far it can be."""
    lines = [
        f"Compared with {found.file} of {found.time}: now over before. A difference is within noise if the rounds'"
        f" samples of both could well be of one run (rank test, {SIGNIFICANCE:.0%}); what has no samples has its ratio"
        " alone."
    ]
    if found.hosts:
        lines.append(f"Not the same machine: {'; '.join(found.hosts)}.")
    if found.only_before or found.only_now:
        lines.append(f"{found.only_before} results are only in the earlier run, {found.only_now} only in this one.")
    if not found.differences:
        lines.append("No result is in both.")
    return lines


def to_json(found: Comparison) -> dict[str, Any]:
    """For the document of the new run."""
    return {
        "file": found.file,
        "time": found.time,
        "hosts_differ": list(found.hosts),
        "only_before": found.only_before,
        "only_now": found.only_now,
        "differences": [
            {
                "result": item.result,
                "figure": item.metric,
                "before": item.before,
                "now": item.now,
                "ratio": significant(item.ratio),
                "difference": item.verdict,
            }
            for item in found.differences
        ],
    }


def section(found: Comparison) -> html_page.Section:
    """For the page of the new run."""
    changed = [item.verdict in (BETTER, WORSE) for item in found.differences]
    return html_page.Section("Before and now", tuple(about(found)), (), html_page.table(TITLES, rows(found), changed))
