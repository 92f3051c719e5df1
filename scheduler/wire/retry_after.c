#include "scheduler/wire/retry_after.h"

#include <ctype.h>
#include <curl/curl.h>

#include "base/text.h"

/* "1.5" or "20" of a unit of `us` microseconds. */
static bool read_number(const char *text, int64_t us, int64_t *out)
{
    int64_t whole = 0, part = 0, scale = 1;
    if (!isdigit((unsigned char)*text))
        return false;
    for (; isdigit((unsigned char)*text); text++)
        whole = whole < RETRY_AFTER_US_MAX ? whole * 10 + (*text - '0') : whole;
    if (*text == '.') {
        for (text++; isdigit((unsigned char)*text); text++) {
            if (scale >= us)
                continue;
            part = part * 10 + (*text - '0');
            scale *= 10;
        }
    }
    if (*text)
        return false;
    *out = whole > RETRY_AFTER_US_MAX / us ? RETRY_AFTER_US_MAX : whole * us + part * us / scale;
    return true;
}

static int64_t bounded(int64_t us)
{
    return us < 0 ? 0 : us > RETRY_AFTER_US_MAX ? RETRY_AFTER_US_MAX : us;
}

int64_t retry_after_us(const struct http_head *head, struct wall now, bool *said)
{
    const char *ms = http_head_get(head, "retry-after-ms"), *text = http_head_get(head, "retry-after");
    int64_t us = 0;
    bool known = (ms && read_number(ms, 1000, &us)) || (text && read_number(text, 1000000, &us));
    if (!known && text) {
        time_t at = curl_getdate(text, NULL);
        known = at >= 0;
        us = known ? ((int64_t)at - now.ns / NS_PER_S) * 1000000 : 0;
    }
    if (said)
        *said = known;
    return known ? bounded(us) : 0;
}
