"""Writes the C source of the cffi extension `truezram._native` (API mode). Run by meson, not imported.

usage: build_native.py CDEF NATIVE OUTPUT DEPFILE

CDEF is what Python sees. A line `from "X.h": enum a, struct b` in it stands for the definitions of these in the header
X.h, which is looked for below the folder NATIVE, so enums and structs are written down once, in C. DEPFILE tells ninja
which headers were read.
"""

import re
import sys
from pathlib import Path

import cffi

FROM = re.compile(r'^from "(?P<header>[\w.]+)":(?P<names>.*)$', re.MULTILINE)


def definition(header: Path, what: str) -> str:
    """`enum a` or `struct b` as the header defines it; lengths of arrays are left to the compiler."""
    found = re.findall(rf"^{what} \{{.*?\}};", header.read_text(), re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"{header} has {len(found)} definitions of {what!r}, not one")
    return re.sub(r"\[TZ_\w+\]", "[...]", found[0])


def main() -> None:
    cdef, native, output, depfile = sys.argv[1:]
    headers: dict[str, Path] = {}

    def expand(line: re.Match[str]) -> str:
        name = line["header"]
        (headers[name],) = Path(native).rglob(name)
        return "\n".join(definition(headers[name], what.strip()) for what in line["names"].split(",") if what.strip())

    ffi = cffi.FFI()
    ffi.cdef(FROM.sub(expand, Path(cdef).read_text()))
    ffi.set_source("truezram._native", "".join(f'#include "{name}"\n' for name in headers), py_limited_api=True)
    ffi.emit_c_code(output)
    Path(depfile).write_text(f"{output}: {' '.join(map(str, headers.values()))}\n")


main()
