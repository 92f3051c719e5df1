/* Small messages between a supervisor and its worker, over a socket pair of the kind that keeps messages whole
 * (SOCK_SEQPACKET): a type, up to CHANNEL_BYTES_MAX bytes, and maybe one file descriptor that goes along (SCM_RIGHTS).
 * Both ends are the same program, so that structs go as they are; the receiver checks each one's length.
 *
 * What the kernel does not take at once waits here, in order, at most CHANNEL_QUEUE_MAX messages. Loop thread only;
 * calls back from the loop, never from inside a call. */
#ifndef ENGINE_NODE_CHANNEL_H
#define ENGINE_NODE_CHANNEL_H

#include <event2/event.h>

#include "base/error.h"

#define CHANNEL_BYTES_MAX (160u * 1024) /* what the kernel takes in one piece by default is little more */
#define CHANNEL_QUEUE_MAX 8192

struct channel_message {
    uint32_t type;
    const void *data; /* aligned to 16; lent for the call */
    size_t n;
    int fd; /* -1: none; the receiver's */
};

struct channel_handlers {
    void (*on_message)(const struct channel_message *m, void *arg);
    /* The other end is gone, or says what nobody understands. No call follows; may free the channel. */
    void (*on_closed)(void *arg);
};

struct channel;
/* Two ends, non-blocking, close-on-exec. */
enum rc channel_pair(int fds[2], struct error *e) SPW_MUST_USE;
/* fd becomes the channel's. */
enum rc channel_new(struct channel **c, struct event_base *loop, int fd, const struct channel_handlers *h, void *arg,
                    struct error *e) SPW_MUST_USE;
/* What waits is not sent any more; descriptors with it are closed. May be called from inside a handler. NULL is fine. */
void channel_free(struct channel *c);
/* fd (-1: none) becomes the channel's, also on failure. RC_FULL: too many messages wait (the other end is stuck).
 * RC_IO: the other end is gone; on_closed follows if it was not called, after what it had sent before. */
enum rc channel_send(struct channel *c, uint32_t type, const void *data, size_t n, int fd) SPW_MUST_USE;
/* Hand over now what has arrived: for who learns otherwise that the other end is gone, and wants its last words. Not
 * from inside a handler. */
void channel_receive(struct channel *c);

#endif
