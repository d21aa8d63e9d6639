"""Writes the C source of the cffi extension ``truezram._native`` (API mode). Run by meson, not imported.

usage: build_native.py CDEF OUTPUT
"""

import sys
from pathlib import Path

import cffi

PREAMBLE = """
#include "batch.h"
#include "bench.h"
#include "codec.h"
#include "dictionary.h"
#include "local.h"
#include "protocol.h"
#include "stats.h"
#include "store.h"
#include "ublk.h"
"""


def main() -> None:
    cdef, output = sys.argv[1:]
    ffi = cffi.FFI()
    ffi.cdef(Path(cdef).read_text())
    ffi.set_source("truezram._native", PREAMBLE, py_limited_api=True)
    ffi.emit_c_code(output)


main()
