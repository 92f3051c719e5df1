/* One delivery of the outbox, tried once: by SMTP or as a POST. By libcurl. Blocks for as long as the other side takes,
 * within bounds: a thread of its own. No error names a password, a secret, or the webhook's address (it may hold
 * one). */
#ifndef SCHEDULER_NIGHTLY_SEND_H
#define SCHEDULER_NIGHTLY_SEND_H

#include "scheduler/config/config.h"
#include "scheduler/nightly/outbox.h"

/* stop: becomes true on another thread when it is to end at once. RC_CANCELLED: it did. RC_TIMEOUT, RC_IO: nobody is
 * there, or the connection failed: the others would fare no better. RC_DENIED, RC_INVALID: this one was refused, or
 * cannot be sent. */
enum rc send_item(const struct config_reports *c, const struct outbox_item *item, const bool *stop,
                  struct error *e) SPW_MUST_USE;
/* The value of x-spillway-signature for a body; out >= 72 bytes. */
void send_signature(const char *secret, const void *body, size_t n, char *out);

#endif
