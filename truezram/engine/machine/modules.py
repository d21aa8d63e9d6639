"""Which drivers the kernel has, or could load."""

from __future__ import annotations

from pathlib import Path

from truezram.engine.machine import procfs
from truezram.engine.machine.procfs import ROOT


def where(name: str, kernel: str, root: Path = ROOT) -> str:
    """Where a driver is: "loaded", "builtin", "file" (modprobe would load it), or empty. `kernel`: its release."""
    if Path(f"{root}/sys/module/{name}").is_dir():
        return "loaded"
    for top in ("lib", "usr/lib"):
        folder = f"{root}/{top}/modules/{kernel}"
        for index, kind in (("modules.builtin", "builtin"), ("modules.dep", "file")):
            text = procfs.read_text(f"{folder}/{index}") or ""
            if f"/{name}.ko" in text or f"/{name.replace('_', '-')}.ko" in text:
                return kind
    return ""
