#include "providers/redfish.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "base/text.h"
#include "providers/redfish_doc.h"

#define POLL_MS       2000
#define DEADLINE_MS   (5 * 60 * 1000)
#define CALL_MS       20000
#define LOGOUT_MS     5000
#define ANSWER_MAX    ((size_t)2 << 20)
#define JSON_DEPTH    32
#define PAUSE_FIRST   500
#define PAUSE_LAST    8000
#define AGAIN_MS      30000 /* a reset that showed no effect is asked for again */
#define LOGINS_MAX    2
#define SERVICE_ROOT  "/redfish/v1"
#define SERVICE_SLASH "/redfish/v1/"

enum kind { ACT_STATE, ACT_WATTS, ACT_ON, ACT_OFF };
enum step {
    STEP_ROOT,
    STEP_LOGIN,
    STEP_SYSTEMS,
    STEP_READ,
    STEP_INFO,
    STEP_RESET,
    STEP_CHASSIS,
    STEP_METRICS,
    STEP_LOGOUT,
};

struct act {
    struct act *next;
    enum kind kind;
    int64_t grace_ms;
    redfish_cb *cb;
    void *arg;

    enum step step;
    struct mono until, gentle_until, asked; /* the act's deadline; patience with the system; the last reset's time */
    bool posted, gentle, knows_info, old_power;
    unsigned allowed, refused, asking; /* enum redfish_reset */
    int64_t pause_ms;
    int logins;
    char *authorization;            /* owned, secret: of basic; NULL: a session, or nobody is asked */
    char *token;                    /* owned, secret: of the session; NULL: none is open */
    char session[REDFISH_PATH_MAX]; /* what to delete */
    struct redfish_system system;
    struct redfish_chassis chassis;
    struct redfish_report report;
    char text[320];
};

struct redfish {
    struct event_base *loop;
    struct fetcher *fetcher;
    const struct clock *clock;
    const struct log *log;
    char *origin, *system_id, *user, *password_file, *ca_file; /* owned */
    bool basic, pinned, root_known;
    unsigned char pin[32];
    int64_t poll_ms, deadline_ms;
    struct redfish_root root;
    char system[REDFISH_PATH_MAX]; /* "": not known yet */

    struct act *acts; /* the first one runs */
    int n_acts;
    struct fetch *fetch;
    struct event *timer;
    struct random_pool random;
};

static void go(struct redfish *r);
static void on_answer(const struct fetch_answer *a, const struct error *e, void *arg);

/* ---- the end of an act ------------------------------------------------------------------------------------------ */

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void act_free(struct act *a)
{
    wipe(a->authorization);
    wipe(a->token);
    free(a);
}

static void tell(struct redfish *r)
{
    struct act *a = r->acts;
    const struct timeval now = {0};
    r->acts = a->next;
    r->n_acts--;
    if (r->acts)
        event_add(r->timer, &now);
    a->report.text = a->text;
    redfish_cb *cb = a->cb;
    cb(&a->report, a->arg); /* may free r */
    act_free(a);
}

static void finish(struct redfish *r, enum provider_failure failure, const char *format, ...) SPW_PRINTF(3, 4);
static void finish(struct redfish *r, enum provider_failure failure, const char *format, ...)
{
    struct act *a = r->acts;
    va_list args;
    va_start(args, format);
    vsnprintf(a->text, sizeof(a->text), format, args);
    va_end(args);
    a->report.failure = failure;
    a->step = STEP_LOGOUT;
    if (a->token && a->session[0])
        go(r);
    else
        tell(r);
}

static int64_t left_ms(const struct redfish *r, struct mono until)
{
    return (until.ns - clock_now(r->clock).ns) / NS_PER_MS;
}

static void later(struct redfish *r, int64_t ms)
{
    const struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(r->timer, &t);
}

