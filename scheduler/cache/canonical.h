/* When two requests are the same, and when their answers must be: the canonical form of a request's body and the key
 * made from it. Written by a walk over the document that the one parse of a body has left: what spelling decides
 * (numbers, escapes) is looked up in the text, at the places that the parse has found. Pure.
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

#include <cjson/cJSON.h>

#include "base/alloc.h"

#define CACHE_KEY_BYTES 32

struct cache_key {
    uint8_t bytes[CACHE_KEY_BYTES];
};

enum cache_kind { CACHE_CHAT, CACHE_COMPLETION, CACHE_EMBEDDINGS };

/* root: an object, of a json_doc whose text is still there. Exact: a temperature of 1e-400 is not 0. */
bool canonical_is_deterministic(const cJSON *root);
/* Exactly one answer is asked for. Others are never kept. */
bool canonical_is_single(const cJSON *root);

/* Append the canonical form. RC_UNSUPPORTED: a number beyond 10^(10^9), or an outer key that is written with escapes:
 * we will not guess what a node reads. RC_FULL: too large for a cache, or for out. */
enum rc canonical_write(const cJSON *root, struct strbuf *out) SPW_MUST_USE;

struct cache_key_input {
    enum cache_kind kind;
    const char *tenant; /* never shared between tenants; "" is one of its own */
    /* Whatever decides an answer beside the request: the public name of the model and, where nodes publish it, the hash
     * of its weights and numerics. An answer that came from a fallback model belongs under that model's identity, or
     * nowhere. Not empty. */
    const char *model_identity;
};
/* SHA-256 of both and the canonical form. Errors as canonical_write(). scratch: kept between requests, born with this
 * bound; what a large one has made it grow to goes back. */
#define CANONICAL_SCRATCH_BYTES_MAX (((size_t)64 << 20) + 65536)
enum rc canonical_key(const cJSON *root, const struct cache_key_input *in, struct strbuf *scratch,
                      struct cache_key *key) SPW_MUST_USE;

#endif
