#include <endian.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "scheduler/cache/cache_internal.h"

#define MAGIC        "SPWCACH1"
#define MAGIC_BYTES  8
#define HASH_BYTES   32
#define HASHED_FROM  (MAGIC_BYTES + HASH_BYTES)
#define N_TEXTS      4
#define HEAD_BYTES   (HASHED_FROM + CACHE_KEY_BYTES + 4 + 4 + 5 * 8 + N_TEXTS * 4 + 8)
#define TEXT_MAX     512
#define TOKENS_LIMIT INT64_C(1000000000000)

struct blob *blob_new(size_t n)
{
    struct blob *b = spw_malloc(sizeof *b + n);
    atomic_init(&b->refs, 1);
    b->n = n;
    return b;
}

struct blob *blob_ref(struct blob *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void blob_unref(struct blob *b)
{
    if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
        free(b);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static char *put_bytes(char *p, const void *data, size_t n)
{
    memcpy(p, data, n);
    return p + n;
}

static char *put_u32(char *p, uint32_t v)
{
    v = htole32(v);
    return put_bytes(p, &v, sizeof v);
}

static char *put_i64(char *p, int64_t v)
{
    uint64_t u = htole64((uint64_t)v);
    return put_bytes(p, &u, sizeof u);
}

/* Names become header values: no control bytes, whoever wrote them. */
static bool text_ok(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    }
    return n <= TEXT_MAX;
}

static bool figures_ok(const struct cache_entry *e)
{
    const struct token_counts *t = &e->tokens;
    return e->status >= 100 && e->status <= 599 && e->charge.v >= 0 && e->stored.ns >= 0 && t->cached_input >= 0 &&
           t->cached_input <= t->input && t->input <= TOKENS_LIMIT && t->output >= 0 && t->output <= TOKENS_LIMIT;
}

static void list_texts(const struct cache_entry *e, const char *texts[N_TEXTS])
{
    texts[0] = e->content_type;
    texts[1] = e->model;
    texts[2] = e->node;
    texts[3] = e->usage_source;
}

static char *put_head(char *p, const struct cache_key *key, const struct cache_entry *e, const char *texts[N_TEXTS])
{
    p = put_bytes(p, MAGIC, MAGIC_BYTES);
    memset(p, 0, HASH_BYTES);
    p = put_bytes(p + HASH_BYTES, key->bytes, CACHE_KEY_BYTES);
    p = put_u32(p, (uint32_t)e->status);
    p = put_u32(p, 0);
    p = put_i64(p, e->tokens.input);
    p = put_i64(p, e->tokens.cached_input);
    p = put_i64(p, e->tokens.output);
    p = put_i64(p, e->charge.v);
    p = put_i64(p, e->stored.ns);
    for (int i = 0; i < N_TEXTS; i++)
        p = put_u32(p, (uint32_t)strlen(texts[i]));
    return put_i64(p, (int64_t)e->body_len);
}

enum rc entry_encode(const struct cache_key *key, const struct cache_entry *e, size_t bytes_max, struct blob **b)
{
    const char *texts[N_TEXTS];
    size_t n = HEAD_BYTES + N_TEXTS + 1;
    list_texts(e, texts);
    if (!figures_ok(e))
        return RC_INVALID;
    for (int i = 0; i < N_TEXTS; i++) {
        size_t length = strlen(texts[i]);
        if (!text_ok(texts[i], length))
            return RC_INVALID;
        n += length;
    }
    if (n > bytes_max || e->body_len > bytes_max - n)
        return RC_FULL;
    *b = blob_new(n + e->body_len);
    char *p = put_head((*b)->data, key, e, texts);
    for (int i = 0; i < N_TEXTS; i++)
        p = put_bytes(p, texts[i], strlen(texts[i]) + 1);
    p = put_bytes(p, e->body, e->body_len);
    *p = '\0';
    return RC_OK;
}

static void hash(const struct blob *b, unsigned char out[HASH_BYTES])
{
    sha256(b->data + HASHED_FROM, b->n - HASHED_FROM, out);
}

void entry_seal(struct blob *b)
{
    hash(b, (unsigned char *)b->data + MAGIC_BYTES);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static uint32_t take_u32(const char **p)
{
    uint32_t v;
    memcpy(&v, *p, sizeof v);
    *p += sizeof v;
    return le32toh(v);
}

static int64_t take_i64(const char **p)
{
    uint64_t v;
    memcpy(&v, *p, sizeof v);
    *p += sizeof v;
    return (int64_t)le64toh(v);
}

/* A text of n bytes and its NUL; NULL when they are not there. */
static const char *take_text(const char **p, const char *end, uint64_t n)
{
    const char *text = *p;
    if (n >= (uint64_t)(end - text) || text[n] != '\0')
        return NULL;
    *p += n + 1;
    return text;
}

static bool take_texts(const char **p, const char *end, const uint32_t lengths[N_TEXTS], struct cache_entry *e)
{
    const char *texts[N_TEXTS];
    for (int i = 0; i < N_TEXTS; i++) {
        texts[i] = take_text(p, end, lengths[i]);
        if (!texts[i] || !text_ok(texts[i], lengths[i])) /* no NUL inside either */
            return false;
    }
    e->content_type = texts[0];
    e->model = texts[1];
    e->node = texts[2];
    e->usage_source = texts[3];
    return true;
}

enum rc entry_decode(const struct blob *b, const struct cache_key *key, enum entry_trust trust, struct cache_entry *e)
{
    const char *p = b->data + HASHED_FROM, *end = b->data + b->n;
    unsigned char sum[HASH_BYTES];
    uint32_t lengths[N_TEXTS];
    if (b->n < HEAD_BYTES || memcmp(b->data, MAGIC, MAGIC_BYTES) != 0 || memcmp(p, key->bytes, CACHE_KEY_BYTES) != 0)
        return RC_INVALID;
    if (trust == ENTRY_FOREIGN) {
        hash(b, sum);
        if (memcmp(sum, b->data + MAGIC_BYTES, HASH_BYTES) != 0)
            return RC_INVALID;
    }
    p += CACHE_KEY_BYTES;
    uint32_t status = take_u32(&p);
    e->status = status <= INT_MAX ? (int)status : 0;
    (void)take_u32(&p);
    e->tokens.input = take_i64(&p);
    e->tokens.cached_input = take_i64(&p);
    e->tokens.output = take_i64(&p);
    e->charge.v = take_i64(&p);
    e->stored.ns = take_i64(&p);
    for (int i = 0; i < N_TEXTS; i++)
        lengths[i] = take_u32(&p);
    uint64_t body_len = (uint64_t)take_i64(&p);
    if (!take_texts(&p, end, lengths, e))
        return RC_INVALID;
    e->body = take_text(&p, end, body_len);
    e->body_len = (size_t)body_len;
    return e->body && p == end && figures_ok(e) ? RC_OK : RC_INVALID;
}
