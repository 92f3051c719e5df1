/* /admin/v1/keys. The store blocks on its file, so that each command runs on the reader's thread:
 *
 *   loop: body read, job made -> thread: the store's call, the answer written -> loop: answered, or dropped when the
 *   client has left (a key that was made then stays; it can be revoked by its id)
 *
 * The job belongs to the worker until its completion. The text of a key is in the answer alone and wiped with it. */
#include "scheduler/admin/admin_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

#define BODY_DEPTH_MAX 4

struct key_job {
    struct http_exchange *x; /* NULL: the client has left */
    struct keystore *keystore;
    struct config *config; /* a reference */
    cJSON *body;           /* what spec borrows from; NULL: none */
    struct key_spec spec;
    const char *words[3][KEYSTORE_MODELS_MAX];
    char id[KEYSTORE_ID_BYTES], tenant[ADMIN_NAME_MAX + 1]; /* tenant "": all */
    int64_t grace_s;
    int status; /* of success */
    struct strbuf out;
    struct json_writer w;
    enum rc rc;
    struct error e;
};

static void job_free(struct key_job *job)
{
    if (job->out.data)
        explicit_bzero(job->out.data, job->out.len);
    strbuf_fini(&job->out);
    cJSON_Delete(job->body);
    config_free(job->config);
    free(job);
}

static void abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct key_job *)state)->x = NULL;
}

static void reply_failed(struct http_exchange *x, const struct error *e)
{
    switch (e->code) {
    case RC_INVALID: admin_reply_error(x, 400, "invalid_request", "%s", e->message); break;
    case RC_NOT_FOUND: admin_reply_error(x, 404, "not_found", "%s", e->message); break;
    case RC_CONFLICT: admin_reply_error(x, 409, "conflict", "%s", e->message); break;
    case RC_FULL: admin_reply_error(x, 409, "full", "%s", e->message); break;
    default: admin_reply_error(x, 500, "keys_unavailable", "%s", e->message); break;
    }
}

static void done_cb(enum rc rc, void *arg)
{
    struct key_job *job = arg;

    if (job->x && rc == RC_OK) {
        http_exchange_set(job->x, NULL, NULL);
        if (job->rc != RC_OK)
            reply_failed(job->x, &job->e);
        else if (json_write_end(&job->w) == RC_OK)
            admin_reply(job->x, job->status, "application/json", &job->out);
        else
            admin_reply_error(job->x, 500, "answer_too_large", "more than %zu bytes; ask for one tenant's keys",
                              ADMIN_ANSWER_MAX);
    }
    job_free(job);
}

static struct key_job *job_new(const struct admin_call *c)
{
    struct key_job *job = spw_calloc(1, sizeof *job);

    job->x = c->x;
    job->keystore = c->admin->o.keystore;
    job->config = config_ref(c->admin->config);
    job->status = 200;
    snprintf(job->id, sizeof job->id, "%s", c->name ? c->name : "");
    strbuf_init(&job->out, ADMIN_ANSWER_MAX);
    job->w = json_write_begin(&job->out);
    return job;
}

static void job_start(const struct admin_call *c, struct key_job *job, void (*run)(void *arg))
{
    if (!admin_start(c, run, done_cb, abort_cb, job))
        job_free(job);
}

/* ---- the list --------------------------------------------------------------------------------------------------- */

static void write_words(struct json_writer *w, const char *key, const char *const *words, int n)
{
    json_open(w, key, '[');
    for (int i = 0; i < n; i++)
        json_string(w, NULL, words[i]);
    json_close(w, ']');
}

static void write_identity(struct json_writer *w, const struct identity *who, const char *const *networks,
                           int n_networks)
{
    char buf[64], *rest = auth_scopes_format(who->scopes, buf, sizeof buf), *word;

    json_string(w, "tenant", who->tenant);
    json_string(w, "team", who->team);
    json_string(w, "project", who->project);
    json_string(w, "user", who->user);
    json_open(w, "scopes", '[');
    while ((word = strsep(&rest, " ")))
        json_string(w, NULL, word);
    json_close(w, ']');
    write_words(w, "models", who->models, who->n_models);
    write_words(w, "networks", networks, n_networks);
    json_string(w, "rate_class", who->rate_class);
    json_bool(w, "local_only", who->local_only);
}

