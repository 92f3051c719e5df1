/* Lines, links and heads: chain.h says how they look. Keys: keys.c. */
#include "scheduler/audit/chain.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/json_write.h"
#include "base/text.h"

#define PUBLIC_BASE64 44
#define SIG_BASE64    88

/* ---- hex ----------------------------------------------------------------------------------------------------------- */

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool audit_unhex(const char *text, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = hex_value(text[2 * i]), low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- lines --------------------------------------------------------------------------------------------------------- */

/* "SEQ " at text: no sign, no zero in front. Returns the digits' number; 0: none. */
static size_t read_seq(const char *text, size_t n, int64_t *seq)
{
    size_t i = 0;
    int64_t v = 0;

    for (; i < n && i < 18 && text[i] >= '0' && text[i] <= '9'; i++)
        v = v * 10 + (text[i] - '0');
    if (i == 0 || i >= n || text[i] != ' ' || text[0] == '0')
        return 0;
    *seq = v;
    return i;
}

bool audit_line_parse(const char *text, size_t n, struct audit_line *l)
{
    size_t at = read_seq(text, n, &l->seq);

    if (!at || n < at + 1 + AUDIT_HASH_DIGITS + 1 + (size_t)2 * AUDIT_MAC_BYTES + 1 + 2)
        return false;
    const char *p = text + at + 1;
    if (!audit_unhex(p, l->hash.b, HMAC_BYTES) || p[AUDIT_HASH_DIGITS] != ' ')
        return false;
    p += AUDIT_HASH_DIGITS + 1;
    if (!audit_unhex(p, l->mac, AUDIT_MAC_BYTES) || p[(size_t)2 * AUDIT_MAC_BYTES] != ' ')
        return false;
    l->json = p + (size_t)2 * AUDIT_MAC_BYTES + 1;
    l->n = n - (size_t)(l->json - text);
    return l->n <= AUDIT_JSON_BYTES_MAX && l->json[0] == '{' && l->json[l->n - 1] == '}';
}

/* ---- links --------------------------------------------------------------------------------------------------------- */

struct audit_hash audit_content(const char *json, size_t n)
{
    struct audit_hash h = {.b = {0}};

    hmac_plain(json, n, NULL, 0, h.b);
    return h;
}

void audit_mac(const struct hmac_key *mac_key, int64_t seq, const struct audit_hash *content,
               uint8_t out[AUDIT_MAC_BYTES])
{
    char text[TEXT_INT_MAX + 1 + AUDIT_HASH_DIGITS + 1], *p = text_put_int(text, seq);
    uint8_t full[HMAC_BYTES];

    *p++ = ' ';
    text_hex(p, content->b, HMAC_BYTES);
    hmac_of(mac_key, text, (size_t)(p - text) + AUDIT_HASH_DIGITS, full);
    memcpy(out, full, AUDIT_MAC_BYTES);
}

struct audit_hash audit_link(const struct audit_hash *prev, int64_t seq, const uint8_t mac[AUDIT_MAC_BYTES],
                             const struct audit_hash *content)
{
    char text[2 * (AUDIT_HASH_DIGITS + 1) + TEXT_INT_MAX + 1 + 2 * AUDIT_MAC_BYTES + 1], *p = text;
    struct audit_hash h = {.b = {0}};

    text_hex(p, prev->b, HMAC_BYTES);
    p += AUDIT_HASH_DIGITS;
    *p++ = ' ';
    p = text_put_int(p, seq);
    *p++ = ' ';
    text_hex(p, mac, AUDIT_MAC_BYTES);
    p += (size_t)2 * AUDIT_MAC_BYTES;
    *p++ = ' ';
    text_hex(p, content->b, HMAC_BYTES);
    hmac_plain(text, (size_t)(p - text) + AUDIT_HASH_DIGITS, NULL, 0, h.b);
    return h;
}

enum rc audit_line_write(const struct hmac_key *mac_key, const char *json, size_t n, int64_t *seq,
                         struct audit_hash *prev, struct strbuf *out)
{
    struct audit_hash content = audit_content(json, n);
    uint8_t mac[AUDIT_MAC_BYTES];

    SPW_ASSERT(n >= 2 && n <= AUDIT_JSON_BYTES_MAX);
    audit_mac(mac_key, *seq + 1, &content, mac);
    struct audit_hash hash = audit_link(prev, *seq + 1, mac, &content);
    enum rc rc = strbuf_reserve(out, n + TEXT_INT_MAX + AUDIT_HASH_DIGITS + (size_t)2 * AUDIT_MAC_BYTES + 5);
    if (rc != RC_OK)
        return rc;
    char *start = out->data + out->len, *p = text_put_int(start, *seq + 1);
    *p++ = ' ';
    text_hex(p, hash.b, HMAC_BYTES);
    p += AUDIT_HASH_DIGITS;
    *p++ = ' ';
    text_hex(p, mac, AUDIT_MAC_BYTES);
    p += (size_t)2 * AUDIT_MAC_BYTES;
    *p++ = ' ';
    memcpy(p, json, n);
    p += n;
    *p++ = '\n';
    *p = '\0';
    out->len += (size_t)(p - start);
    *seq += 1;
    *prev = hash;
    return RC_OK;
}

/* ---- heads --------------------------------------------------------------------------------------------------------- */

static void base64(const uint8_t *bytes, int n, char *out)
{
    EVP_EncodeBlock((unsigned char *)out, bytes, n);
}

/* Exactly n bytes, n % 3 of whose last block are padded; text has exactly 4 * ceil(n / 3) characters. One spelling
 * alone is right, so that no bit of a signature can be changed unseen. */
static bool unbase64(const char *text, size_t digits, uint8_t *out, size_t n)
{
    unsigned char decoded[96];
    char again[129];

    if (digits != (n + 2) / 3 * 4 || digits > 128 ||
        EVP_DecodeBlock(decoded, (const unsigned char *)text, (int)digits) < (int)n)
        return false;
    base64(decoded, (int)n, again);
    if (memcmp(again, text, digits) != 0)
        return false;
    memcpy(out, decoded, n);
    return true;
}

size_t audit_head_message(const struct audit_head *h, char out[AUDIT_MESSAGE_BYTES])
{
    char hash[AUDIT_HASH_DIGITS + 1];

    text_hex(hash, h->hash.b, HMAC_BYTES);
    int n = snprintf(out, AUDIT_MESSAGE_BYTES, "spillway audit head v1\nchain %s\nseq %" PRId64 "\nhash %s\ntime %s\n",
                     h->chain, h->seq, hash, h->time);
    SPW_ASSERT(n > 0 && n < AUDIT_MESSAGE_BYTES);
    return (size_t)n;
}

enum rc audit_head_sign(struct audit_head *h, const struct audit_keys *k)
{
    char message[AUDIT_MESSAGE_BYTES];
    size_t n = audit_head_message(h, message), sig = sizeof h->sig;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool done = c && EVP_DigestSignInit(c, NULL, NULL, NULL, k->sign) == 1 &&
                EVP_DigestSign(c, h->sig, &sig, (const unsigned char *)message, n) == 1 && sig == sizeof h->sig;

    EVP_MD_CTX_free(c);
    memcpy(h->public_part, k->public_part, sizeof h->public_part);
    return done ? RC_OK : RC_INTERNAL;
}

bool audit_head_verify(const struct audit_head *h, const struct audit_keys *k)
{
    char message[AUDIT_MESSAGE_BYTES];
    size_t n = audit_head_message(h, message);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool holds = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, k->verify) == 1 &&
                 EVP_DigestVerify(c, h->sig, sizeof h->sig, (const unsigned char *)message, n) == 1;

    EVP_MD_CTX_free(c);
    return holds;
}

