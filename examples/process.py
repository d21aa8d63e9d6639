"""What the memory of a process would compress to.

    python examples/process.py [PID]

Without PID it looks at itself. Another user's process needs root. Nothing is changed, and nothing is brought back from
swap: a sample of the pages in memory is copied, and the copies are compressed.
"""

import os
import sys

import truezram

pid = int(sys.argv[1]) if len(sys.argv) > 1 else os.getpid()
try:
    found = truezram.estimate(pid, pages=2000)
except truezram.TruezramError as error:
    raise SystemExit(str(error)) from None
total = found.total
print(f"{found.groups[0].name} (pid {pid}): {total.bytes / 2**20:.1f}M of memory, {total.sampled} pages sampled")
print(f"{total.same_filled:.1%} of them repeat one word, and would take 8 bytes each\n")
print("algorithm    ratio   95 % from     to     takes    frees   µs in   µs out")
for one in sorted(total.algorithms, key=lambda one: one.resident):
    speed = f"{one.compress_us:8.1f}{one.decompress_us:9.1f}" if one.compress_us and one.decompress_us else ""
    print(
        f"{one.algorithm:<10}{one.ratio:8.2f}{one.ratio_low:12.2f}{one.ratio_high:7.2f}"
        f"{one.resident / 2**20:9.1f}M{one.gained / 2**20:8.1f}M{speed}"
    )
