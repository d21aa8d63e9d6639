"""zram-generator's configuration: read as it reads it, and set up with truezram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_boot import GIB
from test_boot import machine as machine
from test_boot import made as made
from test_boot import values as values
from test_setup import FACTS

from truezram.engine.device import setup
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import NotFound, UsageError
from truezram.engine.machine import zram_generator

GENERATOR = """
# as of a distribution
[zram0]
zram-size = min(ram / 2, 4096)
compression-algorithm = zstd lzo-rle(type=idle)
swap-priority = 180

[zram1]
zram-size = 2^10 * 0.5
zram-resident-limit = 100
compression-algorithm = lzo-rle
mount-point = /var/fast
host-memory-limit = none

[zram2]
host-memory-limit = 4096
"""


def test_zram_generator() -> None:
    first, second = zram_generator.parse(GENERATOR, 16 * GIB)
    assert (first.size, first.mem_limit, first.algorithm, first.priority) == (4 * GIB, 0, "zstd", 180)
    assert any("only zstd" in note for note in first.notes)
    assert (second.size, second.mem_limit, second.algorithm) == (512 << 20, 100 << 20, None)
    assert (second.mount, second.fs, second.priority) == ("/var/fast", "ext4", None)
    (small,) = zram_generator.parse("[zram0]\n", 2 * GIB)
    assert (small.size, small.mem_limit) == (1 * GIB, 0)
    (large,) = zram_generator.parse("[zram0]\nzram-size = ram * 1.5", 2 * GIB)
    assert (large.size, large.mem_limit) == (3 * GIB, 1 * GIB)
    (old,) = zram_generator.parse("[zram0]\nzram-fraction = 0.25\nmax-zram-size = 100", 2 * GIB)
    assert old.size == 100 << 20


@pytest.mark.parametrize(
    "text",
    [
        "[zram0]\nzram-size = ram **",
        "[zram0]\nzram-size = __import__('os').system('true')",
        "[zram0]\nzram-size = ram / 0",
        "[zram0]\nzram-size = 9^9^9^9",
        "[zram0]\nzram-size = 0",
        "[zram0]\nzram-size = -ram",
        "[zram0]\nzram-size = True",
        "[zram0]\nswap-priority = high",
        "[disk0]\n",
        "no section = 1",
    ],
)
def test_a_bad_one_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use"):
        zram_generator.parse(text, GIB)


def test_set_up_as_zram_generator_had_it(
    machine: Path, made: dict[str, CreateOptions], values: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "zram-generator.conf"
    file.write_text(GENERATOR.partition("[zram1]")[0])
    plan = setup.from_zram_generator(file, replace(FACTS, memory=16 * GIB, compressed=("/dev/zram0",)))
    assert any("still makes its devices" in note for note in plan.notes)
    setup.apply(plan)
    assert made == {"ublkb0": CreateOptions(4 * GIB, "zstd", id=0, swap=True, priority=180)}
    setup.undo()
    with pytest.raises(NotFound):
        setup.from_zram_generator(tmp_path / "missing", FACTS)