enum rc audit_head_write(const struct audit_head *h, struct strbuf *out)
{
    char hash[AUDIT_HASH_DIGITS + 1], key[PUBLIC_BASE64 + 1], sig[SIG_BASE64 + 1];
    struct json_writer w = json_write_begin(out);

    text_hex(hash, h->hash.b, HMAC_BYTES);
    base64(h->public_part, sizeof h->public_part, key);
    base64(h->sig, sizeof h->sig, sig);
    json_open(&w, NULL, '{');
    json_string(&w, "chain", h->chain);
    json_int(&w, "seq", h->seq);
    json_string(&w, "hash", hash);
    json_string(&w, "time", h->time);
    json_string(&w, "key", key);
    json_string(&w, "sig", sig);
    json_close(&w, '}');
    return json_write_end(&w);
}

static bool is_chain_id(const char *id)
{
    uint8_t bytes[AUDIT_CHAIN_DIGITS / 2];

    return strlen(id) == AUDIT_CHAIN_DIGITS && audit_unhex(id, bytes, sizeof bytes);
}

static bool is_time(const char *t, size_t n)
{
    static const char shape[] = "0000-00-00T00:00:00.000Z";

    if (n != sizeof shape - 1)
        return false;
    for (size_t i = 0; i < n; i++)
        if (shape[i] == '0' ? t[i] < '0' || t[i] > '9' : t[i] != shape[i])
            return false;
    return true;
}

static bool take_head(struct audit_head *h, const cJSON *o)
{
    const char *chain = NULL, *hash = NULL, *time = NULL, *key = NULL, *sig = NULL;

    if (json_get_string(o, "chain", &chain, NULL, NULL) != RC_OK ||
        json_get_int(o, "seq", 1, INT64_C(1) << 53, &h->seq, NULL, NULL) != RC_OK ||
        json_get_string(o, "hash", &hash, NULL, NULL) != RC_OK ||
        json_get_string(o, "time", &time, NULL, NULL) != RC_OK ||
        json_get_string(o, "key", &key, NULL, NULL) != RC_OK || json_get_string(o, "sig", &sig, NULL, NULL) != RC_OK)
        return false;
    if (!chain || !hash || !time || !key || !sig || !h->seq || !is_chain_id(chain) || !is_time(time, strlen(time)) ||
        strlen(hash) != AUDIT_HASH_DIGITS || !audit_unhex(hash, h->hash.b, HMAC_BYTES))
        return false;
    memcpy(h->chain, chain, AUDIT_CHAIN_DIGITS + 1);
    snprintf(h->time, sizeof h->time, "%s", time);
    return unbase64(key, strlen(key), h->public_part, sizeof h->public_part) &&
           unbase64(sig, strlen(sig), h->sig, sizeof h->sig);
}

