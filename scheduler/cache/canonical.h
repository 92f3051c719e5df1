/* When two requests are the same, and when their answers must be: the canonical form of a request's body and the key
 * made from it. Pure but for scratch memory; loop thread.
 *
 * Canonical form: the same JSON without blanks; members of every object sorted by key (bytes); strings with as few
 * escapes as can be; numbers as exact decimals ("1.50", "15e-1" and "1.5" are one, 9007199254740993 is not its
 * neighbour); without these members of the outer object, which do not change what is answered:
 *
 *     model                                     stands in the key as model_identity
 *     stream, stream_options                    how it is delivered
 *     user, metadata, store, safety_identifier, service_tier, prompt_cache_key, prompt_cache_retention
 *                                               what a provider keeps in its books, or how soon it answers
 *     idempotency_key, spillway, spillway_*     between client and scheduler
 *
 * Everything else counts, whether we know it or not, and so do null and defaults written out: at worst that is a miss.
 * Order inside arrays counts.
 *
 * Deterministic, by default and without asking: temperature is 0, or top_k is 1; and n and best_of are absent, null or
 * 1; embeddings always are. A seed alone does not make it so: only some servers keep that promise, and the key cannot
 * know which one answers.
 * canonical(canonical(x)) == canonical(x). */
#ifndef SCHEDULER_CACHE_CANONICAL_H
#define SCHEDULER_CACHE_CANONICAL_H

#include "scheduler/wire/tree.h"

#define CACHE_KEY_BYTES 32

struct cache_key {
    uint8_t bytes[CACHE_KEY_BYTES];
};

enum cache_kind { CACHE_CHAT, CACHE_COMPLETION, CACHE_EMBEDDINGS };

/* Scratch for one request at a time; kept between requests, given back when a large one has grown it. */
struct canonical {
    struct tree tree;
    struct strbuf out;
};
void canonical_init(struct canonical *c);
void canonical_fini(struct canonical *c);

/* Take one body (an object; `text` must live until the calls below are done). RC_INVALID: no JSON object; RC_FULL: too
 * large for a cache; RC_UNSUPPORTED: an outer key is written with escapes, and we will not guess what a node reads. */
enum rc canonical_read(struct canonical *c, const char *text, size_t n) SPW_MUST_USE;
bool canonical_is_deterministic(const struct canonical *c);
/* Exactly one answer is asked for. Others are never kept. */
bool canonical_is_single(const struct canonical *c);

/* Append the canonical form. RC_INVALID: a key appears twice; RC_UNSUPPORTED: a number beyond 10^(10^9); RC_FULL. */
enum rc canonical_write(const struct canonical *c, struct strbuf *out) SPW_MUST_USE;

struct cache_key_input {
    enum cache_kind kind;
    const char *tenant; /* never shared between tenants; "" is one of its own */
    /* Whatever decides an answer beside the request: the public name of the model and, where nodes publish it, the hash
     * of its weights and numerics. An answer that came from a fallback model belongs under that model's identity, or
     * nowhere. Not empty. */
    const char *model_identity;
};
/* SHA-256 of both and the canonical form. Errors as canonical_write(). */
enum rc canonical_key(struct canonical *c, const struct cache_key_input *in, struct cache_key *key) SPW_MUST_USE;

#endif
