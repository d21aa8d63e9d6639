"""The Debian package: built, installed, upgraded and removed while a device is in use, which no one of these ends.

pytest tests/device/test_52_package.py --package        a run of its own: dpkg under emulation takes ten minutes

Upgraded to the same package under another version: its server is another file, so what serves can be told.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, cannot
from guest import Guest
from product import Product

SECONDS = 900
"""dpkg compiles some hundred Python files, under emulation."""
NEEDS = ("dpkg-buildpackage", "dh", "lintian")
BUILD_SECONDS = 1800
SERVER = "usr/lib/truezram/lib/python3.[^/]*/site-packages/truezram/bin/truezramd"

# Without the triggers of other packages: man-db's looks at every manual of the machine, more files than virtiofsd may
# have open. So do the caches' inodes.
INSTALL = """
dpkg --no-triggers -i {package} >/root/dpkg.log 2>&1 || {{ cat /root/dpkg.log; exit 1; }}
echo 2 >/proc/sys/vm/drop_caches
hash -r
"""
FILES = """
[ "$(command -v truezram)" = /usr/bin/truezram ]
[ "$(readlink -f /usr/bin/truezram)" = /usr/lib/truezram/bin/truezram ]
[ -s /usr/share/man/man1/truezram.1.gz ]
bash -n /usr/share/bash-completion/completions/truezram
grep -q '^#compdef truezram' /usr/share/zsh/vendor-completions/_truezram
grep -q truezram /usr/share/fish/vendor_completions.d/truezram.fish
# As `enable` would write them: it leaves it at these.
cat >units.py <<'END'
from truezram.engine.device import systemd
print([systemd._is_packaged(swap) for swap in (True, False)])
END
/usr/lib/truezram/bin/python -P units.py
truezram --version
"""
# A reader that never stops; what it reads is the same at all times.
READ = """
dd if=$POOL of=/dev/ublkb0 bs=1M count=16 oflag=direct status=none
cat >reader <<'END'
#!/bin/bash
sum=$(dd if=/dev/ublkb0 bs=1M count=16 iflag=direct status=none | cksum)
echo $sum >/root/first
while sum=$(dd if=/dev/ublkb0 bs=1M count=16 iflag=direct status=none | cksum); do
	[ "$sum" = "$(</root/first)" ] || exit 1
	echo >>/root/reads
done
END
chmod +x reader
echo >reads
setsid ./reader >/dev/null 2>&1 &
echo $! >reader.pid
"""
# Twice more from here on, so at least one whole round was after it.
READS = """
before=$(wc -l <reads)
while [ $(wc -l <reads) -lt $((before + 2)) ]; do kill -0 $(<reader.pid); sleep 0.1; done
"""
KILL = """
read -r pid _ </run/truezram/ublkb0.lock
kill -9 $pid
while read -r now _ </run/truezram/ublkb0.lock; [ "$now" = $pid ]; do sleep 0.1; done
"""
REMOVE = """
dpkg -{how} truezram >/root/dpkg.log 2>&1 || {{ cat /root/dpkg.log; exit 1; }}
hash -r
cat /root/dpkg.log
[ ! -e /usr/bin/truezram ]
[ ! -e /usr/lib/truezram ]
"""
END_BY_HAND = """
kill $(<reader.pid)
read -r pid _ </run/truezram/ublkb0.lock
kill $pid
while [ -e /sys/block/ublkb0 ] || pgrep 'truezramd|tz-' >/dev/null; do sleep 0.1; done
[ ! -e /run/truezram/arena/ublkb0 ]
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The package, with lintian's word on it: built once."""
    if not pytestconfig.getoption("--package"):
        pytest.skip("only with --package")
    if missing := [name for name in NEEDS if shutil.which(name) is None]:
        cannot(f"{', '.join(missing)} not installed (docs/packaging.md)")
    folder = tmp_path_factory.mktemp("package")
    done = subprocess.run(
        [ROOT / ".ci/deb", folder], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deb: all is well" in done.stdout
    (found,) = folder.glob("*.deb")
    return found


def next_version(package: Path, folder: Path, after: str) -> Path:
    """The same package with another version."""
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    control = folder / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {after}", control.read_text()))
    result = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", folder, result], check=True, stdout=subprocess.DEVNULL)
    for path in (folder.parent, *folder.parent.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    return result


@pytest.mark.either
@pytest.mark.guest(memory=768)
def test_installed_upgraded_and_removed(guest: Guest, tools: Path, package: Path, tmp_path: Path) -> None:
    old = package.name.split("_")[1]
    new = f"{old[:-1]}{(int(old[-1]) + 1) % 10}"
    later = next_version(package, tmp_path / "later", new)
    assert os.access(later, os.R_OK)
    product = Product(guest, Path("/usr/bin/truezram"), tools)

    product.strict(INSTALL.format(package=package), timeout=SECONDS)
    assert product.strict(FILES).out.splitlines() == ["[True, True]", f"truezram {old}"]
    path = product.create("--size 64M --id 0")
    product.strict(READ + READS)

    said = product.strict(INSTALL.format(package=later) + "cat dpkg.log", timeout=SECONDS).out
    assert "ublkb0 go on with the server of the version before" in said
    assert "sudo truezram upgrade --all" in said
    product.strict(READS + KILL + READS)  # who takes over is of the old version, whose file is gone
    row = product.stat(path)
    assert (row["recoveries"], row["recovery"]) == (1, "on")
    assert product.json("upgrade --all")["devices"] == [
        {"name": "ublkb0", "before": old, "after": old, "replaced": True}
    ]
    served = "read -r pid _ </run/truezram/ublkb0.lock; readlink /proc/$pid/exe"
    assert re.fullmatch(f"/{SERVER}", product.strict(served + READS).out.strip())  # not "(deleted)"

    said = product.strict(REMOVE.format(how="r"), timeout=SECONDS).out
    pid = product.strict("read -r pid _ </run/truezram/ublkb0.lock; echo $pid").out.strip()
    assert f"ublkb0, server {pid}" in said
    assert "sudo kill SERVER" in said
    product.strict(READS + KILL + READS + KILL + READS)
    assert product.strict(END_BY_HAND).out == ""
    product.strict(REMOVE.format(how="P"), timeout=SECONDS)
