"""Without root: the demo and the verbs with a local device, as an ordinary user."""

from __future__ import annotations

import json

import pytest
from product import Product

# The virtual environment and its Python may lie below a private home folder: opened up, in the guest only.
SET_UP = """
for path in "$(command -v truezram)" "$(readlink -f "$(dirname "$(command -v truezram)")/python3")"; do
	while [ "$path" != / ]; do path=$(dirname "$path"); chmod a+x "$path"; done
done
mkdir -p /home/user/run
chown -R 65534:65534 /home/user
chmod 700 /home/user/run
"""
AS_NOBODY = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups"
    ' env -i PATH="$PATH" HOME=/home/user XDG_RUNTIME_DIR=/home/user/run'
)


@pytest.mark.either
def test_local_as_an_ordinary_user(product: Product) -> None:
    """create, list, remove of a local device; ublk is refused with status 3 and a reason."""
    product.strict(SET_UP)
    created = product.run(f"{AS_NOBODY} truezram create --size 64M --transport local").out.strip()
    listed = json.loads(product.run(f"{AS_NOBODY} truezram list --json").out)
    assert [row["path"] for row in listed["devices"]] == [created]
    assert listed["devices"][0]["transport"] == "local"
    product.run(f"{AS_NOBODY} truezram remove {created}")
    refused = product.run(f"{AS_NOBODY} truezram create --size 64M --transport ublk", status=3)
    assert refused.err.strip()
    assert product.run("find /home/user/run -mindepth 1 -not -type d; pgrep -a truezramd", status=None).out == ""


@pytest.mark.either
def test_demo_as_an_ordinary_user(product: Product) -> None:
    """The README's command without a terminal: a local device under real load, verified, and nothing left behind."""
    product.strict(SET_UP)
    shown = product.run(f"{AS_NOBODY} truezram demo")
    text = shown.out.lower()
    assert "local" in text
    assert "verified" in text
    assert product.run("find /home/user/run -mindepth 1 -not -type d; pgrep -a truezramd", status=None).out == ""
