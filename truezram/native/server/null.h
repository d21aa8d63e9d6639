/* null.h - a ublk device without a store, the floor of `truezram benchmark device`. */
#ifndef TZ_NULL_H
#define TZ_NULL_H

/* The life of its server: `truezramd --null BYTES QUEUES DEPTH`. The exit status. */
int tz_null_main(int argc, char **argv);

#endif
