"""Memory that queue threads touch is locked, and stays so after each change; what cannot be locked makes no device."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# Of each mapping of process $1 that is readable and resident whether it is locked, but for those that need not be: the
# kernel's own, the control thread's stack, and the arena, which is on a tmpfs that is never swapped out.
UNLOCKED = """
python3 - "$1" <<'END'
import re, sys
free = ("[stack]", "[vdso]", "[vvar", "[vsyscall]", "anon_inode:[io_uring]", "/dev/ublkc", "/run/truezram/arena/")
mapping, values, count = None, {}, 0
for line in open(f"/proc/{sys.argv[1]}/smaps"):
    if begin := re.match(r"([0-9a-f]+-[0-9a-f]+) (\\S+) \\S+ \\S+ \\S+ *(.*)", line):
        mapping, values = begin.groups(), {}
        continue
    key, _, value = line.partition(":")
    values[key] = value.split()
    if key != "VmFlags":
        continue
    _, perms, name = mapping
    count += 1
    if perms[0] != "r" or int(values["Rss"][0]) == 0 or any(part in name for part in free):
        continue
    # "Locked" is this process's share, as Pss is.
    kept = "lo" in values["VmFlags"] and int(values["Locked"][0]) >= int(values["Pss"][0])
    print("libzstd" if "zstd" in name else "other", "kept" if kept else f"NOT LOCKED {mapping} {values}")
END
"""


@pytest.mark.either
def test_locked_after_each_change(product: Product) -> None:
    """libzstd too, on a device that was made with another algorithm."""
    path = product.create("--size 64M --algorithm fast")
    pid = product.stat(path)["pid"]
    for change in ("", "algorithm=zstd:3", "algorithm=dense", "algorithm=auto", "mem_limit=32M"):
        if change:
            product.run(f"truezram set {path} {change}")
        out = product.run(f"set -- {pid}\n{UNLOCKED}").out
        assert "NOT LOCKED" not in out, f"after {change or 'create'}: {out}"
        assert "libzstd kept" in out, out
        assert "other kept" in out
        assert product.stat(path)["memory_locked"] is True
    product.remove(path)


LIMITED = "setpriv --bounding-set -ipc_lock,-sys_resource bash -c 'ulimit -l 64; {}'"


@pytest.mark.either
def test_a_limit_is_noticed(product: Product) -> None:
    """Root that may neither lock memory nor lift the limit: no block device; a local device says it is not locked."""
    refused = product.run(LIMITED.format("truezram create --size 64M"), status=3)
    assert "lock" in refused.err, refused.err
    assert product.json("list")["devices"] == []
    product.run(LIMITED.format("truezram create --size 64M --transport local"))
    (row,) = product.json("list")["devices"]
    assert product.json(f"stat {row['name']}")["devices"][0]["memory_locked"] is False
    product.run(f"truezram remove {row['name']}")


@pytest.mark.either
def test_a_limit_that_root_may_lift_is_lifted(product: Product) -> None:
    """`ulimit -l 64` of the process that creates the device has no effect."""
    product.run("ulimit -l 64; command truezram create --size 64M")
    (row,) = product.json("list")["devices"]
    assert product.stat(row["path"])["memory_locked"] is True
    product.remove(row["path"])


@pytest.mark.either
def test_a_change_that_cannot_be_locked_is_refused(product: Product) -> None:
    """From a server that has no right to lock beyond a limit, the limit is taken: another algorithm's memory would not
    be locked. What was stored stays readable."""
    path = product.run("setpriv --bounding-set -ipc_lock truezram create --size 64M --algorithm fast").out.strip()
    pid = product.stat(path)["pid"]
    assert product.stat(path)["memory_locked"] is True
    product.strict(f'pagetool fill "$POOL" {path} 2000; prlimit --pid {pid} --memlock=65536:65536')
    refused = product.run(f"truezram set {path} algorithm=zstd:19", status=1)
    assert "lock" in refused.err, refused.err
    row = product.stat(path)
    assert row["algorithm"] == "fast"
    locked = "NOT LOCKED" not in product.run(f"set -- {pid}\n{UNLOCKED}").out
    assert row["memory_locked"] is locked
    product.strict(f'pagetool check "$POOL" {path} 2000')
    product.remove(path)
