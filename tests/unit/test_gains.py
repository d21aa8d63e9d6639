"""What a policy has saved on a device, and would save: from its ages and its own counters, or not known."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from truezram.engine.device.settings import tunables
from truezram.engine.model import Age, DeviceSnapshot, MachineSnapshot

MIB = 1 << 20
LEAST = (0, 0, 180, 720, 2340, 7200, 21780, 80100)
AGES = tuple(Age(least * 10**9, 0, pages=1, bytes=MIB * (step + 1)) for step, least in enumerate(LEAST))
"""From 12 minutes on 4 + 5 + 6 + 7 + 8 MiB, from 39 minutes on 26, from 2 hours on 21, from 22 hours on 8."""
OFF = DeviceSnapshot(name="local0", path="local:0", policy="0:0:3:0", cpu_percent=3, ages=AGES)
TRIED = replace(OFF, dense_tried=100, dense_saved=20, cold_tried=100, cold_saved=50)
"""Dense has saved a fifth, groups a half."""


def gains(device: DeviceSnapshot) -> dict[str, str]:
    found = {t.key: t.gain for t in tunables(device, MachineSnapshot(mem_total=1 << 33)) if t.gain}
    if device.state == "live" and device.backing_state == "none":
        assert found.pop("idle_backing") == "does nothing without a backing file: set backing first"
    return found


def test_what_it_would_save() -> None:
    assert gains(TRIED) == {
        # Dense: 9 of 30 MiB, what gets into groups is counted there; a fifth of 9 and half of 21.
        "policy": "it would save about 6.6M with gentle, about 12.3M with balanced, about 14.4M with dense",
        "idle_dense": "30M are idle for 10m or longer: it would save about 6M of that, by the 20% that it has saved so"
        " far",
        "idle_cold": "21M are idle for 2h or longer: it would save about 10.5M of that, by the 50% that it has saved so"
        " far",
    }


def test_what_is_dense_already_gains_nothing() -> None:
    some = replace(TRIED, kind_bytes=(("lz4", 30 * MIB), ("dense", 20 * MIB)))
    assert gains(some)["idle_dense"].startswith("10M are idle for 10m or longer: it would save about 2M of that")
    assert gains(some)["idle_cold"] == gains(TRIED)["idle_cold"]


def test_what_it_has_saved() -> None:
    balanced = replace(TRIED, policy="600:7200:3:0", idle_dense=600, idle_cold=7200)
    balanced = replace(balanced, dense_saved=2 * MIB, dense_tried=10 * MIB, cold_saved=3 * MIB, cold_tried=6 * MIB)
    found = gains(balanced)
    assert found["idle_dense"] == "has saved 2M on this device so far, 20% of what it was tried with"
    assert found["idle_cold"] == "has saved 3M on this device so far, 50% of what it was tried with"
    # A fifth of the 3 MiB that have been idle for 3 to 12 minutes, half of the 5 for 39 minutes to 2 hours.
    assert found["policy"] == "it would save about 3.1M more with dense"
    assert gains(replace(balanced, policy="180:2340:10:0", idle_dense=180, idle_cold=2340))["policy"] == (
        "no other policy would save anything more now"
    )


@pytest.mark.parametrize(
    ("device", "policy", "dense"),
    [
        (OFF, "nothing has been compressed once more on this device", "nothing has been compressed with dense on this"),
        (replace(TRIED, ages=()), "not known yet", "not known: pages have not been counted by age yet"),
    ],
)
def test_what_is_not_known_is_said(device: DeviceSnapshot, policy: str, dense: str) -> None:
    found = gains(device)
    assert policy in found["policy"]
    assert dense in found["idle_dense"]
    assert not any("would save a" in text for text in found.values())


def test_one_of_both_is_known() -> None:
    found = gains(replace(TRIED, cold_tried=0, cold_saved=0))
    assert "at least 1.8M with balanced" in found["policy"]
    assert found["idle_cold"].endswith("is not known yet: nothing has been packed in groups on this device")


def test_nothing_is_said_of_a_device_that_is_dead() -> None:
    assert gains(replace(TRIED, state="dead")) == {}


BACKED = replace(TRIED, backing="/var/x", backing_state="ready", backing_daily=MIB << 10, backing_rate=MIB << 4)


def test_a_backing_file_takes_all_that_is_old_enough() -> None:
    found = gains(BACKED)
    text = "8M are idle for 20h or longer, besides what is in groups: it would take that out of memory"
    assert found["idle_backing"] == text
    # With balanced the last 8 MiB go there, and groups keep half of the 13 before: 1.8 + 6.5 + 8.
    assert "about 16.3M with balanced" in found["policy"]
    assert found["backing_rate"] == "with it, the 1G of a day take 1m 4s"
    assert found["backing_daily"] == "0B were written today, 0B in all"


def test_what_a_backing_file_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86400.0 * 20000 + 5)
    kinds = (("backing", 300),)
    now = replace(BACKED, idle_backing=72000, kind_pages=kinds, backing_used=MIB, backing_saved=2 * MIB)
    now = replace(now, backing_day=20000, backing_day_bytes=MIB << 10, backing_written=MIB << 12)
    found = gains(now)
    there = "300 pages are there now, 1M on the file"
    assert found["idle_backing"] == f"has taken 2M out of memory on this device so far; {there}"
    assert found["backing_daily"] == ("1G were written today, 4G in all; nothing more is until tomorrow (UTC)")
    assert gains(replace(now, backing_day=19999))["backing_daily"] == "0B were written today, 4G in all"
