/* Talks to a running scheduler's admin API and waits for the answer: the command line has nothing else to do, so a
 * private loop runs until the call is over. */
#include "scheduler/cli/cli_internal.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/http_client.h"
#include "base/json.h"
#include "base/text.h"
#include "base/tls.h"
#include "base/url.h"
#include "scheduler/config/config_internal.h"

#define ANSWER_MAX ((size_t)32 << 20)
#define ANSWER_MS  30000

struct cli_client {
    struct event_base *loop;
    struct http_client *http;
    SSL_CTX *tls;
    char *token;   /* NULL on a socket */
    char *address; /* for messages */
    /* the call that runs */
    int status;
    struct strbuf body;
    bool over;
    enum rc rc;
    struct error error;
};

/* --- where the daemon is ------------------------------------------------------------------------------------ */

static enum rc open_url(struct cli_client *c, const struct cli_target *t, struct error *e)
{
    struct http_client_options o = {.head_ms = ANSWER_MS, .idle_body_ms = ANSWER_MS};
    struct url u;
    struct error why;

    if (!t->key_file)
        return error_set(e, RC_INVALID, "--url needs --key-file: a file that holds an admin key");
    if (url_parse(&u, t->url, &why) != RC_OK)
        return error_set(e, RC_INVALID, "--url: %s", why.message);
    if (!u.tls && !url_is_loopback(t->url + strlen("http://")))
        return error_set(e, RC_INVALID, "--url: \"%.80s\" would send the key in the clear; use https", t->url);
    enum rc rc = file_read_secret(&c->token, t->key_file, e);
    if (rc == RC_OK && u.tls)
        rc = tls_client_new(&c->tls, &(struct tls_client_files){.ca = t->ca_file}, e);
    o.tls = c->tls;
    if (rc == RC_OK)
        rc = http_client_new(&c->http, c->loop, u.host, u.port, &o, e);
    c->address = spw_strdup(t->url);
    return rc;
}

static enum rc open_socket(struct cli_client *c, const char *path, struct error *e)
{
    struct http_client_options o = {.head_ms = ANSWER_MS, .idle_body_ms = ANSWER_MS};
    char *host = spw_asprintf("unix:%s", path);
    enum rc rc = http_client_new(&c->http, c->loop, host, 0, &o, e);

    free(host);
    c->address = spw_strdup(path);
    return rc;
}

enum rc cli_client_open(struct cli_client **out, const char *verb, const struct cli_target *t, struct error *e)
{
    struct cli_client *c = spw_calloc(1, sizeof *c);
    enum rc rc;

    *out = NULL;
    strbuf_init(&c->body, ANSWER_MAX);
    c->loop = event_base_new();
    SPW_ASSERT(c->loop);
    if (t->url) {
        rc = open_url(c, t, e);
    } else if (t->socket) {
        rc = open_socket(c, t->socket, e);
    } else {
        struct config *config = cli_load_config(verb, t->config);
        rc = config ? open_socket(c, config->admin_socket, e)
                    : error_set(e, RC_INVALID, "without it the admin socket is not known; give it with --socket");
        config_free(config);
    }
    if (rc != RC_OK) {
        cli_client_close(c);
        return rc;
    }
    *out = c;
    return RC_OK;
}

void cli_client_close(struct cli_client *c)
{
    if (!c)
        return;
    http_client_free(c->http);
    SSL_CTX_free(c->tls);
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    free(c->address);
    if (c->body.data) /* answers may hold a new key */
        explicit_bzero(c->body.data, c->body.len);
    strbuf_fini(&c->body);
    event_base_free(c->loop);
    free(c);
}

/* --- one call ----------------------------------------------------------------------------------------------- */

static void on_head(struct http_call *call, const struct http_head *head, void *arg)
{
    (void)call;
    ((struct cli_client *)arg)->status = head->status;
}

static void on_body(struct http_call *call, const char *data, size_t n, void *arg)
{
    struct cli_client *c = arg;

    (void)call;
    if (c->rc == RC_OK && strbuf_append(&c->body, data, n) != RC_OK)
        c->rc = error_set(&c->error, RC_FULL, "%s: the answer is larger than %zu bytes", c->address, ANSWER_MAX);
}

