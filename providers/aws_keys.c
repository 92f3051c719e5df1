/* A ring is made with keys, or with a role whose keys are fetched:
 *
 *     NONE --fetch--> token --> role's name --> its keys --> HAVE --5 min before the end, or refused--> token ...
 *                       \__________\______________\--> all that wait are told; the next fetch() tries again */
#include "providers/aws_keys.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#define FILE_BYTES_MAX  ((size_t)256 << 10)
#define ROLE_STEP_MS    3000
#define ROLE_BYTES_MAX  ((size_t)64 << 10)
#define REFRESH_AHEAD_S 300
#define TOKEN_TTL       "21600"
#define ROLE_PATH       "/latest/meta-data/iam/security-credentials/"

struct aws_keyring {
    struct event_base *loop;
    const struct clock *clock;
    struct fetcher *fetcher;
    enum aws_keys_source source; /* never ANY */
    char *file, *profile, *imds; /* owned */
    char *text;                  /* describe() */
    struct aws_keys keys;        /* owned strings; id NULL: none */
    unsigned generation;
    int64_t expires_s;          /* of a role's keys, Unix seconds; 0: never */
    struct aws_keys_wait waits; /* ring head */
    struct event *later;        /* owned; tells those that wait */
    struct fetch *step;         /* the one under way; NULL: none */
    char *token, *role;         /* owned; of the metadata service */
    struct error error;         /* of the last fetch */
};

/* ---- pure ------------------------------------------------------------------------------------------------------- */

static void wipe(const char **s)
{
    if (*s) {
        OPENSSL_cleanse((char *)*s, strlen(*s));
        free((char *)*s);
    }
    *s = NULL;
}

void aws_keys_wipe(struct aws_keys *k)
{
    wipe(&k->id);
    wipe(&k->secret);
    wipe(&k->token);
}

static struct aws_keys keys_copy(const struct aws_keys *k)
{
    return (struct aws_keys){.id = spw_strdup(k->id),
                             .secret = spw_strdup(k->secret),
                             .token = k->token && *k->token ? spw_strdup(k->token) : NULL};
}

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n > 0 && strchr(" \t\r", s[n - 1]))
        s[--n] = '\0';
    return s;
}

/* "[default]", also "[profile x]" as the tools' other file has it. */
static bool is_profile(char *line, const char *profile)
{
    char *end = strchr(line, ']');
    if (!end)
        return false;
    *end = '\0';
    char *name = trim(line + 1);
    if (strncmp(name, "profile ", 8) == 0)
        name = trim(name + 8);
    return strcmp(name, profile) == 0;
}

static void take_line(char *line, struct aws_keys *out)
{
    char *eq = strchr(line, '=');
    if (!eq)
        return;
    *eq = '\0';
    const char *name = trim(line), *value = trim(eq + 1);
    if (strcmp(name, "aws_access_key_id") == 0)
        out->id = value;
    else if (strcmp(name, "aws_secret_access_key") == 0)
        out->secret = value;
    else if (strcmp(name, "aws_session_token") == 0 && *value)
        out->token = value;
}

enum rc aws_keys_parse_file(char *text, const char *profile, struct aws_keys *out, struct error *e)
{
    bool inside = false, found = false;
    *out = (struct aws_keys){0};
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line = trim(line);
        if (*line == '[')
            found |= inside = is_profile(line, profile);
        else if (inside && *line != '#' && *line != ';')
            take_line(line, out);
    }
    if (!found)
        return error_set(e, RC_NOT_FOUND, "no profile [%s]", profile);
    if (!out->id || !*out->id || !out->secret || !*out->secret)
        return error_set(e, RC_INVALID, "profile [%s] lacks %s", profile,
                         out->id && *out->id ? "aws_secret_access_key" : "aws_access_key_id");
    return RC_OK;
}

