"""The warm process (warm.py): what it runs cannot tell it from a start of its own, and what it cannot do fails."""

from __future__ import annotations

import pytest
from guest import Guest
from product import Product

pytestmark = pytest.mark.warm

# All that a program is given, and what Python makes of it.
PROBE = """
cat >probe.py <<'END'
import locale, os, resource, signal, socket, sys, threading, time
if "wait" in sys.argv:
    open("waits", "w").write(str(os.getpid()))
    time.sleep(1000)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
for name in ("SigIgn", "SigBlk", "SigCgt", "CapEff", "CapBnd", "Umask", "Uid", "Groups", "Threads", "NoNewPrivs"):
    print(name, status[name].strip())
print(sys.argv, sys.path, sys.flags, sys.executable, os.getcwd(), locale.getpreferredencoding())
print({key: value for key, value in os.environ.items() if key != "_"})
os.system("env | grep -v ^_= | sort; grep Sig /proc/self/status; umask; pwd; ulimit -a; ls /proc/self/fd | wc -l")
print([(number, signal.getsignal(number)) for number in sorted(signal.valid_signals())])
print([resource.getrlimit(number) for number in range(16)], os.nice(0), os.sched_getaffinity(0))
print(os.listdir("/proc/self/fd"), threading.active_count(), open("/proc/self/cgroup").read())
for file in (sys.stdin, sys.stdout, sys.stderr):
    print(file.name, file.mode, file.encoding, file.errors, file.newlines, file.line_buffering, file.isatty())
print(__name__, __file__, open("/proc/self/oom_score_adj").read())
print(repr(sys.stdin.read()), sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__)
sys.stdout.flush()
print("last", file=sys.stderr)
sys.exit(int(sys.argv[1]))
END
"""
COMPARE = """
both() {{ # BEFORE ARGUMENTS: the program with standard streams of its own, its status and both outputs
	for how in python3 {warm}; do
		out=/root/out.${{how##*/}} err=/root/err.${{how##*/}}
		(eval "$1"; shift; echo "given $1" | $how /root/probe.py "$@" >$out 2>$err || echo "status $?" >>$err)
	done
	diff out.python3 out.warmcall && diff err.python3 err.warmcall && grep -q "^last" err.warmcall
}}
both : 0
both 'cd /tmp; umask 027; export X="a b" EMPTY=; unset POOL' 7 '' '  x' "$(printf 'a\\nb\\303\\251\\377')"
both 'trap "" INT TERM USR1' 3
grep -q "status 3" err.warmcall
for n in 1 2 3 4 5 6; do truezram list --bogus 2>err.$n & done
wait
command truezram list --bogus 2>err.real && exit 1
for n in 1 2 3 4 5 6; do cmp err.$n err.real; done
truezram list --json >list; command truezram list --json | diff list -
"""


@pytest.mark.either
def test_what_it_runs_is_like_the_program(product: Product) -> None:
    """Arguments, environment, folder, signals, descriptors, streams, status: the same as of a start of its own."""
    product.strict(PROBE + COMPARE.format(warm=product.python))


SIGNALS = """
for number in {numbers}; do
	rm -f waits
	{warm} probe.py wait 2>err & call=$!
	await [ -s waits ]
	# The shell runs its function's command in a process of its own, which is this one.
	kill -$number $call
	wait $call && status=0 || status=$?
	gone $(cat waits)
	echo $number $status
done
"""


@pytest.mark.either
def test_signals_reach_what_it_runs(product: Product) -> None:
    """The command ends as what it runs does; killed, it takes it along."""
    script = PROBE + "set -m\n" + SIGNALS.format(numbers="INT TERM HUP KILL", warm=product.python)
    assert product.strict(script).out.split("\n")[:4] == ["INT 130", "TERM 143", "HUP 129", "KILL 137"]


@pytest.mark.either
@pytest.mark.parametrize(
    "call",
    [
        "ulimit -n 100; {call}",
        "export TRUEZRAM_DISABLE_CPU=avx2; {call}",
        "nice -n 3 {call}",
        "setpriv --reuid=65534 --clear-groups {call}",
        "setpriv --bounding-set -sys_resource {call}",
        "unshare -m {call}",
    ],
)
def test_another_caller_is_refused(product: Product, call: str) -> None:
    """Nothing is run, and the test would fail if it did not expect it."""
    command = f"{product.python} $(command -v -p true)"
    refused = product.run(call.format(call=command), status=125)
    assert refused.out == ""
    assert "not like the warm process" in refused.err
    assert "not like the warm process" in product.strict("cat /dev/shm/warm.failed; rm /dev/shm/warm.failed").out


@pytest.mark.either
def test_without_it_nothing_is_run(guest: Guest, product: Product) -> None:
    """No other way is taken when it is gone, or goes while it works."""
    guest.restart_wanted = True
    gone = product.run(
        f"{PROBE}\n{product.python} probe.py wait & call=$!\n"
        + """
await [ -s waits ]
kill -9 $(pgrep -x warm) && wait $call""",
        status=125,
    )
    assert "is gone" in gone.err
    product.run("kill -9 $(cat waits)")
    assert "cannot reach the warm process" in product.run("truezram list", status=125).err
    assert len(product.strict("cat /dev/shm/warm.failed; rm /dev/shm/warm.failed").out.splitlines()) == 2
