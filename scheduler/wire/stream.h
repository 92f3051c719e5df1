/* A streamed answer on its way from a node to a client. Only whole frames are forwarded; text leaves at once; the
 * finish frame, the usage frame and [DONE] are held back until the caller says that the ledger row is committed.
 *
 * Usage is asked of every node (request_splice) and believed in whichever chunk carries it. The client gets it only if
 * it asked: in one last chunk without choices, as OpenAI sends it, with "spillway":{"node","charge_usd"} and, where it
 * is known, "joules_estimated" beside it.
 *
 * An answer may take several legs. What has left is noted in the trail; a later leg's chunks get the first one's id and
 * created, its role chunk is dropped, and token ids, which are the scheduler's business, are cut out. With a `whole`
 * the chunks are gathered there instead of being written.
 *
 * No I/O here: bytes in, bytes out. One struct stream per leg that has begun to answer. */
#ifndef SCHEDULER_WIRE_STREAM_H
#define SCHEDULER_WIRE_STREAM_H

#include "base/money.h"
#include "base/sse.h"
#include "scheduler/wire/pattern.h"
#include "scheduler/wire/scan.h"
#include "scheduler/wire/trail.h"
#include "scheduler/wire/whole.h"

#define STREAM_FRAME_BYTES_MAX ((size_t)4 << 20)

/* What the node's steps were for this leg, in one hour (docs/NODE_API.md, Usage); millijoules -1: it doesn't know. */
struct stream_use {
    int64_t hour_s, busy_us, millijoules;
};
#define STREAM_USES 4

struct stream {
    struct sse *frames;                                           /* owned; NULL until the first byte */
    struct trail *trail;                                          /* borrowed; NULL: there is this leg and no other */
    struct whole *whole;                                          /* borrowed; NULL: frames are written */
    void (*tap)(struct span chunk, struct span plain, void *arg); /* NULL: nobody listens */
    void *tap_arg;
    bool later;         /* the client has chunks of an earlier leg */
    struct strbuf held; /* finished frames that wait for the ledger; with a whole: the finish chunk's JSON */
    struct strbuf like; /* a chunk of this stream, after which the final usage chunk is made */
    struct pattern pattern;
    struct strbuf usage; /* the node's usage object, as it wrote it */
    struct strbuf
        name; /* of the model, as JSON, shown to the client instead of the node's own; empty: the node's stays */
    const char *tier;    /* that the chunks shall say they were served as, or NULL; static */
    bool usage_asked;    /* by the client */
    bool usage_known;    /* counts are the node's figures */
    bool finished, done; /* a finish_reason came; [DONE] came */
    bool leaving;        /* the node said that it is about to go, and will cut the stream */
    struct token_counts counts;
    int64_t reasoning; /* part of counts.output, as the node says; 0: it doesn't */
    struct stream_use uses[STREAM_USES];
    int n_uses;             /* 0: the node doesn't tell */
    int64_t content_chunks; /* that carried text, thinking or tool calls: what we count when nobody else does */
    int64_t tokens;         /* ids that came with them */
    int64_t pieces;         /* chunks that brought the answer on: with text, ids or a finish_reason */
};

enum stream_status {
    STREAM_MORE,
    STREAM_DONE,   /* the node has said everything */
    STREAM_ERROR,  /* the node sent an error event */
    STREAM_BROKEN, /* not what an OpenAI stream looks like, or over a bound */
};

/* model: shown to the client instead of the name that the node uses, copied; NULL: the node's stays. */
void stream_init(struct stream *s, const char *model, bool usage_asked);
/* Before the first byte: each chunk says which service_tier it was, unless the node says one. NULL: none does. */
void stream_say_tier(struct stream *s, const char *tier);
/* Before the first byte: what the chunks belong to. whole may be NULL. */
void stream_follow(struct stream *s, struct trail *trail, struct whole *whole);
/* Before the first byte: each chunk that is written is told, as the node wrote it; with plain, the literal of its text,
 * where it is like one before it in all but that. What is held is told by
 * stream_tap_held(), once it is certain that it counts. Not with a whole. */
void stream_tap(struct stream *s, void (*tap)(struct span chunk, struct span plain, void *arg), void *arg);
void stream_tap_held(const struct stream *s);
void stream_fini(struct stream *s);
/* Appends to `out` what may leave now: whole frames, ready to be written. */
enum stream_status stream_feed(struct stream *s, const char *data, size_t n, struct strbuf *out) SPW_MUST_USE;
/* [[hour, microseconds, millijoules], ...], as the usage chunk has it, from elsewhere; anything else is as if it were
 * not there. */
void stream_take_use(struct stream *s, struct span list);
/* The node closed its answer. Some end without [DONE] after a finish_reason: that is an end; anything else is a cut. */
enum stream_status stream_eof(struct stream *s, struct strbuf *out);
/* The usage object that the client is told: the node's, else counts. */
enum rc stream_usage(const struct stream *s, const struct token_counts *counts, struct strbuf *out) SPW_MUST_USE;
/* What stands beside the usage. */
struct stream_bill {
    const char *node, *charge_usd;
    int64_t millijoules;  /* -1: unknown */
    const char *stopped;  /* why the answer is shorter than it was asked for: told in any case; NULL: it is not */
    bool joules_measured; /* else estimated */
};
/* With a whole, after STREAM_DONE: what was held goes there, too. */
enum rc stream_gather_held(struct stream *s) SPW_MUST_USE;
/* The answer ends here, by our will: what is held now is a finish chunk ("length") for each of so many choices, made
 * after a chunk of this stream. RC_INVALID: there was none yet. */
enum rc stream_cut(struct stream *s, bool chat, int64_t choices) SPW_MUST_USE;
/* After the commit: held frames, the usage chunk if the client asked, [DONE]. counts: what the ledger says. */
enum rc stream_final(const struct stream *s, const struct stream_bill *bill, const struct token_counts *counts,
                     struct strbuf *out) SPW_MUST_USE;

#endif
