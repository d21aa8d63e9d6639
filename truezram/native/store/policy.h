/* policy.h - what a device does with idle pages by itself (policy.c), as the arena has it. */
#ifndef TZ_POLICY_H
#define TZ_POLICY_H

#include <stdint.h>

/* Pages that have been idle for so many seconds are written once more with `dense`, packed in
 * groups, or written to the backing file (0: never), with so much of a core in per cent. */
struct tz_policy {
	uint32_t idle_dense, idle_cold, cpu_percent, idle_backing;
};

/* A whole number from 0 to `most`, digits only, and what follows it. 0 or -EINVAL. */
int tz_policy_number(const char *text, uint32_t most, uint32_t *out, const char **end);
/* "IDLE_DENSE:IDLE_COLD:CPU_PERCENT[:IDLE_BACKING]", whole numbers. 0 or -EINVAL. */
int tz_policy_parse(const char *text, struct tz_policy *out);

#endif
