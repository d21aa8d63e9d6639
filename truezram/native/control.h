/* control.h - the control thread's loop. */
#ifndef TZ_CONTROL_H
#define TZ_CONTROL_H

#include "server.h"

/* Serves control messages and signals until the device is to be stopped and may be. */
void tz_control_loop(struct tz_server *s);

#endif
