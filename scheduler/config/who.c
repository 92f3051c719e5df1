/* Who may come in, and how much: keys, issuers and classes of limits, checked across rows and brought into the form of
 * scheduler/auth. */
#include "scheduler/config/config_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/auth/keystore.h"
#include "scheduler/auth/oidc.h"

/* ---- the form of scheduler/auth --------------------------------------------------------------------------------- */

static enum rc scopes_of(const char **words, int n, unsigned *scopes, struct error *e)
{
    *scopes = 0;
    for (int i = 0; i < n; i++) {
        unsigned scope = auth_scope_parse(words[i], strlen(words[i]));
        if (!scope)
            return error_set(e, RC_INVALID, "\"%.40s\" is not a scope; inference, usage and admin are", words[i]);
        *scopes |= scope;
    }
    return RC_OK;
}

enum rc config_key_identity(const struct config_key *k, struct identity *who, struct network *networks,
                            int64_t *expires_s, struct error *e)
{
    enum rc rc = RC_OK;

    *who = (struct identity){.tenant = k->tenant,
                             .team = k->team,
                             .project = k->project,
                             .user = k->user,
                             .key_id = k->id,
                             .rate_class = k->rate_class,
                             .scopes = k->admin ? AUTH_SCOPES_ALL : AUTH_SCOPE_INFERENCE,
                             .local_only = k->local_only,
                             .models = k->models,
                             .n_models = k->n_models,
                             .networks = networks,
                             .n_networks = k->n_networks};
    *expires_s = 0;
    if (k->n_scopes)
        rc = scopes_of(k->scopes, k->n_scopes, &who->scopes, e);
    for (int i = 0; i < k->n_networks && rc == RC_OK; i++)
        rc = network_parse(k->networks[i], &networks[i], e);
    if (rc == RC_OK && k->expires && text_parse_utc(k->expires, expires_s) != RC_OK)
        rc = error_set(e, RC_INVALID, "\"%.40s\" is not a time; write 2027-01-01 or 2027-01-01T12:00:00Z", k->expires);
    return rc;
}

/* Unknown words were found when the configuration was checked. */
static unsigned algs_of(const struct config_issuer *c)
{
    unsigned algs = 0;
    for (int i = 0; i < c->n_algs; i++) {
        int alg = jwt_alg_parse(c->algs[i]);
        algs |= alg < 0 ? 0 : 1u << alg;
    }
    return algs;
}

void config_issuer_oidc(const struct config_issuer *c, struct oidc_issuer *out)
{
    unsigned scopes = 0;
    for (int i = 0; i < c->n_default_scopes; i++)
        scopes |= auth_scope_parse(c->default_scopes[i], strlen(c->default_scopes[i]));
    *out = (struct oidc_issuer){.name = c->name,
                                .issuer = c->issuer,
                                .jwks_url = c->jwks_url,
                                .discovery_url = c->discovery_url,
                                .ca_file = c->ca_file,
                                .audiences = c->audiences,
                                .n_audiences = c->n_audiences,
                                .algs = algs_of(c),
                                .skew_s = c->skew_ms < 1000 ? -1 : c->skew_ms / 1000,
                                .tenant = c->tenant,
                                .tenant_claim = c->tenant_claim,
                                .team_claim = c->team_claim,
                                .project_claim = c->project_claim,
                                .user_claim = c->user_claim,
                                .models_claim = c->models_claim,
                                .scope_claim = c->scope_claim,
                                .scope_prefix = c->scope_prefix,
                                .default_scopes = scopes,
                                .rate_class = c->rate_class,
                                .local_only = c->local_only,
                                .refresh_ms = c->refresh_ms,
                                .stale_ms = c->stale_ms};
}

