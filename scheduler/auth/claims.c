#include "scheduler/auth/claims.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SKEW_S_DEFAULT 60
#define SKEW_S_MAX     600
#define NUMERIC_MAX    253402300799.0 /* the year 9999 */
#define PATH_STEPS_MAX 6
#define MODELS_MAX     64
#define AUDIENCES_MAX  64 /* in a token */
#define CLAIM_NAME_MAX 128
#define URL_BYTES_MAX  1024

static int64_t skew_s(const struct oidc_issuer *i)
{
    return i->skew_s == 0 ? SKEW_S_DEFAULT : i->skew_s < 0 ? 0 : i->skew_s;
}

/* ---- the configuration ------------------------------------------------------------------------------------------ */

static bool is_url(const char *text)
{
    bool scheme = strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0;
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f || strchr("\"\\<>@#", *p))
            return false;
    return scheme && strlen(text) <= URL_BYTES_MAX;
}

static enum rc check_urls(const struct oidc_issuer *i, struct error *e)
{
    const char *urls[] = {i->issuer, i->jwks_url, i->discovery_url};
    for (size_t k = 0; k < sizeof urls / sizeof urls[0]; k++) {
        if (urls[k] && !is_url(urls[k]))
            return error_set(e, RC_INVALID, "\"%.80s\" is not a URL; write https://HOST/PATH", urls[k]);
        if (urls[k] && strncmp(i->issuer, "https:", 6) == 0 && strncmp(urls[k], "https:", 6) != 0)
            return error_set(e, RC_INVALID, "\"%.80s\" is not https; the keys of an https issuer come by https only",
                             urls[k]);
    }
    return RC_OK;
}

enum rc oidc_issuer_check(const struct oidc_issuer *i, struct error *e)
{
    const char *claims[] = {i->tenant_claim, i->team_claim,  i->project_claim, i->user_claim,
                            i->models_claim, i->scope_claim, i->scope_prefix};
    if (!i->name || !identity_name_ok(i->name))
        return error_set(e, RC_INVALID, "an issuer needs a name of 1 to 64 letters, digits, '-', '_', '.'");
    if (!i->issuer)
        return error_set(e, RC_INVALID, "issuer %s: its URL is missing", i->name);
    if (check_urls(i, e) != RC_OK)
        return error_prefix(e, "issuer %s", i->name);
    if (i->n_audiences < 1)
        return error_set(e, RC_INVALID,
                         "issuer %s: no audience; without one, tokens meant for other services would open this one",
                         i->name);
    if (!i->tenant == !i->tenant_claim)
        return error_set(e, RC_INVALID, "issuer %s: give either `tenant` or `tenant_claim`", i->name);
    if ((i->tenant && !identity_name_ok(i->tenant)) || (i->rate_class && !identity_name_ok(i->rate_class)))
        return error_set(e, RC_INVALID, "issuer %s: tenant and rate class are 1 to 64 letters, digits, '-', '_', '.'",
                         i->name);
    for (size_t k = 0; k < sizeof claims / sizeof claims[0]; k++)
        if (claims[k] && (!*claims[k] || strlen(claims[k]) > CLAIM_NAME_MAX))
            return error_set(e, RC_INVALID, "issuer %s: a claim's name has 1 to %d bytes", i->name, CLAIM_NAME_MAX);
    if (i->skew_s > SKEW_S_MAX)
        return error_set(e, RC_INVALID, "issuer %s: the skew is at most %d s", i->name, SKEW_S_MAX);
    if (i->default_scopes & ~AUTH_SCOPES_ALL)
        return error_set(e, RC_INVALID, "issuer %s: scopes are inference, usage and admin", i->name);
    return RC_OK;
}

/* ---- times and audience ----------------------------------------------------------------------------------------- */

/* A NumericDate. False: there and not one. *found may be NULL only when it must be there. */
static bool date_of(const cJSON *claims, const char *name, int64_t *s, bool *found)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(claims, name);
    *found = m != NULL;
    if (!m)
        return true;
    if (!cJSON_IsNumber(m) || !(m->valuedouble >= 0 && m->valuedouble <= NUMERIC_MAX))
        return false;
    *s = (int64_t)floor(m->valuedouble);
    return true;
}

