#include "providers/redfish_doc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    unsigned bit;
    const char *word;
} resets[] = {
    {REDFISH_ON, "On"},
    {REDFISH_FORCE_ON, "ForceOn"},
    {REDFISH_GRACEFUL_SHUTDOWN, "GracefulShutdown"},
    {REDFISH_FORCE_OFF, "ForceOff"},
    {REDFISH_PUSH_POWER_BUTTON, "PushPowerButton"},
};
#define N_RESETS (sizeof(resets) / sizeof(resets[0]))

const char *redfish_reset_name(unsigned bit)
{
    for (size_t i = 0; i < N_RESETS; i++) {
        if (resets[i].bit == bit)
            return resets[i].word;
    }
    return "?";
}

/* The first of the three that is allowed. Not a loop over a table of them: gcc 12.2 at -O2 made "allowed & 1" of its
 * last turn (the test of this file saw it). */
static unsigned first_of(unsigned allowed, unsigned a, unsigned b, unsigned c)
{
    return allowed & a ? a : allowed & b ? b : allowed & c;
}

unsigned redfish_reset_choose(unsigned allowed, bool on, bool gentle)
{
    if (on)
        return first_of(allowed, REDFISH_ON, REDFISH_FORCE_ON, REDFISH_PUSH_POWER_BUTTON);
    if (gentle)
        return first_of(allowed, REDFISH_GRACEFUL_SHUTDOWN, REDFISH_PUSH_POWER_BUTTON, REDFISH_FORCE_OFF);
    return first_of(allowed, REDFISH_FORCE_OFF, REDFISH_PUSH_POWER_BUTTON, 0);
}

bool redfish_path(const char *document, const char *reference, char path[REDFISH_PATH_MAX])
{
    const char *scheme = strstr(reference, "://");
    if (scheme && (strncasecmp(reference, "http", 4) == 0)) {
        reference = strchr(scheme + 3, '/');
        if (!reference)
            return false;
    }
    int n = reference[0] == '/' ? snprintf(path, REDFISH_PATH_MAX, "%s", reference)
                                : snprintf(path, REDFISH_PATH_MAX, "%s/%s", document, reference);
    bool good = n > 0 && n < REDFISH_PATH_MAX && reference[0] && path[0] == '/';
    for (const char *p = path; good && *p; p++)
        good = *p > ' ' && *p < 0x7f;
    if (!good)
        path[0] = '\0';
    return good;
}

/* doc.key.@odata.id */
static void read_link(const cJSON *doc, const char *key, const char *document, char path[REDFISH_PATH_MAX])
{
    const cJSON *id = json_find(json_find(doc, key), "@odata.id");
    path[0] = '\0';
    if (cJSON_IsString(id))
        redfish_path(document, id->valuestring, path);
}

