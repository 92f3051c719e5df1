/* Signing in and out: a key comes in by a form, a cookie goes out. Who signs in is in the audit before he is let in;
 * nobody is kept from signing out, so that is recorded meanwhile. */
#include "scheduler/ui/ui_internal.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/audit/record.h"

/* A key that is refused costs as much as so many forged signatures: five at once from an address, then one in two
 * seconds; of all addresses together ten times that. */
#define REFUSAL_COSTS 10

#define COOKIE       "spillway"
#define COOKIE_HOST  "__Host-" COOKIE /* browsers take it from this very host over TLS alone (RFC 6265bis, 4.1.3.2) */
#define COOKIE_BYTES 128

/* ---- the cookie ------------------------------------------------------------------------------------------------------ */

static bool is_tls(struct http_exchange *x)
{
    return http_exchange_tls(x) != NULL;
}

static void write_cookie(struct http_exchange *x, const char *token, char out[COOKIE_BYTES])
{
    snprintf(out, COOKIE_BYTES, "%s=%s; Path=/; HttpOnly; SameSite=Strict%s", is_tls(x) ? COOKIE_HOST : COOKIE, token,
             is_tls(x) ? "; Secure" : "");
}

/* The cookie's value of the header's "a=1; name=value; ...". */
static void read_cookie(struct http_exchange *x, char token[SESSION_TEXT_BYTES])
{
    const char *name = is_tls(x) ? COOKIE_HOST : COOKIE, *p = http_head_get(http_request_head(x), "cookie");
    const size_t n_name = strlen(name);

    token[0] = '\0';
    for (; p && *p; p += strcspn(p, ";"), p += *p == ';') {
        p += strspn(p, " ");
        const size_t n = strcspn(p, ";");
        if (n != n_name + 1 + SESSION_TEXT_BYTES - 1 || strncmp(p, name, n_name) != 0 || p[n_name] != '=')
            continue;
        memcpy(token, p + n_name + 1, SESSION_TEXT_BYTES - 1);
        token[SESSION_TEXT_BYTES - 1] = '\0';
        return;
    }
}

/* ---- whose key it is ------------------------------------------------------------------------------------------------- */

/* RC_OK: an API key that opens the dashboard, key_id is whose. Tokens of issuers are none: they live for minutes. */
static enum rc check_key(struct ui *u, struct http_exchange *x, const char *key, char key_id[KEYSTORE_ID_BYTES],
                         struct auth_refusal *r)
{
    const struct auth_credential credential = {.api_key = key, .peer = http_exchange_peer(x)};
    struct identity *who = NULL;
    struct auth_wait *wait = NULL;
    enum rc rc = auth_check(u->o.auth, &credential, &who, r, NULL, NULL, &wait);

    if (rc == RC_AGAIN)
        auth_cancel(wait);
    if (rc == RC_AGAIN || (rc == RC_OK && who->key_id && strncmp(who->key_id, "oidc:", 5) == 0))
        rc = auth_refuse(r, AUTH_TOKEN_CLAIMS, "a token of an identity provider does not sign in here; use an API key");
    if (rc == RC_OK)
        rc = auth_require(who, AUTH_SCOPE_ADMIN, r);
    if (who)
        snprintf(key_id, KEYSTORE_ID_BYTES, "%.64s", who->key_id ? who->key_id : "?");
    identity_unref(who);
    return rc;
}

void ui_ask_who(struct ui *u, struct http_exchange *x, struct asker *who)
{
    const struct session_limits limits = {u->config->ui.idle_ms, u->config->ui.session_ms};
    char key_id[KEYSTORE_ID_BYTES] = "";
    struct auth_refusal r;
    struct session s;

    *who = (struct asker){.token = ""};
    read_cookie(x, who->token);
    if (!sessions_form(u->sessions, who->token, who->form)) {
        who->token[0] = '\0';
        return;
    }
    if (!sessions_find(u->sessions, who->token, &limits, &s))
        return;
    if (check_key(u, x, s.key, key_id, &r) == RC_OK && strcmp(key_id, s.key_id) == 0)
        memcpy(who->key_id, key_id, sizeof key_id);
    else
        sessions_close(u->sessions, who->token);
    OPENSSL_cleanse(&s, sizeof s);
}

/* ---- the form --------------------------------------------------------------------------------------------------------- */

void ui_show_login(struct ui *u, struct http_exchange *x, const struct asker *who, int status, const char *why,
                   int retry_after_s)
{
    char cookie[COOKIE_BYTES], token[SESSION_TEXT_BYTES], form[SESSION_TEXT_BYTES], seconds[16];
    struct http_header extra[2];
    struct strbuf page;
    int n = 0;

    if (who->key_id[0] && status == 200) {
        ui_redirect(x, "/ui", NULL);
        return;
    }
    memcpy(token, who->token, sizeof token);
    if (!token[0]) {
        sessions_token(u->sessions, token);
        write_cookie(x, token, cookie);
        extra[n++] = (struct http_header){"Set-Cookie", cookie};
    }
    SPW_ASSERT(sessions_form(u->sessions, token, form));
    if (retry_after_s) {
        snprintf(seconds, sizeof seconds, "%d", retry_after_s);
        extra[n++] = (struct http_header){"Retry-After", seconds};
    }
    strbuf_init(&page, PAGE_BYTES_MAX);
    const enum rc rc = sheet_write_login(&page, form, why);
    ui_reply_page(x, status, rc, &page, extra, n);
}

/* ---- in ---------------------------------------------------------------------------------------------------------------- */

struct signing { /* waits for its record */
    struct ui *ui;
    struct http_exchange *x; /* NULL: the browser has left, and nobody is signed in */
    struct asker who;
    char key[AUTH_KEY_BYTES_MAX + 1], key_id[KEYSTORE_ID_BYTES];
};

