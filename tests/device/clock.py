"""Sets the speed of a device's clock of ages: ``python3 clock.py DEVICE SPEED`` (protocol.h: TZ_OP_SET)."""

from __future__ import annotations

import sys

from truezram.engine.device.client import Client

with Client() as client:
    client.set(sys.argv[1], "age_speed", sys.argv[2])