static enum rc check_times(const cJSON *claims, const struct oidc_issuer *i, int64_t now_s, int64_t *until_s,
                           struct auth_refusal *r)
{
    int64_t exp = 0, nbf = 0, iat = 0, skew = skew_s(i);
    bool has_exp, has_nbf, has_iat;
    if (!date_of(claims, "exp", &exp, &has_exp) || !date_of(claims, "nbf", &nbf, &has_nbf) ||
        !date_of(claims, "iat", &iat, &has_iat))
        return auth_refuse(r, AUTH_TOKEN_INVALID, "a time in the token is malformed");
    if (!has_exp)
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token does not say when it expires");
    if (now_s >= exp + skew)
        return auth_refuse(r, AUTH_TOKEN_EXPIRED, "the token has expired");
    if ((has_nbf && now_s < nbf - skew) || (has_iat && now_s < iat - skew))
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token is not valid yet; are the clocks right?");
    *until_s = exp + skew - 1;
    return RC_OK;
}

static bool is_ours(const struct oidc_issuer *i, const cJSON *audience)
{
    for (int k = 0; cJSON_IsString(audience) && k < i->n_audiences; k++)
        if (strcmp(i->audiences[k], audience->valuestring) == 0)
            return true;
    return false;
}

static enum rc check_audience(const cJSON *claims, const struct oidc_issuer *i, struct auth_refusal *r)
{
    const cJSON *aud = cJSON_GetObjectItemCaseSensitive(claims, "aud"), *m;
    int n = 0;
    if (is_ours(i, aud))
        return RC_OK;
    if (cJSON_IsArray(aud)) {
        cJSON_ArrayForEach(m, aud)
        {
            if (++n <= AUDIENCES_MAX && is_ours(i, m))
                return RC_OK;
        }
    }
    return auth_refuse(r, AUTH_TOKEN_INVALID, "the token was made for another audience");
}

/* ---- who -------------------------------------------------------------------------------------------------------- */

static const cJSON *claim(const cJSON *claims, const char *name)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(claims, name);
    char step[CLAIM_NAME_MAX + 1];
    if (m)
        return cJSON_IsNull(m) ? NULL : m;
    m = claims;
    for (int i = 0; m && i < PATH_STEPS_MAX; i++) {
        size_t n = strcspn(name, ".");
        if (n == 0 || n >= sizeof step || !cJSON_IsObject(m))
            return NULL;
        memcpy(step, name, n);
        step[n] = '\0';
        m = cJSON_GetObjectItemCaseSensitive(m, step);
        if (!name[n])
            return m && !cJSON_IsNull(m) ? m : NULL;
        name += n + 1;
    }
    return NULL;
}

/* A claim that becomes a name of ours. name NULL: not asked for. False: *r is filled. */
static bool name_of(const cJSON *claims, const char *name, const char *what, bool needed, bool (*ok)(const char *),
                    const char **value, struct auth_refusal *r)
{
    const cJSON *m = name ? claim(claims, name) : NULL;
    if (!m && !needed)
        return true;
    if (!m)
        auth_refusal_set(r, AUTH_TOKEN_CLAIMS, "the token names no %s (claim %.64s)", what, name);
    else if (!cJSON_IsString(m) || !ok(m->valuestring))
        auth_refusal_set(r, AUTH_TOKEN_CLAIMS, "the token's %s (claim %.64s) is not a name that is allowed here", what,
                         name);
    else
        *value = m->valuestring;
    return m && *value;
}

struct words { /* over a string of words, or a list of strings */
    const cJSON *item;
    const char *at; /* rest of a string; NULL: a list */
};

static struct words words_begin(const cJSON *m)
{
    if (cJSON_IsString(m))
        return (struct words){m, m->valuestring};
    return (struct words){cJSON_IsArray(m) ? m->child : NULL, NULL};
}

