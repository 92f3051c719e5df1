/* What a request's headers ask of the cache. Source: RFC 9111, 5.2.1. */
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "scheduler/cache/cache.h"
#include "scheduler/wire/scan.h"

static bool word_is(struct span b, const char *word)
{
    return b.n == strlen(word) && strncasecmp(b.p, word, b.n) == 0;
}

static struct span trimmed(const char *p, size_t n)
{
    while (n && (p[n - 1] == ' ' || p[n - 1] == '\t'))
        n--;
    while (n && (*p == ' ' || *p == '\t'))
        p++, n--;
    return (struct span){p, n};
}

/* A max-age that is no number is as good as 0 (RFC 9111, 4.2.1: stale). */
static int64_t seconds(struct span b)
{
    char text[24];
    int64_t v;
    if (b.n > 2 && b.p[0] == '"' && b.p[b.n - 1] == '"')
        b = (struct span){b.p + 1, b.n - 2};
    if (b.n >= sizeof text)
        return 0;
    memcpy(text, b.p, b.n);
    text[b.n] = '\0';
    return text_parse_int(text, 0, INT64_C(1) << 40, &v) == RC_OK ? v : 0;
}

static void directive(struct cache_ask *ask, struct span d)
{
    static const char age[] = "max-age=";
    if (word_is(d, "no-store"))
        ask->no_store = true;
    else if (word_is(d, "no-cache"))
        ask->no_cache = true;
    else if (d.n >= sizeof age - 1 && strncasecmp(d.p, age, sizeof age - 1) == 0)
        ask->age_s_max = seconds((struct span){d.p + sizeof age - 1, d.n - (sizeof age - 1)});
    if (ask->age_s_max == 0)
        ask->no_cache = true;
}

enum rc cache_ask_parse(struct cache_ask *ask, const char *cache_control, const char *x_spillway_cache, struct error *e)
{
    *ask = (struct cache_ask){.age_s_max = -1};
    for (const char *p = cache_control; p && *p;) {
        size_t n = strcspn(p, ",");
        directive(ask, trimmed(p, n));
        p += n + (p[n] == ',');
    }
    if (!x_spillway_cache)
        return RC_OK;
    struct span word = trimmed(x_spillway_cache, strlen(x_spillway_cache));
    if (word_is(word, "on"))
        ask->asked = CACHE_SWITCH_ON;
    else if (word_is(word, "off"))
        ask->asked = CACHE_SWITCH_OFF;
    else
        return error_set(e, RC_INVALID, "'x-spillway-cache' must be on or off");
    return RC_OK;
}

unsigned cache_use(const struct cache_ask *ask, enum cache_kind kind, const cJSON *root)
{
    bool vectors = kind == CACHE_EMBEDDINGS; /* the same text has the same one, and there is no other choice */
    if (ask->asked == CACHE_SWITCH_OFF || (!vectors && !canonical_is_single(root)))
        return 0;
    if (ask->asked != CACHE_SWITCH_ON && !vectors && !canonical_is_deterministic(root))
        return 0;
    unsigned use = CACHE_READ | CACHE_STORE | CACHE_COLLAPSE;
    if (ask->no_store)
        use &= ~(CACHE_STORE | CACHE_COLLAPSE);
    if (ask->no_cache) /* an answer that somebody else is getting just now was not asked for by this request either */
        use &= ~(CACHE_READ | CACHE_COLLAPSE);
    return use;
}
