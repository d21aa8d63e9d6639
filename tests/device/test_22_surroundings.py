"""A server is independent of the process that created its device: cgroup, scheduling, limits, umask, mounts."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

LIFE = """
path=$(truezram create --size 64M {options})
pid=$(truezram stat $path --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["devices"][0]["pid"])')
echo "cgroup $(cat /proc/$pid/cgroup)"
grep -E 'Umask|Cpus_allowed_list' /proc/$pid/status
echo "nice $(cut -d')' -f2 /proc/$pid/stat | awk '{{ print $17, "policy", $39 }}')"
grep -E 'Max (file size|locked memory|open files|address space)' /proc/$pid/limits
echo "mnt $(readlink /proc/$pid/ns/mnt)"
echo "run $(stat -c %a /run/truezram)"
echo "dump $(stat -c %U /proc/$pid/environ)"
"""


@pytest.mark.either
@pytest.mark.guest(cpus=2)
def test_nothing_of_the_creator_is_kept(product: Product) -> None:
    """A creator in a cgroup of 60 MiB, niced, on one CPU, with a umask of 077 and limits on files and memory."""
    out = product.strict(
        """
rm -rf /run/truezram
echo "+memory" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
mkdir -p /sys/fs/cgroup/small
echo "init $(readlink /proc/1/ns/mnt)"
cat >creator <<'END'
set -e
echo $$ >/sys/fs/cgroup/small/cgroup.procs
umask 077; ulimit -S -n 64; ulimit -f 1000; ulimit -l 64
renice -n 7 $$ >/dev/null; taskset -pc 0 $$ >/dev/null
"""
        + LIFE.format(options="")
        + """
END
bash creator
"""
    ).out
    path = product.json("list")["devices"][0]["path"]
    said = dict(
        line.split(" ", 1) for line in out.splitlines() if line.split()[0] in ("cgroup", "mnt", "init", "run", "nice")
    )
    assert said["cgroup"] == "0::/", out
    assert "Umask:\t0022" in out, out
    assert "Cpus_allowed_list:\t0-1" in out, out
    assert said["nice"] == "0 policy 0", out
    assert said["mnt"] == said["init"]
    assert said["run"] == "755"
    limits = {line[:26].strip(): line[26:].split()[0] for line in out.splitlines() if line.startswith("Max")}
    assert limits["Max file size"] == limits["Max locked memory"] == "unlimited", out
    assert int(limits["Max open files"]) > 64, out
    product.run("rmdir /sys/fs/cgroup/small")
    product.remove(path)


@pytest.mark.either
def test_memory_is_not_charged_to_the_creator(product: Product) -> None:
    """A device made from a cgroup of 48 MiB takes 96 MiB of pages that do not compress; no process is killed for it."""
    out = product.strict(
        """
echo "+memory" >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/small
echo 48M >/sys/fs/cgroup/small/memory.max
bash -c 'echo $$ >/sys/fs/cgroup/small/cgroup.procs; truezram create --size 256M' >path
head -c 96M /dev/urandom | dd of=$(cat path) bs=1M oflag=direct iflag=fullblock status=none
cat /sys/fs/cgroup/small/memory.events
rmdir /sys/fs/cgroup/small
cat path
""",
    ).out
    assert "oom_kill 0" in out, out
    path = out.split()[-1]
    assert product.stat(path)["mem_used_total"] > 96 << 20
    product.remove(path)


@pytest.mark.either
def test_a_mount_namespace_of_its_own(product: Product) -> None:
    """Created inside one, the server is outside: a filesystem on the device that is mounted only there goes with the
    last process in it."""
    out = product.strict(
        """
cat >creator <<'END'
set -e
path=$(truezram create --size 64M)
mkfs.ext4 -q $path
mkdir -p /mnt/inside
mount $path /mnt/inside
echo x >/mnt/inside/x
echo $path
END
unshare -m --propagation private bash creator
"""
    ).out
    path = out.split()[-1]
    pid = product.stat(path)["pid"]
    same = product.run(f"[ $(readlink /proc/{pid}/ns/mnt) = $(readlink /proc/1/ns/mnt) ] && echo same").out
    assert same == "same\n"
    product.strict(f"await mount {path} /mnt; cat /mnt/x; umount /mnt")
    product.remove(path)


@pytest.mark.either
def test_a_file_size_limit_is_an_error_of_its_own(product: Product) -> None:
    """Who may not lift it gets no device and exit code 1; who may does not notice it."""
    script = "ulimit -f 0; truezram create --size 64M --transport local"
    command = f"setpriv --bounding-set -sys_resource bash -c '{script}' 2>&1 | cat; exit ${{PIPESTATUS[0]}}"
    refused = product.run(command, status=1)
    assert "large" in refused.out.lower(), refused.out
    product.run("(ulimit -f 0; command truezram create --size 64M 2>&1) | cat")
    path = product.json("list")["devices"][0]["path"]
    product.remove(path)