/* The next word; an item that is no string is "". False: no more. */
static bool words_next(struct words *w, const char **word, size_t *n)
{
    if (!w->item)
        return false;
    if (!w->at) {
        *word = cJSON_IsString(w->item) && w->item->valuestring ? w->item->valuestring : "";
        *n = strlen(*word);
        w->item = w->item->next;
        return true;
    }
    w->at += strspn(w->at, " ");
    *word = w->at;
    *n = strcspn(w->at, " ");
    w->at += *n;
    return *n > 0;
}

static unsigned scopes_of(const cJSON *claims, const struct oidc_issuer *i)
{
    const char *prefix = i->scope_prefix ? i->scope_prefix : "spillway:", *word;
    size_t n_prefix = strlen(prefix), n;
    unsigned scopes = 0;
    bool said = false;
    struct words w = words_begin(claim(claims, i->scope_claim ? i->scope_claim : "scope"));
    while (words_next(&w, &word, &n)) {
        if (n <= n_prefix || memcmp(word, prefix, n_prefix) != 0)
            continue;
        said = true; /* a word of ours that we do not know narrows too: it must not fall back to the default */
        scopes |= auth_scope_parse(word + n_prefix, n - n_prefix);
    }
    if (said)
        return scopes;
    return i->default_scopes ? i->default_scopes : AUTH_SCOPE_INFERENCE;
}

/* Model names are copied out of the string form; text holds them. False: *r is filled. */
static bool models_of(const cJSON *claims, const struct oidc_issuer *i, char *text, size_t size, const char **models,
                      int *n_models, struct auth_refusal *r)
{
    const char *word;
    size_t n, used = 0;
    *n_models = 0;
    if (!i->models_claim)
        return true;
    struct words w = words_begin(claim(claims, i->models_claim));
    while (words_next(&w, &word, &n)) {
        if (*n_models == MODELS_MAX || n + 1 > size - used) {
            auth_refusal_set(r, AUTH_TOKEN_CLAIMS, "the token names more than %d models", MODELS_MAX);
            return false;
        }
        memcpy(text + used, word, n);
        text[used + n] = '\0';
        if (!identity_model_ok(text + used)) {
            auth_refusal_set(r, AUTH_TOKEN_CLAIMS, "the token's models (claim %.64s) are not names of models",
                             i->models_claim);
            return false;
        }
        models[(*n_models)++] = text + used;
        used += n + 1;
    }
    if (*n_models > 0) /* none at all would read as "all" */
        return true;
    auth_refusal_set(r, AUTH_TOKEN_CLAIMS, "the token allows no model (claim %.64s)", i->models_claim);
    return false;
}

static enum rc identify(const cJSON *claims, const struct oidc_issuer *i, struct identity **who, struct auth_refusal *r)
{
    char key_id[80], text[MODELS_MAX * 129];
    const char *models[MODELS_MAX];
    struct identity found = {.tenant = i->tenant,
                             .rate_class = i->rate_class,
                             .local_only = i->local_only,
                             .key_id = key_id,
                             .models = models};
    snprintf(key_id, sizeof key_id, "oidc:%s", i->name);
    if (!name_of(claims, i->tenant_claim, "tenant", i->tenant_claim != NULL, identity_name_ok, &found.tenant, r) ||
        !name_of(claims, i->team_claim, "team", false, identity_name_ok, &found.team, r) ||
        !name_of(claims, i->project_claim, "project", false, identity_name_ok, &found.project, r) ||
        !name_of(claims, i->user_claim ? i->user_claim : "sub", "user", true, identity_user_ok, &found.user, r) ||
        !models_of(claims, i, text, sizeof text, models, &found.n_models, r))
        return RC_DENIED;
    found.scopes = scopes_of(claims, i);
    if (!found.scopes)
        return auth_refuse(r, AUTH_TOKEN_CLAIMS, "the token's scopes open nothing here");
    *who = identity_new(&found);
    return RC_OK;
}

enum rc claims_check(const cJSON *claims, const struct oidc_issuer *i, int64_t now_s, struct identity **who,
                     int64_t *until_s, struct auth_refusal *r)
{
    if (who)
        *who = NULL;
    enum rc rc = check_times(claims, i, now_s, until_s, r);
    if (rc == RC_OK)
        rc = check_audience(claims, i, r);
    if (rc == RC_OK && who)
        rc = identify(claims, i, who, r);
    return rc;
}
