"""truezram: a compressed RAM block device in userspace, and the page codecs behind it.

The library is what `__all__` lists: `Compressor`, `Store`, `Device`, `devices`, `watch`, `estimate`, and the values and
errors that they give. Each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from truezram._version import __version__ as __version__

if TYPE_CHECKING:
    from truezram.codec import DICTIONARY_SIZES as DICTIONARY_SIZES
    from truezram.codec import PAGE_SIZE as PAGE_SIZE
    from truezram.codec import Algorithm as Algorithm
    from truezram.codec import AlgorithmError as AlgorithmError
    from truezram.codec import CompressedPages as CompressedPages
    from truezram.codec import Compressor as Compressor
    from truezram.codec import CorruptError as CorruptError
    from truezram.codec import algorithms as algorithms
    from truezram.engine.answers import Recompressed as Recompressed
    from truezram.engine.device.create import Change as Change
    from truezram.engine.device.local import LocalDevice as LocalDevice
    from truezram.engine.device.removal import Removed as Removed
    from truezram.engine.errors import Busy as Busy
    from truezram.engine.errors import Failed as Failed
    from truezram.engine.errors import NotFound as NotFound
    from truezram.engine.errors import PermissionDenied as PermissionDenied
    from truezram.engine.errors import TruezramError as TruezramError
    from truezram.engine.errors import Unsupported as Unsupported
    from truezram.engine.errors import UsageError as UsageError
    from truezram.engine.measure.estimate import Estimate as Estimate
    from truezram.engine.model import DeviceSnapshot as DeviceSnapshot
    from truezram.engine.model import MachineSnapshot as MachineSnapshot
    from truezram.engine.model import Snapshot as Snapshot
    from truezram.library.device import Device as Device
    from truezram.library.device import devices as devices
    from truezram.library.device import watch as watch
    from truezram.library.memory import estimate as estimate
    from truezram.library.store import Store as Store

_MODULES = {
    "truezram.codec": (
        "DICTIONARY_SIZES",
        "PAGE_SIZE",
        "Algorithm",
        "AlgorithmError",
        "CompressedPages",
        "Compressor",
        "CorruptError",
        "algorithms",
    ),
    "truezram.engine.answers": ("Recompressed",),
    "truezram.engine.device.create": ("Change",),
    "truezram.engine.device.local": ("LocalDevice",),
    "truezram.engine.device.removal": ("Removed",),
    "truezram.engine.errors": (
        "Busy",
        "Failed",
        "NotFound",
        "PermissionDenied",
        "TruezramError",
        "Unsupported",
        "UsageError",
    ),
    "truezram.engine.measure.estimate": ("Estimate",),
    "truezram.engine.model": (
        "DeviceSnapshot",
        "MachineSnapshot",
        "Snapshot",
    ),
    "truezram.library.device": (
        "Device",
        "devices",
        "watch",
    ),
    "truezram.library.memory": ("estimate",),
    "truezram.library.store": ("Store",),
}
"""Which module has which names (and those above are for type checkers)."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(["__version__", *_MODULE_OF])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'truezram' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