enum rc audit_head_read(struct audit_head *h, const char *text, size_t n, struct error *e)
{
    struct json_doc d;

    *h = (struct audit_head){0};
    if (json_doc_parse(&d, text, n, 4, e) != RC_OK)
        return error_prefix(e, "not a head");
    bool ok = take_head(h, d.root);
    json_doc_fini(&d);
    return ok ? RC_OK
              : error_set(e, RC_INVALID,
                          "not a head: it must have chain, seq, hash, time, key and sig, as 'spillway audit heads' "
                          "writes them");
}

/* ---- records that make the chain ----------------------------------------------------------------------------------- */

#define SEAL_BEGIN "{\"k\":\"seal\",\"t\":\""
#define SEAL_SIG   "\",\"sig\":\""
#define TIME_BYTES 24

enum rc audit_seal_write(const struct audit_head *h, struct strbuf *out)
{
    char sig[SIG_BASE64 + 1];

    base64(h->sig, sizeof h->sig, sig);
    return strbuf_printf(out, SEAL_BEGIN "%s" SEAL_SIG "%s\"}", h->time, sig);
}

bool audit_seal_read(const char *json, size_t n, struct audit_head *h)
{
    const size_t begin = sizeof SEAL_BEGIN - 1, middle = sizeof SEAL_SIG - 1;

    if (n != begin + TIME_BYTES + middle + SIG_BASE64 + 2 || memcmp(json, SEAL_BEGIN, begin) != 0)
        return false;
    const char *time = json + begin, *between = time + TIME_BYTES, *sig = between + middle;
    if (!is_time(time, TIME_BYTES) || memcmp(between, SEAL_SIG, middle) != 0 || sig[SIG_BASE64] != '"' ||
        sig[SIG_BASE64 + 1] != '}' || !unbase64(sig, SIG_BASE64, h->sig, sizeof h->sig))
        return false;
    memcpy(h->time, time, TIME_BYTES);
    h->time[TIME_BYTES] = '\0';
    return true;
}

enum rc audit_segment_write(const struct audit_segment *s, struct wall now, struct strbuf *out)
{
    char prev[AUDIT_HASH_DIGITS + 1], key[PUBLIC_BASE64 + 1], time[32];
    struct json_writer w = json_write_begin(out);

    text_hex(prev, s->prev.b, HMAC_BYTES);
    base64(s->public_part, sizeof s->public_part, key);
    json_open(&w, NULL, '{');
    json_string(&w, "k", "segment");
    json_string(&w, "t", wall_format(now, time, sizeof time));
    json_int(&w, "v", AUDIT_VERSION);
    json_string(&w, "chain", s->chain);
    json_int(&w, "segment", s->number);
    json_string(&w, "prev", prev);
    json_string(&w, "key", key);
    json_close(&w, '}');
    return json_write_end(&w);
}

static bool take_segment(struct audit_segment *s, const cJSON *o)
{
    const char *chain = NULL, *prev = NULL, *key = NULL;
    int64_t version = 0;

    if (json_get_int(o, "v", AUDIT_VERSION, AUDIT_VERSION, &version, NULL, NULL) != RC_OK || !version ||
        json_get_int(o, "segment", 1, 999999, &s->number, NULL, NULL) != RC_OK || !s->number ||
        json_get_string(o, "chain", &chain, NULL, NULL) != RC_OK ||
        json_get_string(o, "prev", &prev, NULL, NULL) != RC_OK || json_get_string(o, "key", &key, NULL, NULL) != RC_OK)
        return false;
    if (!chain || !prev || !key || !is_chain_id(chain) || strlen(prev) != AUDIT_HASH_DIGITS ||
        !audit_unhex(prev, s->prev.b, HMAC_BYTES))
        return false;
    memcpy(s->chain, chain, AUDIT_CHAIN_DIGITS + 1);
    return unbase64(key, strlen(key), s->public_part, sizeof s->public_part);
}

bool audit_segment_read(const char *json, size_t n, struct audit_segment *s)
{
    static const char begin[] = "{\"k\":\"segment\",";
    struct json_doc d;

    *s = (struct audit_segment){0};
    if (n < sizeof begin - 1 || memcmp(json, begin, sizeof begin - 1) != 0 ||
        json_doc_parse(&d, json, n, 4, NULL) != RC_OK)
        return false;
    bool ok = take_segment(s, d.root);
    json_doc_fini(&d);
    return ok;
}
