"""Writes the C source of the cffi extension `truezram._native` (API mode). Run by meson, not imported.

usage: build_native.py CDEF NATIVE OUTPUT DEPFILE

CDEF lists what Python sees: `from "X.h" { NAME, ... }` stands for the declarations of these names in the header X.h,
which is searched below the folder NATIVE. So everything that C and Python share is written once, in C. A NAME is
`enum x`, `struct x` (an opaque type if the header only declares it), a constant in capitals, or a function. DEPFILE
lists the headers that were read, for ninja.
"""

import re
import sys
from pathlib import Path

import cffi

FROM = re.compile(r'^from "(?P<header>[\w.]+)" \{(?P<names>[^}]*)\}$', re.MULTILINE)


def declaration(header: str, text: str, name: str) -> str:
    """The declaration of a name for cffi; the lengths of arrays are left to the compiler."""
    if name.isupper():
        pattern, result = rf"^#define {name}\s", f"#define {name} ..."
    elif " " in name:
        pattern, result = rf"^{name}(?: \{{.*?\}})?;", ""
    else:
        pattern, result = rf"^[^\n;{{}}#/]*\b{name}\([^()]*\)", ""
    found = [m[0] for m in re.finditer(pattern, text.replace("static inline ", ""), re.MULTILINE | re.DOTALL)]
    found = [item for item in found if "{" in item] or found  # `struct x;` may precede its definition
    if len(found) != 1:
        raise SystemExit(f"{header} has {len(found)} declarations of {name!r}, not one")
    result = result or re.sub(r"\[TZ_\w+\]", "[...]", found[0])
    return result if result.endswith((";", "...")) else result + ";"


def main() -> None:
    cdef, native, output, depfile = sys.argv[1:]
    headers: dict[str, Path] = {}

    def expand(block: re.Match[str]) -> str:
        header = block["header"]
        (headers[header],) = Path(native).rglob(header)
        text = headers[header].read_text()
        return "\n".join(declaration(header, text, " ".join(name.split())) for name in block["names"].split(","))

    ffi = cffi.FFI()
    ffi.cdef(FROM.sub(expand, Path(cdef).read_text()))
    ffi.set_source("truezram._native", "".join(f'#include "{name}"\n' for name in headers), py_limited_api=True)
    ffi.emit_c_code(output)
    Path(depfile).write_text(f"{output}: {' '.join(map(str, headers.values()))}\n")


main()
