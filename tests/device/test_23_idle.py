"""A device at rest costs nothing: no pressure, no iowait, no wake-ups."""

from __future__ import annotations

from product import Product, numbers

SECONDS = 10

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
look | tr '\\n' ' '; echo
sleep {seconds}
look | tr '\\n' ' '; echo
getconf CLK_TCK
"""


def test_an_idle_device_is_idle(product: Product) -> None:
    """Over ten seconds: pressure rises by less than 1 %, iowait is less than 2 %, the server hardly wakes up."""
    path = product.create("--size 256M --queues 1")
    product.strict(f'pagetool fill "$POOL" {path} 2000; sleep 2')
    pid = product.stat(path)["pid"]
    first, second, ticks = product.strict(MEASURE.format(pid=pid, seconds=SECONDS)).out.splitlines()
    before, after = numbers(first), numbers(second)
    rise = {key: int(after[key]) - int(before[key]) for key in after if key in before}
    assert rise["tz-queue-0"] <= 2, rise
    for key in ("some_us", "full_us"):
        if key in rise:  # a kernel may be built without PSI
            assert rise[key] < SECONDS * 1_000_000 * 0.01, rise
    assert rise["iowait_ticks"] < SECONDS * int(ticks) * 0.02, rise
    assert rise["switches"] < 20, rise
    product.remove(path)
