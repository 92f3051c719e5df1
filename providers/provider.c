/* The one visible array of providers, and what all of them share: names, settings. */
#include "providers/provider.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

const struct provider_ops *const provider_list[] = {&provider_static, &provider_process, &provider_openai,
                                                    &provider_ec2, NULL};

const struct provider_ops *provider_find(const char *name)
{
    for (int i = 0; provider_list[i]; i++) {
        if (strcmp(provider_list[i]->name, name) == 0)
            return provider_list[i];
    }
    return NULL;
}

const char *provider_instance_state_name(enum provider_instance_state s)
{
    switch (s) {
    case INSTANCE_STARTING: return "starting";
    case INSTANCE_RUNNING: return "running";
    case INSTANCE_BACKOFF: return "backoff";
    case INSTANCE_STOPPING: return "stopping";
    case INSTANCE_GONE: return "gone";
    }
    return "unknown";
}

const char *provider_failure_name(enum provider_failure f)
{
    static const char *const names[PROVIDER_FAILURES] = {
        [PROVIDER_FINE] = "fine",
        [PROVIDER_NO_CAPACITY] = "no_capacity",
        [PROVIDER_QUOTA] = "quota",
        [PROVIDER_THROTTLED] = "throttled",
        [PROVIDER_DENIED] = "denied",
        [PROVIDER_INVALID] = "invalid",
        [PROVIDER_UNREACHABLE] = "unreachable",
        [PROVIDER_TAKEN_BACK] = "taken_back",
        [PROVIDER_ENDED] = "ended",
    };
    return (unsigned)f < PROVIDER_FAILURES ? names[f] : "unknown";
}

const char *provider_market_name(enum provider_market m)
{
    switch (m) {
    case PROVIDER_ON_PREM: return "on-prem";
    case PROVIDER_SPOT: return "spot";
    case PROVIDER_ON_DEMAND: return "on-demand";
    case PROVIDER_API: return "api";
    }
    return "unknown";
}

/* ---- settings --------------------------------------------------------------------------------------------------- */

static const struct provider_key *find_key(const struct provider_key *keys, const char *name)
{
    for (; keys && keys->name; keys++) {
        if (strcmp(keys->name, name) == 0)
            return keys;
    }
    return NULL;
}

static const char *given(const struct provider_settings *s, const char *key)
{
    for (int i = 0; s && i < s->n; i++) {
        if (strcmp(s->pairs[i].key, key) == 0)
            return s->pairs[i].value;
    }
    return NULL;
}

const char *provider_setting(const struct provider_settings *s, const char *key)
{
    const char *value = given(s, key);
    if (value || !s)
        return value;
    const struct provider_key *k = find_key(s->keys, key);
    return k ? k->fallback : NULL;
}

int64_t provider_setting_int(const struct provider_settings *s, const char *key)
{
    const char *value = provider_setting(s, key);
    const struct provider_key *k = s ? find_key(s->keys, key) : NULL;
    int64_t v = 0;
    enum rc rc = RC_NOT_FOUND;
    if (value && k && k->type == KEY_DURATION)
        rc = text_parse_duration_ms(value, &v);
    else if (value && k && k->type == KEY_BOOL)
        return strcmp(value, "true") == 0;
    else if (value)
        rc = text_parse_int(value, 0, INT64_MAX, &v);
    return rc == RC_OK ? v : 0;
}

struct pusd provider_setting_dollars(const struct provider_settings *s, const char *key)
{
    const char *value = provider_setting(s, key);
    struct pusd a = {0};
    struct error ignored;
    return value && pusd_parse(value, &a, &ignored) == RC_OK ? a : (struct pusd){0};
}

size_t provider_setting_word(const char **at, const char **word)
{
    *at += strspn(*at, ", ");
    *word = *at;
    const size_t n = strcspn(*at, ",");
    *at += n;
    return n;
}

/* What a value of that type looks like; NULL: this one does. */
static const char *would_be_right(enum provider_key_type type, const char *value)
{
    int64_t v;
    struct pusd a;
    struct error ignored;
    switch (type) {
    case KEY_TEXT:
    case KEY_FILE:
    case KEY_SECRET_FILE:
    case KEY_LIST: return value[0] ? NULL : "something that is not empty";
    case KEY_URL:
        return strncmp(value, "http://", 7) == 0 || strncmp(value, "https://", 8) == 0
                   ? NULL
                   : "an address that starts with http:// or https://";
    case KEY_PORT: return text_parse_int(value, 1, 65535, &v) == RC_OK ? NULL : "a port, 1 to 65535";
    case KEY_INT: return text_parse_int(value, 0, INT64_MAX, &v) == RC_OK ? NULL : "a whole number";
    case KEY_DURATION: return text_parse_duration_ms(value, &v) == RC_OK ? NULL : "a duration, as in 500ms, 2s or 5m";
    case KEY_DOLLARS: return pusd_parse(value, &a, &ignored) == RC_OK ? NULL : "dollars, as in 0.75";
    case KEY_BOOL: return strcmp(value, "true") == 0 || strcmp(value, "false") == 0 ? NULL : "true or false";
    }
    return NULL;
}

static enum rc unknown_key(const struct provider_key *keys, const char *key, struct error *e)
{
    const char *names[64];
    int n = 0;
    for (; keys && keys->name && n < 64; keys++)
        names[n++] = keys->name;
    const char *nearest = text_nearest(key, names, n);
    return nearest ? error_set(e, RC_INVALID, "unknown key '%s'; did you mean '%s'?", key, nearest)
                   : error_set(e, RC_INVALID, "unknown key '%s'", key);
}

enum rc provider_settings_check(const struct provider_settings *s, struct error *e)
{
    for (int i = 0; i < s->n; i++) {
        const struct provider_pair *p = &s->pairs[i];
        const struct provider_key *k = find_key(s->keys, p->key);
        if (!k)
            return unknown_key(s->keys, p->key, e);
        const char *right = would_be_right(k->type, p->value);
        if (right)
            return error_set(e, RC_INVALID, "%s: '%s' must be %s", p->key, p->value, right);
    }
    for (const struct provider_key *k = s->keys; k && k->name; k++) {
        if (k->required && !given(s, k->name))
            return error_set(e, RC_INVALID, "%s is missing: %s", k->name, k->help);
    }
    return RC_OK;
}