void redfish_read_root(const cJSON *doc, struct redfish_root *root)
{
    read_link(doc, "Systems", "/redfish/v1", root->systems);
    read_link(json_find(doc, "Links"), "Sessions", "/redfish/v1", root->sessions);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

enum rc redfish_read_member(const cJSON *doc, const char *collection, const char *id, char path[REDFISH_PATH_MAX],
                            struct error *e)
{
    const cJSON *members = json_find(doc, "Members"), *m;
    char names[REDFISH_TEXT_MAX] = "";
    int n = 0;
    cJSON_ArrayForEach(m, members)
    {
        char one[REDFISH_PATH_MAX];
        const cJSON *at = json_find(m, "@odata.id");
        if (!cJSON_IsString(at) || !redfish_path(collection, at->valuestring, one))
            continue;
        size_t end = strlen(one); /* some write a slash behind it */
        if (end > 1 && one[end - 1] == '/')
            one[end - 1] = '\0';
        if (id && strcmp(last_part(one), id) != 0) {
            size_t used = strlen(names);
            snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", last_part(one));
            continue;
        }
        memcpy(path, one, sizeof(one));
        n++;
        size_t used = strlen(names);
        snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", last_part(one));
    }
    if (n == 1)
        return RC_OK;
    if (n > 1)
        return error_set(e, RC_INVALID, "the controller has several systems (%s); say which one in bmc_system", names);
    if (!names[0])
        return error_set(e, RC_INVALID, "the controller shows no system in %s", collection);
    return error_set(e, RC_INVALID, "the controller has no system '%s'; it has %s", id ? id : "", names);
}

static unsigned read_words(const cJSON *list)
{
    const cJSON *word;
    unsigned bits = 0;
    cJSON_ArrayForEach(word, list)
    {
        for (size_t i = 0; cJSON_IsString(word) && i < N_RESETS; i++) {
            if (strcmp(word->valuestring, resets[i].word) == 0)
                bits |= resets[i].bit;
        }
    }
    return bits;
}

static enum provider_power power_of(const char *word)
{
    if (strcasecmp(word, "On") == 0 || strcasecmp(word, "Paused") == 0)
        return POWER_IS_ON;
    return strcasecmp(word, "Off") == 0 ? POWER_IS_OFF : POWER_IS_UNKNOWN;
}

void redfish_read_system(const cJSON *doc, const char *document, struct redfish_system *s)
{
    const cJSON *word = json_find(doc, "PowerState");
    const cJSON *action = json_find(json_find(doc, "Actions"), "#ComputerSystem.Reset");
    const cJSON *target = json_find(action, "target"), *info = json_find(action, "@Redfish.ActionInfo");
    const cJSON *chassis = json_find(json_find(doc, "Links"), "Chassis");
    memset(s, 0, sizeof(*s));
    snprintf(s->word, sizeof(s->word), "%s", cJSON_IsString(word) ? word->valuestring : "not told");
    s->power = power_of(s->word);
    if (cJSON_IsString(target))
        redfish_path(document, target->valuestring, s->target);
    if (cJSON_IsString(info))
        redfish_path(document, info->valuestring, s->info);
    s->allowed = read_words(json_find(action, "ResetType@Redfish.AllowableValues"));
    const cJSON *at = json_find(cJSON_IsArray(chassis) ? chassis->child : NULL, "@odata.id");
    if (cJSON_IsString(at))
        redfish_path(document, at->valuestring, s->chassis);
}

unsigned redfish_read_action_info(const cJSON *doc)
{
    const cJSON *p;
    cJSON_ArrayForEach(p, json_find(doc, "Parameters"))
    {
        const cJSON *name = json_find(p, "Name");
        if (cJSON_IsString(name) && strcmp(name->valuestring, "ResetType") == 0)
            return read_words(json_find(p, "AllowableValues"));
    }
    return 0;
}

void redfish_read_chassis(const cJSON *doc, const char *document, struct redfish_chassis *c)
{
    read_link(doc, "EnvironmentMetrics", document, c->metrics);
    read_link(doc, "Power", document, c->power);
}

int64_t redfish_read_milliwatts(const cJSON *doc)
{
    const cJSON *control = json_find(doc, "PowerControl");
    const cJSON *watts = json_find(json_find(doc, "PowerWatts"), "Reading");
    if (!cJSON_IsNumber(watts))
        watts = json_find(cJSON_IsArray(control) ? control->child : NULL, "PowerConsumedWatts");
    if (!cJSON_IsNumber(watts) || !(watts->valuedouble >= 0 && watts->valuedouble < 1e6))
        return -1;
    return llround(watts->valuedouble * 1000);
}

void redfish_read_error(const cJSON *doc, char text[REDFISH_TEXT_MAX])
{
    const cJSON *error = json_find(doc, "error"), *more = json_find(error, "@Message.ExtendedInfo");
    const cJSON *message = json_find(cJSON_IsArray(more) ? more->child : NULL, "Message");
    if (!cJSON_IsString(message))
        message = json_find(error, "message");
    snprintf(text, REDFISH_TEXT_MAX, "%s", cJSON_IsString(message) ? message->valuestring : "");
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ')
            *p = ' ';
    }
}

/* Base registry (DSP8011): SessionLimitExceeded, as a part of a MessageId of any version. */
bool redfish_is_session_limit(const char *body)
{
    return strstr(body, "SessionLimitExceeded") != NULL;
}