static enum rc parse_role(const cJSON *root, struct aws_keys *out, int64_t *expires_s, struct error *e)
{
    const char *code = "Success", *expires = NULL;
    struct aws_keys k = {0};
    enum rc rc = json_get_string(root, "Code", &code, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(root, "AccessKeyId", &k.id, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(root, "SecretAccessKey", &k.secret, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(root, "Token", &k.token, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(root, "Expiration", &expires, NULL, e);
    if (rc != RC_OK)
        return rc;
    int64_t ms;
    if (strcmp(code, "Success") != 0)
        return error_set(e, RC_DENIED, "the metadata service says %.60s", code);
    if (!k.id || !*k.id || !k.secret || !*k.secret || !expires || text_parse_time_ms(expires, &ms) != RC_OK)
        return error_set(e, RC_INVALID, "the metadata service's keys lack AccessKeyId, SecretAccessKey or Expiration");
    *out = keys_copy(&k);
    *expires_s = ms / 1000;
    return RC_OK;
}

enum rc aws_keys_parse_role(const char *json, size_t n, struct aws_keys *out, int64_t *expires_s, struct error *e)
{
    cJSON *root = NULL;
    *out = (struct aws_keys){0};
    enum rc rc = json_parse(json, n, 8, &root, e);
    if (rc == RC_OK)
        rc = parse_role(root, out, expires_s, e);
    cJSON_Delete(root);
    return rc;
}

/* ---- those that wait -------------------------------------------------------------------------------------------- */

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    struct aws_keyring *k = arg;
    struct error error = k->error; /* a callback may free the ring, or fetch again */
    struct aws_keys_wait told = {.prev = k->waits.prev, .next = k->waits.next};
    (void)fd;
    (void)what;
    if (k->waits.next == &k->waits)
        return;
    /* Those that wait now are moved to a ring of their own: they stay there, each until it is told or gives up. */
    told.prev->next = told.next->prev = &told;
    k->waits.prev = k->waits.next = &k->waits;
    while (told.next != &told) {
        struct aws_keys_wait *w = told.next;
        aws_keyring_unwait(w);
        w->cb(error.code == RC_OK ? NULL : &error, w->arg);
    }
}

static void tell(struct aws_keyring *k)
{
    struct timeval now = {0};
    evtimer_add(k->later, &now);
}

void aws_keyring_unwait(struct aws_keys_wait *w)
{
    w->prev->next = w->next;
    w->next->prev = w->prev;
    w->prev = w->next = NULL;
}

/* ---- the role of this machine ----------------------------------------------------------------------------------- */

static void fail(struct aws_keyring *k, const struct error *e)
{
    k->error = *e;
    error_prefix(&k->error, "keys of this machine's role (%s)", k->imds);
    tell(k);
}

static void on_token(const struct fetch_answer *a, const struct error *e, void *arg);
static void on_role(const struct fetch_answer *a, const struct error *e, void *arg);
static void on_keys(const struct fetch_answer *a, const struct error *e, void *arg);

static void ask(struct aws_keyring *k, const char *method, const char *path, const char *more,
                struct http_header header, fetch_cb *cb)
{
    struct error e;
    char *url = spw_asprintf("%s%s%s", k->imds, path, more);
    struct fetch_request r = {.method = method,
                              .url = url,
                              .headers = &header,
                              .n_headers = 1,
                              .deadline_ms = ROLE_STEP_MS,
                              .answer_bytes_max = ROLE_BYTES_MAX};
    enum rc rc = fetch_start(k->fetcher, &r, cb, k, &k->step, &e);
    free(url);
    if (rc != RC_OK)
        fail(k, &e);
}

static void start_role(struct aws_keyring *k)
{
    if (!k->step)
        ask(k, "PUT", "/latest/api/token", "", (struct http_header){"X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL},
            on_token);
}

/* The text of a good answer; NULL: those that wait were told why there is none. */
static const char *good(struct aws_keyring *k, const struct fetch_answer *a, const struct error *e, const char *what)
{
    struct error mine;
    k->step = NULL;
    if (a) {
        if (a->status == 200 && a->n > 0)
            return a->body;
        error_set(&mine, RC_IO, "%s: HTTP status %d", what, a->status);
        e = &mine;
    }
    fail(k, e);
    return NULL;
}

static void on_token(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct aws_keyring *k = arg;
    const char *token = good(k, a, e, "token");
    if (!token)
        return;
    free(k->token);
    k->token = spw_strdup(token);
    ask(k, "GET", ROLE_PATH, "", (struct http_header){"X-aws-ec2-metadata-token", k->token}, on_role);
}

static void on_role(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct aws_keyring *k = arg;
    const char *role = good(k, a, e, "this machine has no role");
    if (!role)
        return;
    free(k->role);
    k->role = spw_strndup(role, strcspn(role, "\r\n"));
    ask(k, "GET", ROLE_PATH, k->role, (struct http_header){"X-aws-ec2-metadata-token", k->token}, on_keys);
}

static void on_keys(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct aws_keyring *k = arg;
    struct aws_keys keys;
    struct error mine;
    const char *json = good(k, a, e, "role");
    if (!json)
        return;
    if (aws_keys_parse_role(json, a->n, &keys, &k->expires_s, &mine) != RC_OK) {
        fail(k, &mine);
        return;
    }
    aws_keys_wipe(&k->keys);
    k->keys = keys;
    k->generation++;
    k->error.code = RC_OK;
    tell(k);
}

/* ---- the ring --------------------------------------------------------------------------------------------------- */

static enum rc load_env(struct aws_keyring *k, struct error *e)
{
    struct aws_keys env = {.id = getenv("AWS_ACCESS_KEY_ID"),
                           .secret = getenv("AWS_SECRET_ACCESS_KEY"),
                           .token = getenv("AWS_SESSION_TOKEN")};
    if (!env.id || !*env.id || !env.secret || !*env.secret)
        return error_set(e, RC_NOT_FOUND, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set");
    k->keys = keys_copy(&env);
    return RC_OK;
}

static enum rc load_file(struct aws_keyring *k, struct error *e)
{
    struct strbuf text;
    struct aws_keys found;
    enum rc rc = file_read(&text, k->file, FILE_BYTES_MAX, e);
    if (rc == RC_OK && text.len == 0)
        rc = error_set(e, RC_NOT_FOUND, "no profile [%s]", k->profile);
    if (rc == RC_OK)
        rc = aws_keys_parse_file(text.data, k->profile, &found, e);
    if (rc == RC_OK) {
        aws_keys_wipe(&k->keys);
        k->keys = keys_copy(&found);
    } else {
        error_prefix(e, "%s", k->file);
    }
    if (text.data)
        OPENSSL_cleanse(text.data, text.len);
    strbuf_fini(&text);
    return rc;
}

static enum rc load(struct aws_keyring *k, enum aws_keys_source source, struct error *e)
{
    enum rc rc = RC_OK; /* of a role: when it is asked for */
    if (source == AWS_KEYS_ENV)
        rc = load_env(k, e);
    else if (source == AWS_KEYS_FILE)
        rc = load_file(k, e);
    k->source = rc == RC_OK ? source : k->source;
    return rc;
}

static const char *first_of(const char *given, const char *variable, const char *fallback)
{
    const char *env = getenv(variable);
    if (given)
        return given;
    return env && *env ? env : fallback;
}

static char *describe(const struct aws_keyring *k)
{
    switch (k->source) {
    case AWS_KEYS_ENV: return spw_strdup("environment");
    case AWS_KEYS_FILE: return spw_asprintf("file %s, profile %s", k->file, k->profile);
    default: return spw_asprintf("role of this machine (%s)", k->imds);
    }
}

enum rc aws_keyring_new(struct aws_keyring **out, const struct aws_keyring_options *o, struct error *e)
{
    const char *home = getenv("HOME");
    struct aws_keyring *k = spw_calloc(1, sizeof(*k));
    char *usual = spw_asprintf("%s/.aws/credentials", home ? home : "");
    *k = (struct aws_keyring){
        .loop = o->loop,
        .clock = o->clock,
        .fetcher = o->fetcher,
        .file = spw_strdup(first_of(o->file, "AWS_SHARED_CREDENTIALS_FILE", usual)),
        .profile = spw_strdup(first_of(o->profile, "AWS_PROFILE", "default")),
        .imds = spw_strdup(o->imds ? o->imds : "http://169.254.169.254"),
    };
    free(usual);
    k->waits.prev = k->waits.next = &k->waits;
    k->later = evtimer_new(o->loop, on_later, k);
    enum rc rc = RC_NOT_FOUND;
    if (o->source != AWS_KEYS_ANY)
        rc = load(k, o->source, e);
    for (enum aws_keys_source s = AWS_KEYS_ENV; o->source == AWS_KEYS_ANY && rc != RC_OK && s <= AWS_KEYS_ROLE; s++) {
        rc = load(k, s, e);
        if (rc == RC_INVALID) /* a file with half a key is a mistake, not an absence */
            break;
    }
    if (rc != RC_OK) {
        aws_keyring_free(k);
        return rc;
    }
    k->text = describe(k);
    *out = k;
    return RC_OK;
}

void aws_keyring_free(struct aws_keyring *k)
{
    if (!k)
        return;
    if (k->step)
        fetch_cancel(k->step);
    event_free(k->later);
    aws_keys_wipe(&k->keys);
    free(k->file);
    free(k->profile);
    free(k->imds);
    free(k->text);
    free(k->token);
    free(k->role);
    free(k);
}

static int64_t left_s(const struct aws_keyring *k)
{
    if (!k->keys.id)
        return 0;
    return k->expires_s ? k->expires_s - clock_wall(k->clock).ns / NS_PER_S : INT64_MAX;
}

const struct aws_keys *aws_keyring_peek(struct aws_keyring *k)
{
    int64_t left = left_s(k);
    if (left > 0 && left < REFRESH_AHEAD_S)
        start_role(k); /* in the background, while these still hold */
    return left > 0 ? &k->keys : NULL;
}

unsigned aws_keyring_generation(const struct aws_keyring *k)
{
    return k->generation;
}

bool aws_keyring_refused(struct aws_keyring *k, unsigned generation)
{
    struct error ignored;
    if (generation != k->generation)
        return true;
    if (k->source == AWS_KEYS_ROLE) {
        aws_keys_wipe(&k->keys);
        return true;
    }
    if (k->source != AWS_KEYS_FILE)
        return false;
    char *before = spw_strdup(k->keys.secret);
    bool newer = load_file(k, &ignored) == RC_OK && strcmp(before, k->keys.secret) != 0;
    OPENSSL_cleanse(before, strlen(before));
    free(before);
    k->generation += newer;
    return newer;
}

void aws_keyring_fetch(struct aws_keyring *k, struct aws_keys_wait *w)
{
    w->next = &k->waits;
    w->prev = k->waits.prev;
    w->prev->next = k->waits.prev = w;
    if (k->source == AWS_KEYS_ROLE && left_s(k) <= 0) {
        start_role(k);
        return;
    }
    k->error.code = RC_OK;
    tell(k);
}

const char *aws_keyring_describe(const struct aws_keyring *k)
{
    return k->text;
}
