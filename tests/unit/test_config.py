"""The files in /etc/truezram as texts: written, read, refused, made of a device. (What they do: test_boot.py.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from truezram.engine.device import config
from truezram.engine.device.config import Config
from truezram.engine.device.options import OPTIONS, CreateOptions
from truezram.engine.device.settings import SETTINGS
from truezram.engine.errors import UsageError
from truezram.engine.model import DeviceSnapshot

SWAP = CreateOptions(64 << 20, "lz4", mem_limit=16 << 20, id=3, swap=True, priority=7)
GIB = 1 << 30


@pytest.mark.parametrize(
    "item",
    [
        Config("ublkb3", SWAP),
        Config("ublkb0", CreateOptions(GIB, id=0), origin="setup"),
        Config(
            "ublkb12", CreateOptions(GIB, "zstd:3", id=12, queues=1, queue_depth=8, dedup=True, policy="700:8000:5:0")
        ),
        Config("ublkb1", CreateOptions(GIB, id=1, fs="ext4", mount='/srv/fast "disk" ä')),
        Config(
            "ublkb2",
            CreateOptions(GIB, id=2, swap=True, backing="/var/lib/b"),
            settings=(("backing-daily", "2G"), ("backing-rate", "none")),
        ),
        Config("zram1", CreateOptions(GIB, "lzo-rle", mem_limit=4096, id=1, swap=True, priority=9), origin="setup"),
        Config("machine", settings=(("swappiness", "150"), ("zswap", "N"), ("wbt.ublkb0", "0"))),
    ],
    ids=lambda item: item.name,
)
def test_a_file_says_the_same_when_read(item: Config) -> None:
    assert config.parse(item.name, item.text()) == item


def test_every_option_and_every_setting_has_its_key() -> None:
    """Those that others add, too; the file's name is the id, and a transport is none."""
    there = {option.field for option in OPTIONS} - {"id", "transport", "enable"}
    assert {option.field for option in config._KEYS.values()} == there
    kept = {setting.within or setting.key for setting in SETTINGS}
    assert kept == {key.replace("-", "_") for key in (*config._KEYS, *config._KEPT)} & {row.key for row in SETTINGS}
    assert not config._KEPT.keys() & config._KEYS.keys()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("ublkb0", "size = 4G", "Expected|Invalid"),
        ("ublkb0", 'sise = "4G"', "no key 'sise'"),
        ("ublkb0", "swap = true", "no size"),
        ("ublkb0", 'size = "4097"', "multiple of 4096"),
        ("ublkb0", 'size = "lots"', "size: it is not a number"),
        ("ublkb0", 'size = "4G"\nswap = "yes"', "swap is 'yes'"),
        ("ublkb0", 'size = "4G"\nswap = 1', "swap is '1'"),
        ("ublkb0", 'size = "4G"\nqueues = true', "queues is 'True'"),
        ("ublkb0", 'size = "4G"\nqueues = "2"', "queues is '2'"),
        ("ublkb0", 'size = "4G"\nalgorithm = "nonsense"', "nonsense"),
        ("ublkb0", 'size = "4G"\npriority = 5', "a priority is for swap"),
        ("ublkb0", 'size = "4G"\nmade-by = "me"', "made-by is 'me'"),
        ("ublkb0", 'id = 4\nsize = "4G"', "no key 'id'"),
        ("ublkb0", 'size = "4G"\nbacking-daily = "1G"', "backing-daily is for backing, which is not there"),
        ("ublkb0", 'size = "4G"\nbacking = "/b"\nbacking-daily = "lots"', "backing-daily: it is not a number"),
        ("ublkb0", 'size = "4G"\nbacking = "/b"\nbacking-rate = true', "backing-rate is 'True'"),
        ("ublkb0", 'size = "4G"\nidle-dense = "10m"', "no key 'idle-dense'"),
        ("zram0", 'size = "4G"\nbacking-rate = "1M"', "no key 'backing-rate'"),
        ("zram0", 'size = "4G"\ndedup = true', "no key 'dedup'"),
        ("machine", 'swappiness = "201"', "from 0 to 200"),
        ("machine", "swappiness = true", "swappiness is 'True'"),
        ("machine", 'nonsense = "1"', "nonsense"),
        ("other", 'size = "4G"', "not called"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        config.parse(name, text)
    assert f"{name}.toml" in str(error.value)


def test_of_a_device_as_it_is() -> None:
    device = DeviceSnapshot(
        name="ublkb4", path="/dev/ublkb4", kind="truezram", transport="ublk", state="live", disksize=GIB,
        algorithm="zstd:5", mem_limit=GIB // 2, dedup="on", policy="700:8000:5:0", nr_queues=1, queue_depth=64,
        swap_priority=180,
    )  # fmt: skip
    options = config.of_device(device)
    assert (options.size, options.algorithm, options.mem_limit, options.id) == (GIB, "zstd:5", GIB // 2, 4)
    assert (options.dedup, options.policy, options.queues, options.queue_depth) == (True, "700:8000:5:0", None, None)
    assert (options.swap, options.priority, options.fs) == (True, 180, None)
    assert config.parse("ublkb4", Config("ublkb4", options).text()).options == options
    assert options.data_mode is None
    asked = config.of_device(replace(device, data_mode="driver_copy", data_asked=True))
    assert asked.data_mode == "driver-copy"
    plain = config.of_device(replace(device, mem_limit=0, dedup="off", policy="600:7200:3:72000", swap_priority=None))
    assert (plain.mem_limit, plain.dedup, plain.policy, plain.swap) == (0, False, None, False)