/* The same step, or another, after a pause that doubles; full jitter above half. why: what to say if there is no time. */
static void again(struct redfish *r, enum step step, int64_t at_least_ms, const char *why)
{
    struct act *a = r->acts;
    uint32_t dice;
    random_take(&r->random, &dice, sizeof(dice));
    a->pause_ms = a->pause_ms ? a->pause_ms * 2 : PAUSE_FIRST;
    if (a->pause_ms > PAUSE_LAST)
        a->pause_ms = PAUSE_LAST;
    int64_t ms = a->pause_ms / 2 + (int64_t)(dice % (uint32_t)(a->pause_ms / 2 + 1));
    ms = ms < at_least_ms ? at_least_ms : ms;
    a->step = step;
    if (ms >= left_ms(r, a->until))
        finish(r, PROVIDER_UNREACHABLE, "%s, until the deadline", why);
    else
        later(r, ms);
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

static enum rc use_basic(struct redfish *r, struct error *e)
{
    char *password = NULL;
    enum rc rc = file_read_secret(&password, r->password_file, e);
    if (rc != RC_OK)
        return rc;
    char *pair = spw_asprintf("%s:%s", r->user, password), *code = text_base64(pair, strlen(pair));
    r->acts->authorization = spw_asprintf("Basic %s", code);
    wipe(password);
    wipe(pair);
    wipe(code);
    return RC_OK;
}

static enum rc login_body(struct redfish *r, char **body, struct error *e)
{
    char *password = NULL;
    enum rc rc = file_read_secret(&password, r->password_file, e);
    if (rc != RC_OK)
        return rc;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "UserName", r->user);
    cJSON *secret = cJSON_AddStringToObject(o, "Password", password);
    *body = cJSON_PrintUnformatted(o);
    if (secret)
        explicit_bzero(secret->valuestring, strlen(secret->valuestring));
    cJSON_Delete(o);
    wipe(password);
    return *body ? RC_OK : error_set(e, RC_INVALID, "the password is not text");
}

/* Method, path and body of the step. Where nothing can be asked the act is finished. */
static void ask(struct redfish *r, const char *method, const char *path, const char *body)
{
    struct act *a = r->acts;
    struct http_header headers[6];
    int n = 0;
    struct error e;
    headers[n++] = (struct http_header){"Accept", "application/json"};
    headers[n++] = (struct http_header){"OData-Version", "4.0"};
    if (body)
        headers[n++] = (struct http_header){"Content-Type", "application/json"};
    if (a->token)
        headers[n++] = (struct http_header){"X-Auth-Token", a->token};
    else if (a->authorization)
        headers[n++] = (struct http_header){"Authorization", a->authorization};
    int64_t ms = a->step == STEP_LOGOUT ? LOGOUT_MS : left_ms(r, a->until);
    ms = ms < 1 ? 1 : ms > CALL_MS ? CALL_MS : ms;
    char *url = spw_asprintf("%s%s", r->origin, path);
    struct fetch_request q = {.method = method,
                              .url = url,
                              .headers = headers,
                              .n_headers = n,
                              .body = body,
                              .body_len = body ? strlen(body) : 0,
                              .deadline_ms = ms,
                              .answer_bytes_max = ANSWER_MAX,
                              .ca_file = r->ca_file,
                              .pin_sha256 = r->pinned ? r->pin : NULL};
    enum rc rc = fetch_start(r->fetcher, &q, on_answer, r, &r->fetch, &e);
    free(url);
    if (rc == RC_OK)
        return;
    r->fetch = NULL;
    wipe(a->token);
    a->token = NULL; /* nothing can be asked, not even that */
    finish(r, PROVIDER_INVALID, "%s: %s", r->origin, e.message);
}

static void ask_login(struct redfish *r)
{
    char *body = NULL;
    struct error e;
    if (login_body(r, &body, &e) != RC_OK) {
        finish(r, PROVIDER_DENIED, "%s", e.message);
        return;
    }
    ask(r, "POST", r->root.sessions, body);
    wipe(body);
}

static void ask_reset(struct redfish *r)
{
    struct act *a = r->acts;
    char body[64];
    snprintf(body, sizeof(body), "{\"ResetType\":\"%s\"}", redfish_reset_name(a->asking));
    log_info(r->log, "provider", "power: asking for a reset", LOG_S("address", r->origin),
             LOG_S("text", redfish_reset_name(a->asking)));
    ask(r, "POST", a->system.target, body);
}

/* The step that stands next is taken. Only from the loop. */
static void go(struct redfish *r)
{
    struct act *a = r->acts;
    switch (a->step) {
    case STEP_ROOT: ask(r, "GET", SERVICE_SLASH, NULL); return;
    case STEP_LOGIN: ask_login(r); return;
    case STEP_SYSTEMS: ask(r, "GET", r->root.systems, NULL); return;
    case STEP_READ: ask(r, "GET", r->system, NULL); return;
    case STEP_INFO: ask(r, "GET", a->system.info, NULL); return;
    case STEP_RESET: ask_reset(r); return;
    case STEP_CHASSIS: ask(r, "GET", a->system.chassis, NULL); return;
    case STEP_METRICS: ask(r, "GET", a->old_power ? a->chassis.power : a->chassis.metrics, NULL); return;
    case STEP_LOGOUT: ask(r, "DELETE", a->session, NULL); return;
    }
}