static void write_stored(const struct key_info *k, void *arg)
{
    struct json_writer *w = arg;

    json_open(w, NULL, '{');
    json_string(w, "id", k->id);
    json_string(w, "source", "store");
    json_string(w, "tail", k->tail);
    write_identity(w, &k->who, k->networks, k->who.n_networks);
    admin_put_time(w, "created", k->created_s);
    admin_put_time(w, "expires", k->expires_s);
    admin_put_time(w, "rotated", k->rotated_s);
    admin_put_time(w, "old_until", k->old_until_s);
    admin_put_time(w, "revoked", k->revoked_s);
    admin_put_time(w, "used", k->used_s);
    json_close(w, '}');
}

static void write_configured(struct json_writer *w, const struct config_key *k)
{
    static const char *const unknown[] = {"created", "rotated", "old_until", "revoked", "used"};
    struct network networks[KEYSTORE_MODELS_MAX];
    struct identity who;
    int64_t expires_s;
    struct error e;

    if (config_key_identity(k, &who, networks, &expires_s, &e) != RC_OK)
        return; /* cannot be: it was checked when it was loaded */
    json_open(w, NULL, '{');
    json_string(w, "id", k->id);
    json_string(w, "source", "config");
    json_null(w, "tail");
    write_identity(w, &who, k->networks, k->n_networks);
    admin_put_time(w, "expires", expires_s);
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        json_null(w, unknown[i]);
    json_close(w, '}');
}

static void run_list(void *arg)
{
    struct key_job *job = arg;
    const char *tenant = job->tenant[0] ? job->tenant : NULL;

    json_open(&job->w, NULL, '{');
    json_open(&job->w, "keys", '[');
    for (int i = 0; i < job->config->n_keys; i++)
        if (!tenant || strcmp(tenant, job->config->keys[i].tenant) == 0)
            write_configured(&job->w, &job->config->keys[i]);
    job->rc = keystore_list(job->keystore, tenant, write_stored, &job->w, &job->e);
    json_close(&job->w, ']');
    json_close(&job->w, '}');
}

void admin_get_keys(const struct admin_call *c)
{
    const char *tenant = http_request_query(c->x, "tenant");

    if (tenant && !identity_name_ok(tenant)) {
        admin_reply_error(c->x, 400, "invalid_request", "tenant: that is not a tenant's name");
        return;
    }
    struct key_job *job = job_new(c);
    snprintf(job->tenant, sizeof job->tenant, "%s", tenant ? tenant : "");
    job_start(c, job, run_list);
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

static void write_text(struct key_job *job, char text[KEYSTORE_TEXT_BYTES])
{
    json_open(&job->w, NULL, '{');
    json_string(&job->w, "id", job->id);
    json_string(&job->w, "key", text);
    json_close(&job->w, '}');
    explicit_bzero(text, KEYSTORE_TEXT_BYTES);
}

static void run_create(void *arg)
{
    struct key_job *job = arg;
    char text[KEYSTORE_TEXT_BYTES];

    job->rc = keystore_create(job->keystore, &job->spec, text, job->id, &job->e);
    if (job->rc == RC_OK)
        write_text(job, text);
}

static void run_rotate(void *arg)
{
    struct key_job *job = arg;
    char text[KEYSTORE_TEXT_BYTES];

    job->rc = keystore_rotate(job->keystore, job->id, job->grace_s, text, &job->e);
    if (job->rc == RC_OK)
        write_text(job, text);
}

static void run_revoke(void *arg)
{
    struct key_job *job = arg;

    job->rc = keystore_revoke(job->keystore, job->id, &job->e);
    json_open(&job->w, NULL, '{');
    json_string(&job->w, "id", job->id);
    json_bool(&job->w, "revoked", true);
    json_close(&job->w, '}');
}

static enum rc get_words(const cJSON *body, const char *key, const char **words, int *n, struct error *e)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(body, key), *item;

    *n = 0;
    if (!list || cJSON_IsNull(list))
        return RC_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > KEYSTORE_MODELS_MAX || cJSON_GetArraySize(list) == 0)
        return error_set(e, RC_INVALID, "%s: must be a list of 1 to %d strings; leave it out to allow all", key,
                         KEYSTORE_MODELS_MAX);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            return error_set(e, RC_INVALID, "%s: every entry must be a string", key);
        words[(*n)++] = item->valuestring;
    }
    return RC_OK;
}

/* A slip in a name must not make a key that may do more than was meant. */
static enum rc only_known(const cJSON *body, const char *const *known, struct error *e)
{
    const cJSON *m;
    cJSON_ArrayForEach(m, body)
    {
        int i = 0;
        while (known[i] && strcmp(known[i], m->string) != 0)
            i++;
        if (!known[i])
            return error_set(e, RC_INVALID, "\"%.40s\" is not known here; docs/ADMIN_API.md has the list", m->string);
    }
    return RC_OK;
}

