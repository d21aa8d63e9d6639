"""Sizes from text and back; every bad size with its own reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truezram.engine import units
from truezram.engine.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("512M", 512 << 20),
        ("512MiB", 512 << 20),
        ("512mb", 512 << 20),
        ("8G", 8 << 30),
        ("1.5GiB", 3 << 29),
        (" 2 K ", 2048),
        ("1.K", 1024),
        ("0.5K", 512),
        ("+1T", 1 << 40),
        ("4P", 1 << 52),
        ("4503599627370496", 1 << 52),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("0", "zero"),
        ("0.0G", "zero"),
        ("-0", "negative"),
        ("-1", "negative"),
        ("-8G", "negative"),
        ("4503599627370497", "2^52"),
        ("5P", "2^52"),
        ("999999999999999999999P", "2^52"),
        ("9" * 5000, "digits"),
        ("1." + "3" * 5000, "digits"),
        ("0.3", "whole number of bytes"),
        ("1.0001K", "whole number of bytes"),
        ("1.3G", "whole number of bytes"),
        ("G", "not a number"),
        ("1X", "not a number"),
        ("1Gi B", "not a number"),
        ("1e9", "not a number"),
        ("0x1000", "not a number"),
        ("1,5G", "not a number"),
        ("\u0661G", "not a number"),
        ("nan", "not a number"),
        ("1_000", "not a number"),
        ("8G;", "not a number"),
    ],
)
def test_bad_sizes_say_why(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        units.parse_size(text, "limit")
    assert why in caught.value.why
    assert caught.value.remedy
    assert "limit" in caught.value.what
    assert len(str(caught.value)) < 300


def test_disksize_is_whole_pages_and_the_remedy_works() -> None:
    assert units.parse_disksize("1M") == 1 << 20
    for text in ("4097", "1", "4503599627370495"):
        with pytest.raises(UsageError) as caught:
            units.parse_disksize(text)
        assert "multiple" in caught.value.why
        fixed = units.parse_disksize(caught.value.remedy.split()[-1])
        assert 0 <= fixed - int(text) < 4096


def test_remedy_for_a_fraction_is_accepted() -> None:
    with pytest.raises(UsageError) as caught:
        units.parse_size("1.3G")
    assert abs(units.parse_size(caught.value.remedy.split()[1].rstrip(",")) - 1.3 * (1 << 30)) <= 512


@given(st.integers(1, 1 << 52))
def test_exact_round_trip(size: int) -> None:
    assert units.parse_size(units.format_exact(size)) == size


@given(st.integers(0, 1 << 62))
def test_format_size_is_short_and_close(size: int) -> None:
    text = units.format_size(size)
    assert len(text) <= 7
    if size < 1 << 52:
        number, unit = (text[:-1], text[-1]) if text[-1] in "BKMGTP" else (text, "B")
        value = float(number) * 1024 ** ("BKMGTP".index(unit))
        assert abs(value - size) <= 0.051 * 1024 ** "BKMGTP".index(unit)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (-2048, "-2K"),
        ((1 << 20) - 1, "1.0M"),
        (1 << 60, "1024P"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(None, "-"), (64, "64ns"), (1500, "1.5µs"), (2.5e6, "2.5ms"), (3.25e9, "3.25s")]
)
def test_format_ns(ns: float | None, text: str) -> None:
    assert units.format_ns(ns) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (59.9, "59s"), (185, "3m 5s"), (3599, "59m 59s"), (8040, "2h 14m"), (442800, "5d 3h")],
)
def test_format_duration(seconds: float | None, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (12345, "12.3k"), (4.56e7, "45.6M"), (1e15, "1000.0T")]
)
def test_format_count(count: float, text: str) -> None:
    assert units.format_count(count) == text
