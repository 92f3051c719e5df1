#include "scheduler/wire/urgency.h"

#include <string.h>

#include "base/text.h"

enum rc tier_read(const char *text, enum service_tier *tier, struct error *e)
{
    static const char *const names[] = {"auto", "default", "flex", "priority", "scale"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            *tier = (enum service_tier)i;
            return RC_OK;
        }
    }
    return error_set(e, RC_INVALID, "'service_tier' is \"%.40s\"; auto, default, flex and priority are right", text);
}

/* Whole seconds, a duration with its unit, or a time. */
static enum rc read_left(const char *text, struct wall now, int64_t *left_ns)
{
    int64_t v;
    enum rc rc = text_parse_int(text, 0, URGENCY_AHEAD_MAX / NS_PER_S, &v);
    if (rc == RC_OK)
        v *= 1000;
    else if (rc == RC_INVALID)
        rc = text_parse_duration_ms(text, &v);
    if (rc == RC_OK && v > URGENCY_AHEAD_MAX / NS_PER_MS)
        return RC_FULL;
    if (rc == RC_OK)
        *left_ns = v * NS_PER_MS;
    if (rc != RC_INVALID)
        return rc;
    rc = text_parse_time_ms(text, &v); /* up to the year 9999, so the difference in milliseconds first */
    if (rc != RC_OK)
        return rc;
    v -= now.ns / NS_PER_MS;
    if (v > URGENCY_AHEAD_MAX / NS_PER_MS)
        return RC_FULL;
    *left_ns = v <= 0 ? 0 : v * NS_PER_MS;
    return RC_OK;
}

enum rc urgency_read(struct urgency *u, enum service_tier tier, const char *deadline, struct wall now,
                     int64_t batch_after_ms, struct error *e)
{
    *u = (struct urgency){.class = tier == TIER_FLEX ? WAITING_BATCH : WAITING_INTERACTIVE};
    if (!deadline)
        return RC_OK;
    switch (read_left(deadline, now, &u->left_ns)) {
    case RC_OK: break;
    case RC_FULL:
        return error_set(e, RC_INVALID, "'" URGENCY_HEADER "' is \"%.40s\"; at most seven days ahead are right",
                         deadline);
    default:
        return error_set(e, RC_INVALID,
                         "'" URGENCY_HEADER "' is \"%.40s\"; a duration from now as in 30s, 1500ms or 2h, or a time as "
                         "in 2027-01-31T18:00:00Z is right",
                         deadline);
    }
    if (u->left_ns == 0)
        return error_set(e, RC_INVALID, "'" URGENCY_HEADER "' is \"%.40s\", which has passed; a time to come is right",
                         deadline);
    u->has_deadline = true;
    if (tier == TIER_AUTO && u->left_ns >= batch_after_ms * NS_PER_MS)
        u->class = WAITING_BATCH;
    return RC_OK;
}

const char *tier_served(enum service_tier asked, enum waiting_class class)
{
    if (class == WAITING_BATCH)
        return "flex";
    return asked == TIER_PRIORITY ? "priority" : "default";
}
