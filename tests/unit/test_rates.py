"""Latency histograms: bins, percentiles, differences."""

import random

from truezram._native import lib
from truezram.engine.rates import histogram_difference, latency_floor, percentile


def test_bins_are_those_of_the_server() -> None:
    assert [latency_floor(i) for i in range(lib.TZ_LAT_BINS)] == [lib.tz_lat_floor(i) for i in range(lib.TZ_LAT_BINS)]
    for bin_ in range(1, lib.TZ_LAT_BINS):
        assert lib.tz_lat_bin(latency_floor(bin_)) == bin_
        assert lib.tz_lat_bin(latency_floor(bin_) - 1) == bin_ - 1


def test_percentiles_are_within_a_bin_of_the_truth() -> None:
    order = random.Random(1)
    times = sorted(int(order.lognormvariate(9, 1.5)) for _ in range(20000))
    histogram = [0] * lib.TZ_LAT_BINS
    for time in times:
        histogram[lib.tz_lat_bin(time)] += 1
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        true = times[int(q * len(times))]
        found = percentile(histogram, q)
        assert found is not None
        # A bin is an eighth of its power of two wide.
        assert abs(found - true) <= max(64, true / 8)


def test_percentile_of_nothing() -> None:
    assert percentile([0] * 200, 0.5) is None


def test_histogram_never_negative() -> None:
    assert histogram_difference((5, 1), (3, 4)) == (0, 3)
    assert histogram_difference((), (3, 4)) == (3, 4)