static enum rc get_scopes(struct key_job *job, struct error *e)
{
    int n;
    enum rc rc = get_words(job->body, "scopes", job->words[0], &n, e);

    for (int i = 0; i < n && rc == RC_OK; i++) {
        const char *word = job->words[0][i];
        unsigned scope = auth_scope_parse(word, strlen(word));
        job->spec.scopes |= scope;
        if (!scope)
            rc = error_set(e, RC_INVALID, "scopes: \"%.40s\" is none; inference, usage and admin are", word);
    }
    return rc;
}

static enum rc get_spec(struct key_job *job, struct error *e)
{
    static const char *const known[] = {"tenant", "id",     "team",     "project",    "user",    "rate_class",
                                        "scopes", "models", "networks", "local_only", "expires", NULL};
    struct key_spec *s = &job->spec;
    const cJSON *body = job->body;
    const char *expires = NULL;
    const struct {
        const char *key, **to;
    } strings[] = {{"tenant", &s->tenant},   {"id", &s->id},     {"team", &s->team},
                   {"project", &s->project}, {"user", &s->user}, {"rate_class", &s->rate_class},
                   {"expires", &expires}};
    enum rc rc = only_known(body, known, e);

    for (size_t i = 0; i < sizeof strings / sizeof strings[0] && rc == RC_OK; i++)
        rc = json_get_string(body, strings[i].key, strings[i].to, NULL, e);
    if (rc == RC_OK && !s->tenant)
        rc = error_set(e, RC_INVALID, "tenant: is missing: who pays");
    if (rc == RC_OK)
        rc = json_get_bool(body, "local_only", &s->local_only, NULL, e);
    if (rc == RC_OK)
        rc = get_scopes(job, e);
    if (rc == RC_OK)
        rc = get_words(body, "models", job->words[1], &s->n_models, e);
    if (rc == RC_OK)
        rc = get_words(body, "networks", job->words[2], &s->n_networks, e);
    if (rc == RC_OK && expires && text_parse_utc(expires, &s->expires_s) != RC_OK)
        rc = error_set(e, RC_INVALID, "expires: not a time; write 2027-01-01 or 2027-01-01T12:00:00Z (UTC)");
    if (rc == RC_OK && s->rate_class && !config_class(job->config, s->rate_class))
        rc = error_set(e, RC_INVALID, "rate_class: there is no class \"%.64s\" in limits.classes", s->rate_class);
    s->models = job->words[1];
    s->networks = job->words[2];
    return rc;
}

/* An empty body is an empty object. */
static enum rc parse_body(struct http_exchange *x, cJSON **body, struct error *e)
{
    size_t n;
    const char *text = http_request_body(x, &n);
    enum rc rc = n ? json_parse(text, n, BODY_DEPTH_MAX, body, e) : json_parse("{}", 2, BODY_DEPTH_MAX, body, e);

    if (rc == RC_OK && !cJSON_IsObject(*body))
        rc = error_set(e, RC_INVALID, "the body must be a JSON object");
    return rc;
}

/* What `get` takes from the body decides whether the command runs. */
static void command(const struct admin_call *c, int status, enum rc (*get)(struct key_job *job, struct error *e),
                    void (*run)(void *arg))
{
    struct key_job *job = job_new(c);
    struct error e;

    job->status = status;
    enum rc rc = parse_body(c->x, &job->body, &e);
    if (rc == RC_OK)
        rc = get(job, &e);
    if (rc == RC_OK) {
        job_start(c, job, run);
        return;
    }
    e.code = RC_INVALID; /* whatever is wrong with a body is the caller's */
    job_free(job);
    reply_failed(c->x, &e);
}

static enum rc get_nothing(struct key_job *job, struct error *e)
{
    static const char *const known[] = {NULL};
    return only_known(job->body, known, e);
}

static enum rc get_grace(struct key_job *job, struct error *e)
{
    static const char *const known[] = {"grace_s", NULL};
    enum rc rc = only_known(job->body, known, e);
    return rc == RC_OK ? json_get_int(job->body, "grace_s", 0, KEYSTORE_GRACE_MAX_S, &job->grace_s, NULL, e) : rc;
}

void admin_create_key(const struct admin_call *c)
{
    command(c, 201, get_spec, run_create);
}

void admin_revoke_key(const struct admin_call *c)
{
    command(c, 200, get_nothing, run_revoke);
}

void admin_rotate_key(const struct admin_call *c)
{
    command(c, 200, get_grace, run_rotate);
}
