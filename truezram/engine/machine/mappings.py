"""The mappings of device mapper that encrypt backing files: which there are, and what is behind each.

A mapping is named after the device that it was made for, ``truezram-ublkb0-5f3a91c2``: so it is found, and removed,
when nothing else of that device is left. All is read from sysfs. (engine/device/crypt.py makes them.)
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from truezram.engine.machine import procfs
from truezram.engine.machine.procfs import ROOT
from truezram.engine.transports import NAME

PREFIX = "truezram"
FOLDER = "/dev/mapper"
_LABEL = re.compile(rf"{PREFIX}-((?:{NAME})\d{{1,7}})-[0-9a-f]{{8}}", re.ASCII)


class Mapping(NamedTuple):
    """One of them."""

    label: str
    device: str
    """The name of the device that it was made for."""
    disk: str
    """What the kernel calls it: "dm-3"."""

    @property
    def path(self) -> str:
        """Of its node."""
        return f"{FOLDER}/{self.label}"


def device_of(label: str) -> str:
    """The device that a mapping with this name was made for; "" for one that is not ours."""
    match = _LABEL.fullmatch(label)
    return match[1] if match else ""


def mappings(device: str = "", root: Path = ROOT) -> list[Mapping]:
    """All of them, or those of one device."""
    found = []
    folder = f"{root}/sys/block"
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []
    for name in names:
        label = (procfs.read_text(f"{folder}/{name}/dm/name") or "") if name.startswith("dm-") else ""
        owner = device_of(label)
        if owner and device in ("", owner):
            found.append(Mapping(label, owner, name))
    return found


def describe(path: str) -> str:
    """The backing file as a user writes it, from what the server writes to; "none" for "". A mapping that is gone is
    itself."""
    if not path:
        return "none"
    if not device_of(path.removeprefix(f"{FOLDER}/")):
        return f"plain:{path}"
    return behind(path) or path


def behind(path: str, root: Path = ROOT) -> str:
    """The file or block device that the mapping with the node `path` encrypts; "" if that is not known (it is gone)."""
    for mapping in mappings(root=root):
        if mapping.path == path:
            return _below(mapping.disk, root)
    return ""


def _below(disk: str, root: Path) -> str:
    try:
        below = os.listdir(f"{root}/sys/block/{disk}/slaves")  # noqa: PTH208
    except OSError:
        return ""
    if len(below) != 1:
        return ""
    file = procfs.read_text(f"{root}/sys/block/{below[0]}/loop/backing_file")
    label = procfs.read_text(f"{root}/sys/block/{below[0]}/dm/name")
    return file or (f"{FOLDER}/{label}" if label else f"/dev/{below[0]}")
