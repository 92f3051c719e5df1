/* What leaves towards a request's client: every byte of its answer goes through here, and what is kept of it for
 * repeats (idempotency.h) is kept here. Without a client (r->x NULL) it is kept all the same.
 *
 * Where it says that r->x is over, it is NULL afterwards. On the request's own loop. */
#ifndef SCHEDULER_FRONT_REPLY_H
#define SCHEDULER_FRONT_REPLY_H

#include <stddef.h>
#include <stdint.h>

struct http_header;
struct request;

/* The head of a stream. node: who answers, or NULL: nobody yet. The second time: nothing happens. */
void reply_head(struct request *r, const char *node);
void reply_write(struct request *r, const void *data, size_t n);
void reply_end(struct request *r); /* r->x is over */
#define REPLY_HEADERS_MAX 32
/* All at once; status 200. At most REPLY_HEADERS_MAX. r->x is over. */
void reply_whole(struct request *r, const struct http_header *headers, int n, const void *body, size_t bytes);
/* What was written leaves at once, and not at the end of the turn. */
void reply_push(struct request *r);
/* r->error, which nobody keeps, before any head. node may be NULL. r->x is over. */
void reply_error(struct request *r, const char *node);

#define REPLY_COMMENT ": waiting\n\n" /* keeps a stream's connection alive; clients skip it */
/* Milliseconds until the client of a stream without an answer should hear something; -1: it need not. */
int64_t reply_beat_ms(const struct request *r);
/* Tell it, if it is time. */
void reply_beat(struct request *r);

#endif
