"""Reads ``zram-generator.conf``, so that a machine that has kernel zram by zram-generator can have the same with
truezram.

Sizes there are expressions in MiB of ``ram``, as in ``min(ram / 2, 4096)``. What has no counterpart (a writeback
device, parameters of algorithms, variables that programs set) is named, not dropped in silence.
"""

from __future__ import annotations

import ast
import configparser
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from truezram.engine.errors import Failed, NotFound, UsageError
from truezram.engine.machine import advice
from truezram.engine.units import PAGE

FILES = tuple(Path(f"/{folder}/systemd/zram-generator.conf") for folder in ("etc", "run", "usr/local/lib", "usr/lib"))
"""Where it is looked for; the first one counts, as with zram-generator."""
DEFAULT_SIZE = "min(ram / 2, 4096)"
_MIB = 1 << 20
_KNOWN = {
    "zram-size", "zram-fraction", "max-zram-size", "host-memory-limit", "memory-limit", "compression-algorithm",
    "swap-priority", "zram-resident-limit", "mount-point", "fs-type", "writeback-device", "options",
}  # fmt: skip
_KERNEL_ONLY = {"lzo", "lzo-rle", "lz4hc", "842", "deflate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One section. Bytes."""

    name: str
    size: int
    mem_limit: int
    algorithm: str | None = None
    priority: int | None = None
    fs: str | None = None
    mount: str | None = None
    notes: tuple[str, ...] = ()
    """What is different from what the file says."""


def find() -> Path:
    """The file that zram-generator would read. Raises `NotFound`."""
    found = next((path for path in FILES if path.is_file()), None)
    if found is None:
        where = ", ".join(str(path.parent) for path in FILES)
        raise NotFound("no zram-generator.conf", f"it is not in {where}", "Name the file")
    return found


def read(path: Path, memory: int) -> tuple[Device, ...]:
    """The devices of a file, for a machine with `memory` bytes. Raises `NotFound`, `Failed`, `UsageError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"cannot read {path}", "it is not there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot read {path}", getattr(error, "strerror", "") or str(error)) from None
    return parse(text, memory, str(path))


def parse(text: str, memory: int, name: str = "zram-generator.conf") -> tuple[Device, ...]:
    """As `read`."""
    what = f"cannot use {name}"
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#", ";"), delimiters=("=",))
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise UsageError(what, " ".join(str(error).split())) from None
    found = []
    for section in parser.sections():
        if not re.fullmatch(r"zram\d{1,7}", section, re.ASCII):
            raise UsageError(what, f"[{section[:40]}] is not a zram device", "Sections are called zram0, zram1, …")
        device = _device(f"{what}: [{section}]", section, parser[section], memory)
        if device is not None:
            found.append(device)
    return tuple(found)


def _device(what: str, name: str, keys: Mapping[str, str], memory: int) -> Device | None:
    """None for one that is not made on a machine with so much memory."""
    notes = [f"{key} is not known, and left out" for key in keys if key not in _KNOWN]
    most = keys.get("host-memory-limit", keys.get("memory-limit", "none"))
    if most != "none" and memory > _number(what, "host-memory-limit", most, memory) * _MIB:
        return None
    size = _size(what, "zram-size", _expression(keys), memory)
    limit = keys.get("zram-resident-limit", "0")
    mem_limit = _size(what, "zram-resident-limit", limit, memory) if limit.strip() not in ("", "0") else 0
    if not mem_limit:
        mem_limit = advice.limit_for(size, memory)
        if mem_limit:
            notes.append("it has no limit there: half of the memory is taken")
    if keys.get("writeback-device"):
        notes.append("its writeback-device is left out")
    mount = keys.get("mount-point")
    algorithm = _algorithm(keys.get("compression-algorithm", ""), notes)
    priority = keys.get("swap-priority")
    return Device(
        name=name,
        size=size,
        mem_limit=mem_limit,
        algorithm=algorithm,
        priority=None if priority is None or mount else _priority(what, priority),
        fs=_filesystem(keys.get("fs-type", "ext2"), notes) if mount else None,
        mount=mount,
        notes=tuple(notes),
    )


def _expression(keys: Mapping[str, str]) -> str:
    """The size, also by the keys of before 1.0."""
    if "zram-size" in keys:
        return keys["zram-size"]
    if "zram-fraction" in keys or "max-zram-size" in keys:
        fraction, most = keys.get("zram-fraction", "0.5"), keys.get("max-zram-size", "4096")
        return f"ram * {fraction}" if most == "none" else f"min(ram * {fraction}, {most})"
    return DEFAULT_SIZE


def _algorithm(text: str, notes: list[str]) -> str | None:
    """The first of them, in our words; None for the default."""
    words = text.split()
    if not words:
        return None
    name = words[0].partition("(")[0]
    if len(words) > 1 or "(" in text:
        notes.append(f"of compression-algorithm only {name} is taken: policies recompress idle pages")
    if name in _KERNEL_ONLY:
        notes.append(f"{name} is not one of truezram's: the default takes its place")
        return None
    return name


def _filesystem(fs: str, notes: list[str]) -> str:
    if fs in ("ext2", "ext3"):
        notes.append(f"{fs} becomes ext4")
        return "ext4"
    return fs


def _priority(what: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text.strip(), re.ASCII) or int(text) > 32767:
        raise UsageError(what, f"swap-priority is {text[:40]!r}", "It must be 0 to 32767")
    return int(text)


def _size(what: str, key: str, text: str, memory: int) -> int:
    size = int(_number(what, key, text, memory) * _MIB) // PAGE * PAGE
    if size <= 0:
        raise UsageError(what, f"{key} is {text[:60]!r}, which is nothing", "It must be more than 0")
    return size


# ---- expressions ----

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "int": math.trunc, "ceil": math.ceil, "floor": math.floor, "abs": abs, "round": round,
    "sign": lambda value: math.copysign(1, value) if value else 0,
}  # fmt: skip


def _number(what: str, key: str, text: str, memory: int) -> float:
    """The value of an expression, in MiB. Raises `UsageError`."""
    try:
        if len(text) > 200:
            raise ValueError("it is too long")
        value = _value(ast.parse(text.strip().replace("^", "**"), mode="eval").body, memory / _MIB)
        if not math.isfinite(value):
            raise ValueError("it is not a number")
        return value
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        why = "it is not an expression" if isinstance(error, SyntaxError) else str(error)
        raise UsageError(what, f"{key} is {text[:60]!r}: {why}", "As in: min(ram / 2, 4096)") from None


def _value(node: ast.expr, ram: float) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id == "ram":
        return ram
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, ram), _value(node.right, ram))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, ram)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and node.args:
        if node.func.id in _FUNCTIONS:
            return float(_FUNCTIONS[node.func.id](*(_value(argument, ram) for argument in node.args)))
        raise ValueError(f"there is no function {node.func.id}")
    raise ValueError("truezram does not know this kind of expression")
