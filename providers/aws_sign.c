/* Signature Version 4: canonical request -> string to sign -> a key derived for the day -> HMAC. */
#include "providers/aws_sign.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/sha256.h"

#define CANONICAL_MAX   ((size_t)1 << 20)
#define QUERY_PAIRS_MAX 256
#define SEGMENTS_MAX    256

static const char ALGORITHM[] = "AWS4-HMAC-SHA256";

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void hex_of(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

static bool is_unreserved(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

static enum rc encode(struct strbuf *out, const char *s, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    enum rc rc = RC_OK;
    for (size_t i = 0; i < n && rc == RC_OK; i++) {
        unsigned char c = (unsigned char)s[i];
        char escaped[3] = {'%', digits[c >> 4], digits[c & 15]};
        rc = is_unreserved(c) ? strbuf_append(out, s + i, 1) : strbuf_append(out, escaped, 3);
    }
    return rc;
}

enum rc aws_encode(struct strbuf *out, const char *s)
{
    return encode(out, s, strlen(s));
}

/* ---- the canonical request -------------------------------------------------------------------------------------- */

struct piece {
    const char *at;
    size_t n;
};

/* Segments of a path without "", "." and "..", which takes the one before it along. */
static int split_path(const char *path, struct piece *segments)
{
    int n = 0;
    while (*path) {
        size_t len = strcspn(path, "/");
        if (len == 2 && memcmp(path, "..", 2) == 0) {
            n -= n > 0;
        } else if (len > 0 && !(len == 1 && *path == '.')) {
            if (n == SEGMENTS_MAX)
                return -1;
            segments[n++] = (struct piece){path, len};
        }
        path += len + (path[len] == '/');
    }
    return n;
}

/* Each segment is encoded although it came encoded: all services but S3 want it twice. */
static enum rc put_path(struct strbuf *out, const char *path, struct error *e)
{
    struct piece segments[SEGMENTS_MAX];
    int n = split_path(path, segments);
    if (n < 0)
        return error_set(e, RC_INVALID, "request path of more than %d parts", SEGMENTS_MAX);
    for (int i = 0; i < n; i++) {
        strbuf_puts(out, "/");
        encode(out, segments[i].at, segments[i].n);
    }
    size_t len = strlen(path);
    if (n == 0 || path[len - 1] == '/')
        strbuf_puts(out, "/");
    return strbuf_puts(out, "\n");
}

struct query_pair {
    struct piece key, value;
};

static int compare_pieces(const struct piece *a, const struct piece *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int order = memcmp(a->at, b->at, n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct query_pair *x = a, *y = b;
    int order = compare_pieces(&x->key, &y->key);
    return order ? order : compare_pieces(&x->value, &y->value);
}

static enum rc put_query(struct strbuf *out, const char *query, struct error *e)
{
    struct query_pair pairs[QUERY_PAIRS_MAX];
    int n = 0;
    for (const char *q = query ? query : ""; *q;) {
        size_t len = strcspn(q, "&"), key = 0;
        if (n == QUERY_PAIRS_MAX)
            return error_set(e, RC_INVALID, "request query of more than %d parameters", QUERY_PAIRS_MAX);
        while (key < len && q[key] != '=')
            key++;
        pairs[n++] = (struct query_pair){{q, key}, {q + key + (key < len), len - key - (key < len)}};
        q += len + (q[len] == '&');
    }
    if (n > 1)
        qsort(pairs, (size_t)n, sizeof pairs[0], compare_pairs);
    for (int i = 0; i < n; i++) {
        if (i)
            strbuf_puts(out, "&");
        strbuf_append(out, pairs[i].key.at, pairs[i].key.n);
        strbuf_puts(out, "=");
        strbuf_append(out, pairs[i].value.at, pairs[i].value.n);
    }
    return strbuf_puts(out, "\n");
}

/* Blanks at both ends go, those inside become one. */
static void put_value(struct strbuf *out, const char *value)
{
    const char *blanks = " \t";
    bool first = true;
    for (value += strspn(value, blanks); *value; value += strspn(value, blanks)) {
        size_t n = strcspn(value, blanks);
        if (!first)
            strbuf_puts(out, " ");
        strbuf_append(out, value, n);
        value += n;
        first = false;
    }
}

struct header_at {
    struct http_header h;
    int order; /* as given: values of one name keep it */
};
struct signed_headers {
    struct header_at v[AWS_SIGN_HEADERS_MAX + 3];
    int n;
};

static int compare_headers(const void *a, const void *b)
{
    const struct header_at *x = a, *y = b;
    int order = strcasecmp(x->h.name, y->h.name);
    return order ? order : x->order - y->order;
}

static enum rc add_header(struct signed_headers *s, const char *name, const char *value, struct error *e)
{
    if (!*name || strpbrk(name, "\r\n: ") || strpbrk(value, "\r\n"))
        return error_set(e, RC_INVALID, "header '%.40s' cannot be signed", name);
    s->v[s->n].h = (struct http_header){.name = name, .value = value};
    s->v[s->n].order = s->n;
    s->n++;
    return RC_OK;
}

static enum rc gather_headers(struct signed_headers *s, const struct aws_request *r, const struct aws_keys *k,
                              const char *date, struct error *e)
{
    s->n = 0;
    enum rc rc = add_header(s, "host", r->host, e);
    if (rc == RC_OK)
        rc = add_header(s, "x-amz-date", date, e);
    if (rc == RC_OK && k->token)
        rc = add_header(s, "x-amz-security-token", k->token, e);
    for (int i = 0; i < r->n_headers && rc == RC_OK; i++)
        rc = add_header(s, r->headers[i].name, r->headers[i].value, e);
    qsort(s->v, (size_t)s->n, sizeof s->v[0], compare_headers);
    return rc;
}

static bool repeats(const struct signed_headers *s, int i)
{
    /* cppcheck-suppress arrayIndexOutOfBoundsCond; i < s->n */
    return i > 0 && strcasecmp(s->v[i].h.name, s->v[i - 1].h.name) == 0;
}

static void put_lower(struct strbuf *out, const char *name)
{
    for (; *name; name++) {
        char c = *name >= 'A' && *name <= 'Z' ? (char)(*name + 32) : *name;
        strbuf_append(out, &c, 1);
    }
}

static void put_names(struct strbuf *out, const struct signed_headers *s)
{
    for (int i = 0; i < s->n; i++) {
        if (repeats(s, i))
            continue;
        if (i)
            strbuf_puts(out, ";");
        put_lower(out, s->v[i].h.name);
    }
}

static void put_headers(struct strbuf *out, const struct signed_headers *s)
{
    for (int i = 0; i < s->n; i++) {
        if (repeats(s, i)) {
            strbuf_puts(out, ",");
        } else {
            if (i)
                strbuf_puts(out, "\n");
            put_lower(out, s->v[i].h.name);
            strbuf_puts(out, ":");
        }
        put_value(out, s->v[i].h.value);
    }
    strbuf_puts(out, "\n\n");
}

static enum rc canonical(struct strbuf *out, const struct aws_request *r, const struct signed_headers *s,
                         struct error *e)
{
    uint8_t hash[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    strbuf_printf(out, "%s\n", r->method);
    enum rc rc = put_path(out, r->path, e);
    if (rc == RC_OK)
        rc = put_query(out, r->query, e);
    if (rc != RC_OK)
        return rc;
    put_headers(out, s);
    put_names(out, s);
    sha256(r->body ? r->body : "", r->body_len, hash);
    hex_of(hash, sizeof hash, hex);
    return strbuf_printf(out, "\n%s", hex);
}

/* ---- the signature ---------------------------------------------------------------------------------------------- */

static void hmac(const void *key, size_t key_len, const char *text, uint8_t out[SHA256_BYTES])
{
    unsigned len = SHA256_BYTES;
    SPW_ASSERT(HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), out, &len));
}

/* HMACs in a chain: of the secret over the day, of that over the region, the service, and a constant. */
static void derive_key(const struct aws_keys *k, const char *day, const struct aws_request *r,
                       uint8_t key[SHA256_BYTES])
{
    char *secret = spw_asprintf("AWS4%s", k->secret);
    uint8_t next[SHA256_BYTES];
    hmac(secret, strlen(secret), day, key);
    OPENSSL_cleanse(secret, strlen(secret));
    free(secret);
    const char *chain[] = {r->region, r->service, "aws4_request"};
    for (size_t i = 0; i < sizeof chain / sizeof chain[0]; i++) {
        hmac(key, SHA256_BYTES, chain[i], next);
        memcpy(key, next, SHA256_BYTES);
    }
    OPENSSL_cleanse(next, sizeof next);
}

/* Whatever passes here fits CANONICAL_MAX: nothing grows by more than three. */
static enum rc check_size(const struct aws_request *r, const struct aws_keys *k, struct error *e)
{
    size_t n = strlen(r->method) + strlen(r->host) + strlen(r->path) + (r->query ? strlen(r->query) : 0);
    n += k->token ? strlen(k->token) : 0;
    for (int i = 0; i < r->n_headers; i++)
        n += 2 * strlen(r->headers[i].name) + strlen(r->headers[i].value);
    return n < CANONICAL_MAX / 4 ? RC_OK : error_set(e, RC_INVALID, "request is too large to be signed: %zu bytes", n);
}

static enum rc check(const struct aws_request *r, const struct aws_keys *k, struct error *e)
{
    if (!k->id || !*k->id || !k->secret || !*k->secret)
        return error_set(e, RC_INVALID, "no AWS keys to sign with");
    if (strpbrk(k->id, "\r\n, /"))
        return error_set(e, RC_INVALID, "the AWS access key id holds a blank, comma or slash");
    if (!r->host || !*r->host || !r->region || !*r->region || !r->service || !*r->service)
        return error_set(e, RC_INVALID, "an AWS request needs a host, a region and a service");
    if (r->n_headers > AWS_SIGN_HEADERS_MAX)
        return error_set(e, RC_INVALID, "more than %d headers to sign", AWS_SIGN_HEADERS_MAX);
    return check_size(r, k, e);
}

enum rc aws_canonical_request(struct strbuf *out, const struct aws_request *r, const struct aws_keys *k,
                              const char *date, struct error *e)
{
    struct signed_headers s;
    enum rc rc = check(r, k, e);
    if (rc == RC_OK)
        rc = gather_headers(&s, r, k, date, e);
    return rc == RC_OK ? canonical(out, r, &s, e) : rc;
}

static enum rc put_date(int64_t time_s, char out[sizeof "20150830T123600Z"], struct error *e)
{
    struct tm tm;
    time_t t = (time_t)time_s;
    if (time_s < 0 || time_s >= INT64_C(253402300800) || !gmtime_r(&t, &tm))
        return error_set(e, RC_INVALID, "no time to sign with: %lld", (long long)time_s);
    strftime(out, sizeof "20150830T123600Z", "%Y%m%dT%H%M%SZ", &tm);
    return RC_OK;
}

static enum rc sign(const struct aws_request *r, const struct aws_keys *k, struct aws_signature *s,
                    const struct signed_headers *headers, struct strbuf *text, struct error *e)
{
    uint8_t hash[SHA256_BYTES], key[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1], day[9];
    enum rc rc = canonical(text, r, headers, e);
    if (rc != RC_OK)
        return rc;
    sha256(text->data, text->len, hash);
    hex_of(hash, sizeof hash, hex);
    snprintf(day, sizeof day, "%.8s", s->date);
    char *scope = spw_asprintf("%s/%s/%s/aws4_request", day, r->region, r->service);
    char *to_sign = spw_asprintf("%s\n%s\n%s\n%s", ALGORITHM, s->date, scope, hex);
    derive_key(k, day, r, key);
    hmac(key, sizeof key, to_sign, hash);
    OPENSSL_cleanse(key, sizeof key);
    hex_of(hash, sizeof hash, s->signature);
    strbuf_clear(text);
    put_names(text, headers);
    s->authorization = spw_asprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s", ALGORITHM, k->id, scope,
                                    text->data, s->signature);
    free(scope);
    free(to_sign);
    return RC_OK;
}

enum rc aws_sign(const struct aws_request *r, const struct aws_keys *k, int64_t time_s, struct aws_signature *s,
                 struct error *e)
{
    struct signed_headers headers;
    struct strbuf text;
    memset(s, 0, sizeof(*s));
    enum rc rc = check(r, k, e);
    if (rc == RC_OK)
        rc = put_date(time_s, s->date, e);
    if (rc == RC_OK)
        rc = gather_headers(&headers, r, k, s->date, e);
    if (rc != RC_OK)
        return rc;
    strbuf_init(&text, CANONICAL_MAX);
    rc = sign(r, k, s, &headers, &text, e);
    strbuf_fini(&text);
    return rc;
}

void aws_signature_fini(struct aws_signature *s)
{
    free(s->authorization);
    s->authorization = NULL;
}
