"""A device at rest costs nothing: no pressure, no iowait, no wake-ups."""

from __future__ import annotations

import pytest
from product import Product, numbers

SECONDS = 5
WINDOWS = 60

MEASURE = """
look() {{
	awk '$1 == "some" || $1 == "full" {{ sub("total=", "", $5); print $1 "_us=" $5 }}' /proc/pressure/io
	awk '$1 == "cpu" {{ print "iowait_ticks=" $6 }}' /proc/stat
	cat /proc/{pid}/task/*/status | awk '/^voluntary_ctxt_switches/ {{ n += $2 }} END {{ print "switches=" n }}'
	for task in /proc/{pid}/task/*; do
		read -r name <$task/comm
		awk -v name="$name" '/^voluntary_ctxt_switches/ {{ print name "=" $2 }}' $task/status
	done
}}
look >/dev/null; sleep 0.1 # what reads the programs' files
look | tr '\\n' ' '; echo
sleep {seconds}
look | tr '\\n' ' '; echo
getconf CLK_TCK
"""


def test_an_idle_device_is_idle(product: Product) -> None:
    """Over five seconds, pressure rises by less than 1 %, iowait is less than 2 %, and the server hardly wakes up, once
    it has put things in order and nobody else uses the disk."""
    path = product.create("--size 256M --queues 1")
    product.strict(f'pagetool fill "$POOL" {path} 2000')
    pid = product.stat(path)["pid"]
    busy: list[dict[str, int]] = []
    for _ in range(WINDOWS):
        first, second, ticks = product.strict(MEASURE.format(pid=pid, seconds=SECONDS)).out.splitlines()
        before, after = numbers(first), numbers(second)
        rise = {key: int(after[key]) - int(before[key]) for key in after if key in before}
        most = {
            "tz-queue-0": 1,
            "some_us": SECONDS * 10_000,  # a kernel may be built without PSI
            "full_us": SECONDS * 10_000,
            "iowait_ticks": SECONDS * int(ticks) // 50,
            "switches": 10,
        }
        if all(rise.get(key, 0) <= limit for key, limit in most.items()):
            break
        busy.append(rise)
    else:
        pytest.fail(f"it is never idle: {busy}")
    assert {"tz-queue-0", "iowait_ticks", "switches"} <= rise.keys()
    product.remove(path)
