"""A filesystem: ext4 made, filled with a tree of real files, checked, mounted again, compared."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm


def test_ext4(product: Product) -> None:
    """What was copied in is there after unmounting, a forced check finds nothing, and every byte is the same."""
    path = product.create("--size 256M")
    product.strict(
        f"""
mkdir -p /mnt/disk
mkfs.ext4 -q -F {path}
mount {path} /mnt/disk
tree=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir /mnt/disk/tree
cd "$tree"
find . -maxdepth 1 -name '*.py' -size -200k | sort >/root/names
xargs -a /root/names cp -p --parents -t /mnt/disk/tree
cp "$POOL" /mnt/disk/pages
dd if=/dev/zero of=/mnt/disk/zeros bs=1M count=8 status=none
test "$(find /mnt/disk/tree -name '*.py' | wc -l)" -gt 100
cd /mnt/disk && find tree pages zeros -type f -print0 | sort -z | xargs -0 sha256sum >/root/sums
(cd "$tree" && xargs -a /root/names sha256sum) | sort >/root/before
cd / && umount /mnt/disk
e2fsck -f -n {path}
mount -o ro {path} /mnt/disk
cd /mnt/disk && sha256sum --quiet -c /root/sums
(cd tree && xargs -a /root/names sha256sum) | sort | cmp - /root/before
cmp pages "$POOL"
cd / && umount /mnt/disk
""",
    )
    product.remove(path)
