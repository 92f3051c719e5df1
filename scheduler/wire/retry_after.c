#include "scheduler/wire/retry_after.h"

#include <ctype.h>
#include <curl/curl.h>
#include <string.h>

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

/* "250ms", "1s", "6m0s", "1h2m3.5s": Go's way to write a duration, which OpenAI's servers use. */
static bool read_duration(const char *text, int64_t *out)
{
    static const struct {
        const char *name;
        int64_t us;
    } units[] = {{"ms", 1000}, {"h", INT64_C(3600000000)}, {"m", 60000000}, {"s", 1000000}};
    int64_t sum = 0;
    while (*text) {
        char number[16] = "";
        size_t n = strspn(text, "0123456789."), i = 0;
        int64_t us;
        if (n == 0 || n >= sizeof(number))
            return false;
        memcpy(number, text, n);
        text += n;
        while (i < 4 && strncmp(text, units[i].name, strlen(units[i].name)) != 0)
            i++;
        if (i == 4 || !read_number(number, units[i].us, &us))
            return false;
        text += strlen(units[i].name);
        sum = sum + us > RETRY_AFTER_US_MAX ? RETRY_AFTER_US_MAX : sum + us;
    }
    *out = sum;
    return true;
}

/* Until the quota that is used up is there again, by the headers of OpenAI and those who follow it: the longer of the two. */
static bool read_quota(const struct http_head *head, int64_t *us)
{
    static const char *const kinds[][2] = {{"x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"},
                                           {"x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"}};
    bool known = false;
    for (int i = 0; i < 2; i++) {
        const char *left = http_head_get(head, kinds[i][0]), *reset = http_head_get(head, kinds[i][1]);
        int64_t one;
        if (!left || strcmp(left, "0") != 0 || !reset || !*reset || !read_duration(reset, &one))
            continue;
        *us = known && *us > one ? *us : one;
        known = true;
    }
    return known;
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
    known = known || read_quota(head, &us);
    if (said)
        *said = known;
    return known ? bounded(us) : 0;
}
