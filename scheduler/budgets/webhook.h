/* Notices to a webhook: POSTs of JSON by libcurl on the loop, tried three times, never waited for. Bounded: at most
 * WEBHOOK_PENDING_MAX under way; what comes beyond is dropped and counted. Neither the URL nor the token is logged
 * (either may hold a secret). */
#ifndef SCHEDULER_BUDGETS_WEBHOOK_H
#define SCHEDULER_BUDGETS_WEBHOOK_H

#include <event2/event.h>

#include "base/error.h"
#include "base/log.h"

#define WEBHOOK_PENDING_MAX 64

struct webhook;
struct webhook_target {
    const char *url, *token_file, *ca_file; /* token_file, ca_file: or NULL */
};
/* log: borrowed. */
struct webhook *webhook_new(struct event_base *loop, const struct log *log);
void webhook_free(struct webhook *w); /* what is under way is dropped; NULL is fine */
void webhook_send(struct webhook *w, const struct webhook_target *to, const char *body, size_t n);
/* dropped: no room; failed: not delivered in three tries. */
struct webhook_stats {
    uint64_t sent, failed, dropped;
};
struct webhook_stats webhook_stats(const struct webhook *w);

#endif