static void open_session(struct ui *u, struct http_exchange *x, const struct asker *who, const char *key,
                         const char *key_id)
{
    char token[SESSION_TEXT_BYTES], cookie[COOKIE_BYTES];

    sessions_close(u->sessions, who->token); /* a browser has one session, and never the token from before it */
    sessions_open(u->sessions, key, key_id, token);
    write_cookie(x, token, cookie);
    log_info(u->o.log, "admin", "signed in at the dashboard", LOG_S("key", key_id),
             LOG_S("peer", http_exchange_peer(x)));
    ui_redirect(x, "/ui", cookie);
    OPENSSL_cleanse(token, sizeof token);
    OPENSSL_cleanse(cookie, sizeof cookie);
}

static void end_signing(struct signing *s)
{
    OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

static const char not_recorded[] = "Signing in cannot be recorded at the moment, so nobody is let in. Try again.";

static void recorded_cb(enum rc rc, void *arg)
{
    struct signing *s = arg;

    if (s->x)
        http_exchange_set(s->x, NULL, NULL);
    if (s->x && (rc == RC_OK || audit_on_failure(s->ui->o.audit) == AUDIT_CONTINUE))
        open_session(s->ui, s->x, &s->who, s->key, s->key_id);
    else if (s->x)
        ui_show_login(s->ui, s->x, &s->who, 503, not_recorded, 1);
    end_signing(s);
}

static void abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct signing *)state)->x = NULL;
}

static enum rc append(struct ui *u, struct http_exchange *x, const char *path, const char *key_id, audit_done_cb *done,
                      void *arg)
{
    const struct record_admin r = {
        .at = clock_wall(u->o.clock), .method = "POST", .path = path, .by = key_id, .peer = http_exchange_peer(x)};
    enum rc rc = record_admin(&u->record, &r);

    return rc == RC_OK ? audit_append(u->audit, u->record.data, u->record.len, done, arg) : rc;
}

static void record_and_open(struct ui *u, struct http_exchange *x, const struct asker *who, const char *key,
                            const char *key_id)
{
    const bool must = u->audit && audit_on_failure(u->o.audit) == AUDIT_REFUSE;
    struct signing *s;

    if (!u->audit) {
        open_session(u, x, who, key, key_id);
        return;
    }
    s = spw_calloc(1, sizeof *s);
    *s = (struct signing){.ui = u, .x = x, .who = *who};
    snprintf(s->key, sizeof s->key, "%s", key);
    snprintf(s->key_id, sizeof s->key_id, "%s", key_id);
    const enum rc rc = must && audit_is_failing(u->o.audit) ? RC_IO : append(u, x, "/ui/login", key_id, recorded_cb, s);
    if (rc == RC_OK) {
        http_exchange_set(x, s, abort_cb);
        return;
    }
    end_signing(s);
    if (must)
        ui_show_login(u, x, who, 503, not_recorded, 1);
    else
        open_session(u, x, who, key, key_id);
}

static void refuse(struct ui *u, struct http_exchange *x, const struct asker *who, const struct auth_refusal *why,
                   const char *key_id)
{
    const char *id = key_id[0] ? key_id : NULL, *peer = http_exchange_peer(x);
    const struct record_refused r = {
        .at = clock_wall(u->o.clock), .door = "ui", .code = auth_code_name(why->code), .key = id, .peer = peer};

    for (int i = 0; i < REFUSAL_COSTS; i++)
        forgery_found(u->refusals, NULL, peer);
    log_warn(u->o.log, "admin", "refused", LOG_S("reason", auth_code_name(why->code)), LOG_S("peer", peer),
             LOG_S("key", id));
    if (u->audit && audit_login_allowed(u->o.audit) &&
        (record_refused(&u->record, &r) != RC_OK ||
         audit_append(u->audit, u->record.data, u->record.len, NULL, NULL) != RC_OK))
        log_warn(u->o.log, "audit", "a refused login is not recorded", LOG_S("peer", peer));
    ui_show_login(u, x, who, why->status, why->message, why->retry_after_s);
}

void ui_sign_in(struct ui *u, struct http_exchange *x, const struct asker *who)
{
    const char *key = http_request_form(x, "key");
    const int wait_s = forgery_wait_s(u->refusals, http_exchange_peer(x));
    char key_id[KEYSTORE_ID_BYTES] = "";
    struct auth_refusal r;

    if (wait_s > 0)
        ui_show_login(u, x, who, 429, "Too many keys from your address were refused. Wait a moment, then try again.",
                      wait_s);
    else if (!key || !*key)
        ui_show_login(u, x, who, 400, "The key is missing.", 0);
    else if (check_key(u, x, key, key_id, &r) == RC_OK)
        record_and_open(u, x, who, key, key_id);
    else
        refuse(u, x, who, &r, key_id);
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

void ui_sign_out(struct ui *u, struct http_exchange *x, const struct asker *who)
{
    char token[SESSION_TEXT_BYTES], cookie[COOKIE_BYTES];

    if (who->key_id[0]) {
        sessions_close(u->sessions, who->token);
        log_info(u->o.log, "admin", "signed out of the dashboard", LOG_S("key", who->key_id),
                 LOG_S("peer", http_exchange_peer(x)));
        if (u->audit && append(u, x, "/ui/logout", who->key_id, NULL, NULL) != RC_OK)
            log_warn(u->o.log, "audit", "an end of a session is not recorded", LOG_S("key", who->key_id));
    }
    sessions_token(u->sessions, token);
    write_cookie(x, token, cookie);
    ui_redirect(x, "/ui/login", cookie);
}