const struct config_class *config_class(const struct config *c, const char *name)
{
    for (int i = 0; name && i < c->n_classes; i++)
        if (c->classes[i].name && strcmp(c->classes[i].name, name) == 0)
            return &c->classes[i];
    return NULL;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

struct item { /* of a list, for messages */
    const struct settings *table;
    const int *lines;
    int index, line;
};

static void problem(struct config_loader *l, const struct item *at, const char *key, const char *text)
{
    char name[128];
    int row = config_row(at->table, key);
    snprintf(name, sizeof name, "%s[%d].%s", at->table->name, at->index, key);
    config_problem(l, row >= 0 && at->lines[row] ? at->lines[row] : at->line, name, "%s", text);
}

static void check_class_name(struct config_loader *l, const struct item *at, const char *key, const char *name)
{
    char text[256];
    if (!name || config_class(l->c, name))
        return;
    snprintf(text, sizeof text, "there is no class \"%.64s\" in limits.classes", name);
    if (at)
        problem(l, at, key, text);
    else
        config_problem(l, l->c->lines[config_row(config_tables[CONFIG_TABLE_MAIN], key)], key, "%s", text);
}

static void check_key(struct config_loader *l, const struct config_key *k, const struct item *at)
{
    struct network networks[KEYSTORE_MODELS_MAX];
    unsigned scopes;
    int64_t expires_s;
    struct error e;

    if (k->user && !identity_user_ok(k->user))
        problem(l, at, "user", "a user has 1 to 128 letters, digits and -_.@+|:/=");
    for (int i = 0; i < k->n_models; i++)
        if (!identity_model_ok(k->models[i]))
            problem(l, at, "models",
                    "a model's name has printable characters, no blanks or quotes, '*' at the end only");
    if (k->n_models > KEYSTORE_MODELS_MAX)
        problem(l, at, "models", "too many; up to 64 are allowed");
    for (int i = 0; i < k->n_networks && i < KEYSTORE_MODELS_MAX; i++)
        if (network_parse(k->networks[i], &networks[i], &e) != RC_OK)
            problem(l, at, "networks", e.message);
    if (k->n_networks > KEYSTORE_MODELS_MAX)
        problem(l, at, "networks", "too many; up to 64 are allowed");
    /* An empty list must not be read as "all". */
    if ((k->models && !k->n_models) || (k->networks && !k->n_networks) || (k->scopes && !k->n_scopes))
        problem(l, at,
                k->models && !k->n_models       ? "models"
                : k->networks && !k->n_networks ? "networks"
                                                : "scopes",
                "the list is empty, so the key could do nothing; leave the line out to allow all");
    if (k->scopes && scopes_of(k->scopes, k->n_scopes, &scopes, &e) != RC_OK)
        problem(l, at, "scopes", e.message);
    if (k->n_scopes && at->lines[config_row(at->table, "scope")])
        problem(l, at, "scopes", "give either `scope` or `scopes`");
    if (k->expires && text_parse_utc(k->expires, &expires_s) != RC_OK)
        problem(l, at, "expires", "not a time; write 2027-01-01 or 2027-01-01T12:00:00Z (UTC)");
    check_class_name(l, at, "rate_class", k->rate_class);
}

static void check_issuer(struct config_loader *l, const struct config_issuer *c, const struct item *at)
{
    struct oidc_issuer oidc;
    unsigned scopes;
    struct error e;
    char text[128];

    for (int i = 0; i < c->n_algs; i++) {
        snprintf(text, sizeof text, "\"%.40s\" is not an algorithm that is taken", c->algs[i]);
        if (jwt_alg_parse(c->algs[i]) < 0)
            problem(l, at, "algs", text);
    }
    if (scopes_of(c->default_scopes, c->n_default_scopes, &scopes, &e) != RC_OK)
        problem(l, at, "default_scopes", e.message);
    check_class_name(l, at, "rate_class", c->rate_class);
    if (!c->name || !c->issuer)
        return; /* told already */
    config_issuer_oidc(c, &oidc);
    if (oidc_issuer_check(&oidc, &e) != RC_OK)
        problem(l, at, "issuer", e.message);
    for (int i = 0; i < at->index; i++) {
        const struct config_issuer *other = &l->c->issuers[i];
        if (other->name && strcmp(other->name, c->name) == 0)
            problem(l, at, "name", "another issuer has this name; every issuer needs its own");
        if (other->issuer && strcmp(other->issuer, c->issuer) == 0)
            problem(l, at, "issuer", "another entry has this issuer already");
    }
}

static void check_classes(struct config_loader *l)
{
    for (int i = 0; i < l->c->n_classes; i++) {
        const struct config_class *c = &l->c->classes[i];
        struct item at = {config_tables[CONFIG_TABLE_CLASSES], c->lines, i, c->line};
        if (c->name && config_class(l->c, c->name) != c)
            problem(l, &at, "name", "another class has this name; every class needs its own");
        if (c->requests_burst && !c->requests_per_min)
            problem(l, &at, "requests_burst", "means nothing without requests_per_min");
        if (c->tokens_burst && !c->tokens_per_min)
            problem(l, &at, "tokens_burst", "means nothing without tokens_per_min");
    }
    check_class_name(l, NULL, "limits.key", l->c->class_key);
    check_class_name(l, NULL, "limits.team", l->c->class_team);
    check_class_name(l, NULL, "limits.model", l->c->class_model);
}

void config_check_who(struct config_loader *l)
{
    const struct config *c = l->c;
    for (int i = 0; i < c->n_keys; i++)
        check_key(l, &c->keys[i],
                  &(struct item){config_tables[CONFIG_TABLE_KEYS], c->keys[i].lines, i, c->keys[i].line});
    for (int i = 0; i < c->n_issuers; i++)
        check_issuer(l, &c->issuers[i],
                     &(struct item){config_tables[CONFIG_TABLE_ISSUERS], c->issuers[i].lines, i, c->issuers[i].line});
    check_classes(l);
}
