"""truezram: a compressed RAM block device in userspace, and the page codecs behind it.

The library is ``Compressor`` and ``algorithms``; it is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truezram._version import __version__ as __version__

if TYPE_CHECKING:
    from truezram.codec import (
        DICTIONARY_SIZES,
        PAGE_SIZE,
        Algorithm,
        AlgorithmError,
        CompressedPages,
        Compressor,
        CorruptError,
        algorithms,
    )

__all__ = [
    "DICTIONARY_SIZES",
    "PAGE_SIZE",
    "Algorithm",
    "AlgorithmError",
    "CompressedPages",
    "Compressor",
    "CorruptError",
    "__version__",
    "algorithms",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'truezram' has no attribute {name!r}")
    from truezram import codec

    return getattr(codec, name)