static void next(struct redfish *r, enum step step)
{
    r->acts->step = step;
    go(r);
}

/* Who we are is settled first, then which system. */
static void after_root(struct redfish *r)
{
    struct act *a = r->acts;
    struct error e;
    if (r->user && !a->token && !a->authorization) {
        if (!r->basic && r->root.sessions[0]) {
            next(r, STEP_LOGIN);
            return;
        }
        if (use_basic(r, &e) != RC_OK) {
            finish(r, PROVIDER_DENIED, "%s", e.message);
            return;
        }
    }
    next(r, r->system[0] ? STEP_READ : STEP_SYSTEMS);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void on_root(struct redfish *r, const cJSON *doc)
{
    redfish_read_root(doc, &r->root);
    if (!r->root.systems[0])
        snprintf(r->root.systems, sizeof(r->root.systems), SERVICE_ROOT "/Systems");
    r->root_known = true;
    after_root(r);
}

static void on_login(struct redfish *r, const struct fetch_answer *answer, const cJSON *doc)
{
    struct act *a = r->acts;
    const char *token = fetch_answer_header(answer, "X-Auth-Token");
    a->token = token && token[0] ? spw_strdup(token) : NULL;
    const char *at = fetch_answer_header(answer, "Location"); /* after the token: it is borrowed until this call */
    const cJSON *id = json_find(doc, "@odata.id");
    if (!at && cJSON_IsString(id))
        at = id->valuestring;
    if (at)
        redfish_path(r->root.sessions, at, a->session);
    if (!a->token) {
        finish(r, PROVIDER_INVALID, "the controller opened a session without a token; use basic authentication");
        return;
    }
    next(r, r->system[0] ? STEP_READ : STEP_SYSTEMS);
}

static void on_systems(struct redfish *r, const cJSON *doc)
{
    struct error e;
    if (redfish_read_member(doc, r->root.systems, r->system_id, r->system, &e) != RC_OK) {
        r->system[0] = '\0';
        finish(r, PROVIDER_INVALID, "%s", e.message);
        return;
    }
    next(r, STEP_READ);
}

/* The state is not yet what it should be: is there something to ask for, or only to wait? */
static void decide(struct redfish *r)
{
    struct act *a = r->acts;
    bool on = a->kind == ACT_ON;
    bool out_of_patience = a->gentle && left_ms(r, a->gentle_until) <= 0;
    bool stale = a->posted && !a->gentle && mono_since(r->clock, a->asked) >= AGAIN_MS * NS_PER_MS;
    if (a->posted && !out_of_patience && !stale) {
        a->step = STEP_READ;
        if (left_ms(r, a->until) <= r->poll_ms)
            finish(r, PROVIDER_UNREACHABLE, "%s was accepted, and the power state is still %s",
                   redfish_reset_name(a->asking), a->system.word);
        else
            later(r, r->poll_ms);
        return;
    }
    bool gentle = !on && a->grace_ms > 0 && !out_of_patience && !stale;
    a->asking = redfish_reset_choose(a->allowed & ~a->refused, on, gentle);
    if (!a->asking || !a->system.target[0]) {
        finish(r, PROVIDER_INVALID, "the controller offers no reset that switches the machine %s", on ? "on" : "off");
        return;
    }
    a->gentle = !on && gentle && a->asking != REDFISH_FORCE_OFF;
    next(r, STEP_RESET);
}

static void on_system(struct redfish *r, const cJSON *doc)
{
    struct act *a = r->acts;
    redfish_read_system(doc, r->system, &a->system);
    a->report.is = a->system.power;
    if (a->kind == ACT_STATE || (a->kind == ACT_WATTS && !a->system.chassis[0])) {
        finish(r, PROVIDER_FINE, "%s", "");
        return;
    }
    if (a->kind == ACT_WATTS) {
        next(r, STEP_CHASSIS);
        return;
    }
    if (a->system.power == (a->kind == ACT_ON ? POWER_IS_ON : POWER_IS_OFF)) {
        finish(r, PROVIDER_FINE, "%s", "");
        return;
    }
    if (a->system.allowed)
        a->allowed = a->system.allowed;
    else if (!a->knows_info && a->system.info[0]) {
        next(r, STEP_INFO);
        return;
    } else if (
        !a->allowed) /* not told anywhere: what every controller should know; what it refuses is not asked again */
        a->allowed = REDFISH_ON | REDFISH_GRACEFUL_SHUTDOWN | REDFISH_FORCE_OFF;
    decide(r);
}

static void on_reset(struct redfish *r)
{
    struct act *a = r->acts;
    a->posted = true;
    a->asked = clock_now(r->clock);
    if (a->gentle && a->gentle_until.ns == 0)
        a->gentle_until.ns = a->asked.ns + a->grace_ms * NS_PER_MS;
    a->step = STEP_READ;
    later(r, r->poll_ms);
}

static void on_chassis(struct redfish *r, const cJSON *doc)
{
    struct act *a = r->acts;
    redfish_read_chassis(doc, a->system.chassis, &a->chassis);
    a->old_power = !a->chassis.metrics[0];
    if (!a->chassis.metrics[0] && !a->chassis.power[0])
        finish(r, PROVIDER_FINE, "%s", "");
    else
        next(r, STEP_METRICS);
}

static void on_metrics(struct redfish *r, const cJSON *doc)
{
    struct act *a = r->acts;
    a->report.milliwatts = redfish_read_milliwatts(doc);
    if (a->report.milliwatts < 0 && !a->old_power && a->chassis.power[0]) {
        a->old_power = true;
        go(r);
        return;
    }
    finish(r, PROVIDER_FINE, "%s", "");
}

static void on_good(struct redfish *r, const struct fetch_answer *answer, const cJSON *doc)
{
    struct act *a = r->acts;
    a->pause_ms = 0;
    switch (a->step) {
    case STEP_ROOT: on_root(r, doc); return;
    case STEP_LOGIN: on_login(r, answer, doc); return;
    case STEP_SYSTEMS: on_systems(r, doc); return;
    case STEP_READ: on_system(r, doc); return;
    case STEP_INFO:
        a->knows_info = true;
        a->allowed = redfish_read_action_info(doc);
        next(r, STEP_READ);
        return;
    case STEP_RESET: on_reset(r); return;
    case STEP_CHASSIS: on_chassis(r, doc); return;
    case STEP_METRICS: on_metrics(r, doc); return;
    case STEP_LOGOUT: break;
    }
}

/* ---- answers that are not good ---------------------------------------------------------------------------------- */

static bool transient(int status)
{
    return status >= 500 || status == 429 || status == 408;
}

/* No session is to be had: basic authentication needs none. */
static void without_session(struct redfish *r, const char *why)
{
    struct error e;
    log_info(r->log, "provider", "power: no session, using basic authentication", LOG_S("address", r->origin),
             LOG_S("reason", why));
    if (use_basic(r, &e) != RC_OK)
        finish(r, PROVIDER_DENIED, "%s", e.message);
    else
        next(r, r->system[0] ? STEP_READ : STEP_SYSTEMS);
}

static void on_bad_login(struct redfish *r, const struct fetch_answer *answer, const char *text)
{
    int status = answer->status;
    if (redfish_is_session_limit(answer->body))
        without_session(r, "the controller's limit of sessions is reached");
    else if (status == 404 || status == 405 || status == 501)
        without_session(r, "the controller opens none");
    else if (status == 400 || status == 401 || status == 403)
        finish(r, PROVIDER_DENIED, "the controller refuses user '%s' (%d%s%s)", r->user, status, *text ? ": " : "",
               text);
    else
        again(r, STEP_LOGIN, answer->retry_after_s * 1000, "the controller opens no session");
}

static void on_denied(struct redfish *r, int status, const char *text)
{
    struct act *a = r->acts;
    if (status == 401 && a->token && a->logins++ < LOGINS_MAX) { /* the session has run out */
        wipe(a->token);
        a->token = NULL;
        a->session[0] = '\0';
        next(r, STEP_LOGIN);
        return;
    }
    finish(r, PROVIDER_DENIED, "the controller refuses this to %s%s (%d%s%s)",
           r->user ? "user " : "who does not log in", r->user ? r->user : "", status, *text ? ": " : "", text);
}

/* A type that was refused is not asked for again in this act; the document is read again, and another one chosen. */
static void on_bad_reset(struct redfish *r, const struct fetch_answer *answer, const char *text)
{
    struct act *a = r->acts;
    char why[320];
    snprintf(why, sizeof(why), "%s was answered with %d%s%s", redfish_reset_name(a->asking), answer->status,
             *text ? ": " : "", text);
    log_warn(r->log, "provider", "power: a reset was refused", LOG_S("address", r->origin), LOG_S("reason", why));
    if (transient(answer->status) || answer->status == 409) {
        again(r, STEP_READ, answer->retry_after_s * 1000, why);
        return;
    }
    a->refused |= a->asking;
    a->gentle = false;
    bool on = a->kind == ACT_ON;
    if (redfish_reset_choose(a->allowed & ~a->refused, on, !on))
        again(r, STEP_READ, 0, why);
    else
        finish(r, PROVIDER_INVALID, "%s", why);
}

static void on_bad(struct redfish *r, const struct fetch_answer *answer, const cJSON *doc)
{
    struct act *a = r->acts;
    char text[REDFISH_TEXT_MAX], why[REDFISH_TEXT_MAX + 100];
    redfish_read_error(doc, text);
    if (a->step == STEP_LOGIN) {
        on_bad_login(r, answer, text);
        return;
    }
    if (answer->status == 401 || answer->status == 403) {
        on_denied(r, answer->status, text);
        return;
    }
    if (a->step == STEP_RESET) {
        on_bad_reset(r, answer, text);
        return;
    }
    if (a->step == STEP_CHASSIS || a->step == STEP_METRICS) { /* watts are told, or not */
        finish(r, PROVIDER_FINE, "%s", "");
        return;
    }
    if (a->step == STEP_INFO) {
        a->knows_info = true;
        next(r, STEP_READ);
        return;
    }
    snprintf(why, sizeof(why), "the controller answers %d%s%s", answer->status, *text ? ": " : "", text);
    if (transient(answer->status)) {
        again(r, a->step, answer->retry_after_s * 1000, why);
        return;
    }
    if (a->step == STEP_READ && !r->system_id)
        r->system[0] = '\0'; /* found anew the next time */
    finish(r, PROVIDER_INVALID, "%s", why);
}

static void on_answer(const struct fetch_answer *answer, const struct error *e, void *arg)
{
    struct redfish *r = arg;
    struct act *a = r->acts;
    cJSON *doc = NULL;
    struct error ignored;
    r->fetch = NULL;
    if (a->step == STEP_LOGOUT) {
        if (e || answer->status >= 400)
            log_warn(r->log, "provider", "power: a session could not be deleted; it ends by itself",
                     LOG_S("address", r->origin), LOG_S("reason", e ? e->message : "refused"));
        tell(r);
        return;
    }
    if (e && e->code == RC_DENIED) { /* whoever that is: it is told nothing, not even goodbye */
        a->session[0] = '\0';
        finish(r, PROVIDER_DENIED, "%s", e->message);
        return;
    }
    if (e) {
        if (a->step == STEP_RESET && a->asking == REDFISH_PUSH_POWER_BUTTON) {
            on_reset(r); /* it may have been pushed: once more would undo it */
            return;
        }
        /* A reset may have been done: what the state says decides. */
        again(r, a->step == STEP_RESET ? STEP_READ : a->step, 0, e->message);
        return;
    }
    if (answer->n && json_parse(answer->body, answer->n, JSON_DEPTH, &doc, &ignored) != RC_OK)
        doc = NULL;
    if (answer->status < 200 || answer->status > 299)
        on_bad(r, answer, doc);
    else if (!doc && a->step != STEP_RESET && a->step != STEP_LOGIN)
        again(r, a->step, 0, "the controller's answer is no JSON");
    else
        on_good(r, answer, doc);
    cJSON_Delete(doc);
}

/* ---- acts ------------------------------------------------------------------------------------------------------- */

static void begin(struct redfish *r)
{
    struct act *a = r->acts;
    a->until.ns = clock_now(r->clock).ns + r->deadline_ms * NS_PER_MS;
    if (!r->root_known)
        next(r, STEP_ROOT);
    else
        after_root(r);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct redfish *r = arg;
    (void)fd;
    (void)what;
    if (r->acts->until.ns == 0)
        begin(r);
    else
        go(r);
}

static enum rc add(struct redfish *r, enum kind kind, int64_t grace_ms, redfish_cb *cb, void *arg, struct error *e)
{
    const struct timeval now = {0};
    struct act **link = &r->acts;
    if (r->n_acts >= REDFISH_WAITING_MAX)
        return error_set(e, RC_FULL, "%s: %d power commands wait already", r->origin, r->n_acts);
    while (*link)
        link = &(*link)->next;
    struct act *a = spw_calloc(1, sizeof(*a));
    *a = (struct act){.kind = kind, .grace_ms = grace_ms, .cb = cb, .arg = arg, .report = {.milliwatts = -1}};
    *link = a;
    if (++r->n_acts == 1)
        event_add(r->timer, &now);
    return RC_OK;
}

enum rc redfish_power_on(struct redfish *r, redfish_cb *cb, void *arg, struct error *e)
{
    return add(r, ACT_ON, 0, cb, arg, e);
}

enum rc redfish_power_off(struct redfish *r, int64_t grace_ms, redfish_cb *cb, void *arg, struct error *e)
{
    return add(r, ACT_OFF, grace_ms, cb, arg, e);
}

enum rc redfish_state(struct redfish *r, redfish_cb *cb, void *arg, struct error *e)
{
    return add(r, ACT_STATE, 0, cb, arg, e);
}

enum rc redfish_watts(struct redfish *r, redfish_cb *cb, void *arg, struct error *e)
{
    return add(r, ACT_WATTS, 0, cb, arg, e);
}

/* scheme://host[:port] and, where there is more than the service root, the system's path. */
static enum rc take_address(struct redfish *r, const char *url, struct error *e)
{
    const char *host = strstr(url, "://");
    if (!host || (strncasecmp(url, "https://", 8) != 0 && strncasecmp(url, "http://", 7) != 0) || !host[3] ||
        host[3] == '/' || strchr(host + 3, '@'))
        return error_set(e, RC_INVALID, "\"%.100s\" is no controller's address; like https://10.0.0.7 is right", url);
    const char *path = strchr(host + 3, '/');
    size_t n = path ? strlen(path) : 0;
    while (n && path[n - 1] == '/')
        n--;
    r->origin = path ? spw_strndup(url, (size_t)(path - url)) : spw_strdup(url);
    if (n == 0 || (n == strlen(SERVICE_ROOT) && strncmp(path, SERVICE_ROOT, n) == 0))
        return RC_OK;
    if (n >= sizeof(r->system) || strncmp(path, SERVICE_SLASH, strlen(SERVICE_SLASH)) != 0)
        return error_set(e, RC_INVALID, "\"%.100s\": the path must be that of a system, as /redfish/v1/Systems/1", url);
    memcpy(r->system, path, n);
    return RC_OK;
}

static char *copy(const char *s)
{
    return s && s[0] ? spw_strdup(s) : NULL;
}

enum rc redfish_new(struct redfish **out, struct event_base *loop, struct fetcher *fetcher, const struct clock *clock,
                    const struct log *log, const struct redfish_options *o, struct error *e)
{
    if (!o->user != !o->password_file)
        return error_set(e, RC_INVALID, "a user and the file of its password belong together; one is missing");
    struct redfish *r = spw_calloc(1, sizeof(*r));
    *r = (struct redfish){.loop = loop,
                          .fetcher = fetcher,
                          .clock = clock,
                          .log = log,
                          .system_id = copy(o->system),
                          .user = copy(o->user),
                          .password_file = copy(o->password_file),
                          .ca_file = copy(o->ca_file),
                          .basic = o->basic,
                          .pinned = o->pin_sha256 != NULL,
                          .poll_ms = o->poll_ms > 0 ? o->poll_ms : POLL_MS,
                          .deadline_ms = o->deadline_ms > 0 ? o->deadline_ms : DEADLINE_MS};
    if (o->pin_sha256)
        memcpy(r->pin, o->pin_sha256, sizeof(r->pin));
    r->timer = evtimer_new(loop, on_timer, r);
    SPW_ASSERT(r->timer);
    enum rc rc = take_address(r, o->url, e);
    if (rc != RC_OK) {
        redfish_free(r);
        return rc;
    }
    *out = r;
    return RC_OK;
}

void redfish_free(struct redfish *r)
{
    if (!r)
        return;
    if (r->fetch)
        fetch_cancel(r->fetch);
    event_free(r->timer);
    while (r->acts) {
        struct act *a = r->acts;
        r->acts = a->next;
        act_free(a);
    }
    free(r->origin);
    free(r->system_id);
    free(r->user);
    free(r->password_file);
    free(r->ca_file);
    free(r);
}