static void on_end(struct http_call *call, void *arg)
{
    struct cli_client *c = arg;

    (void)call;
    c->over = true;
    event_base_loopbreak(c->loop);
}

static void on_fail(struct http_call *call, enum http_phase phase, const struct error *e, void *arg)
{
    struct cli_client *c = arg;

    (void)call;
    c->over = true;
    if (phase == HTTP_PHASE_CONNECT)
        c->rc = error_set(&c->error, RC_IO, "%s: no scheduler can be reached there: %s", c->address, e->message);
    else /* it may have been done: not RC_IO, which says that nobody was asked */
        c->rc = error_set(&c->error, e->code == RC_IO ? RC_INTERNAL : e->code, "%s: %s", c->address, e->message);
    event_base_loopbreak(c->loop);
}

/* The daemon's message out of its error object. */
static enum rc refused(const struct cli_client *c, const cJSON *root, struct error *e)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "error");
    const cJSON *message = cJSON_GetObjectItemCaseSensitive(object, "message");
    enum rc rc = c->status == 404                       ? RC_NOT_FOUND
                 : c->status == 401 || c->status == 403 ? RC_DENIED
                 : c->status == 400                     ? RC_INVALID
                 : c->status == 409                     ? RC_CONFLICT
                 : c->status == 503                     ? RC_AGAIN
                                                        : RC_INTERNAL;

    if (cJSON_IsString(message))
        return error_set(e, rc, "%.480s", message->valuestring);
    return error_set(e, rc, "%s answered with status %d", c->address, c->status);
}

static enum rc run_call(struct cli_client *c, const char *method, const char *path, const char *body, cJSON **root,
                        struct error *e)
{
    static const struct http_call_handlers handlers = {
        .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};
    char authorization[600];
    struct http_header headers[] = {{"Content-Type", "application/json"}, {"Authorization", authorization}};
    struct http_request r = {.method = method,
                             .target = path,
                             .headers = headers,
                             .n_headers = c->token ? 2 : 1,
                             .body = body,
                             .body_len = strlen(body)};
    struct http_call *call;
    cJSON *tree = NULL;

    snprintf(authorization, sizeof authorization, "Bearer %.512s", c->token ? c->token : "");
    strbuf_clear(&c->body);
    c->over = false;
    c->rc = http_call_start(c->http, &r, &handlers, c, &call, &c->error);
    explicit_bzero(authorization, sizeof authorization);
    while (c->rc == RC_OK && !c->over && event_base_loop(c->loop, EVLOOP_ONCE) == 0) {
    }
    if (c->rc != RC_OK)
        return error_set(e, c->error.code, "%s", c->error.message);
    enum rc rc = json_parse(c->body.data ? c->body.data : "", c->body.len, JSON_DEPTH_MAX, &tree, e);
    if (c->status < 200 || c->status > 299)
        rc = refused(c, tree, e);
    if (rc == RC_OK && root)
        *root = tree;
    else
        cJSON_Delete(tree);
    return rc;
}

cJSON *cli_client_answer(const struct cli_client *c)
{
    cJSON *tree = NULL;

    return c->body.len && json_parse(c->body.data, c->body.len, JSON_DEPTH_MAX, &tree, NULL) == RC_OK ? tree : NULL;
}

enum rc cli_client_call(struct cli_client *c, const char *method, const char *path, cJSON **root, struct error *e)
{
    return run_call(c, method, path, "", root, e);
}

enum rc cli_client_post(struct cli_client *c, const char *path, const char *body, cJSON **root, struct error *e)
{
    return run_call(c, "POST", path, body, root, e);
}

bool cli_is_request_id(const char *text)
{
    return text_is_word(text, "_-", 64);
}

int cli_show(const char *verb, const struct cli_target *t, const char *method, const char *path,
             void (*print)(const cJSON *answer))
{
    struct cli_client *c;
    cJSON *root = NULL;
    struct error e;

    if (cli_client_open(&c, verb, t, &e) != RC_OK)
        return cli_fail(verb, &e);
    enum rc rc = cli_client_call(c, method, path, &root, &e);
    cli_client_close(c);
    if (rc != RC_OK)
        return cli_fail(verb, &e);
    print(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
