#include "scheduler/wire/usage.h"

#include "base/json.h"

#define TOKENS_MAX   INT64_C(1000000000000)
#define PLAIN_DIGITS 12 /* less than TOKENS_MAX */

/* A number of up to 12 digits, as nearly everybody writes one. */
static bool plain_count(struct span text, int64_t *n)
{
    int64_t v = 0;
    if (text.n > PLAIN_DIGITS || (text.p[0] == '0' && text.n > 1))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        v = v * 10 + (text.p[i] - '0');
    }
    *n = v;
    return true;
}

/* The three figures that are always there, once each, and nothing else: no tree is needed for these. False: look closer. */
static bool parse_plain(struct span object, struct token_counts *counts)
{
    int64_t input = -1, output = -1, total = -1;
    struct span key, value;
    struct scan s = scan_object(object);
    while (scan_member(&s, &key, &value)) {
        int64_t *to = span_is(key, "prompt_tokens")       ? &input
                      : span_is(key, "completion_tokens") ? &output
                      : span_is(key, "total_tokens")      ? &total
                                                          : NULL;
        if (!to || *to >= 0 || !plain_count(value, to))
            return false;
    }
    if (s.failed || input < 0)
        return false;
    *counts = (struct token_counts){.input = input, .output = output < 0 ? 0 : output};
    return true;
}

int64_t usage_reasoning(struct span object)
{
    struct span key, value, inner;
    struct scan s = scan_object(object);
    int64_t n = 0, found = 0;
    while (scan_member(&s, &key, &value)) {
        if (!span_is(key, "completion_tokens_details") || !value.n || value.p[0] != '{')
            continue;
        struct scan details = scan_object(value);
        while (scan_member(&details, &key, &inner))
            if (span_is(key, "reasoning_tokens") && inner.n && plain_count(inner, &n))
                found = n;
    }
    return found;
}

enum rc usage_parse(struct span object, struct token_counts *counts)
{
    struct json_doc doc;
    struct token_counts c = {.input = -1};
    bool cached = false;
    if (!object.n)
        return RC_INVALID;
    if (parse_plain(object, counts))
        return RC_OK;
    enum rc rc = json_doc_parse(&doc, object.p, object.n, 16, NULL);
    const cJSON *root = doc.root;
    if (rc == RC_OK && !cJSON_IsObject(root))
        rc = RC_INVALID;
    if (rc == RC_OK)
        rc = json_get_int(root, "prompt_tokens", 0, TOKENS_MAX, &c.input, NULL, NULL);
    if (rc == RC_OK)
        rc = json_get_int(root, "completion_tokens", 0, TOKENS_MAX, &c.output, NULL, NULL);
    const cJSON *details = rc == RC_OK ? json_find(root, "prompt_tokens_details") : NULL;
    if (cJSON_IsObject(details))
        rc = json_get_int(details, "cached_tokens", 0, TOKENS_MAX, &c.cached_input, &cached, NULL);
    if (rc == RC_OK && !cached)
        rc = json_get_int(root, "prompt_cache_hit_tokens", 0, TOKENS_MAX, &c.cached_input, NULL, NULL);
    json_doc_fini(&doc);
    if (rc != RC_OK || c.input < 0)
        return RC_INVALID;
    if (c.cached_input > c.input)
        c.cached_input = c.input;
    *counts = c;
    return RC_OK;
}
