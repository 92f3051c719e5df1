/* Who asks: what a credential is worth once it has been checked. Immutable and counted, so that a request may keep it
 * while its key is revoked or the configuration is replaced; counting is thread-safe. */
#ifndef SCHEDULER_AUTH_IDENTITY_H
#define SCHEDULER_AUTH_IDENTITY_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/alloc.h"
#include "scheduler/auth/network.h"

enum auth_scope { /* what a credential opens; a set of bits */
                  AUTH_SCOPE_INFERENCE = 1,
                  AUTH_SCOPE_USAGE = 2, /* one's own usage, budgets, ledger rows */
                  AUTH_SCOPE_ADMIN = 4,
};
#define AUTH_SCOPES_ALL 7u
/* "inference", "usage", "admin"; 0 for any other word. */
unsigned auth_scope_parse(const char *word, size_t n);
/* "inference admin". buf >= 64 bytes. Returns buf. */
char *auth_scopes_format(unsigned scopes, char *buf, size_t size);

struct identity {
    const char *tenant;                /* never NULL */
    const char *team, *project, *user; /* NULL: none */
    const char *key_id;                /* of an API key, or "oidc:ISSUER'S NAME" */
    const char *rate_class;            /* which limits hold; NULL: the default's */
    unsigned scopes;                   /* enum auth_scope */
    bool local_only;                   /* its requests never leave the premises */
    const char *const *models;         /* may use these; a '*' at the end takes any rest */
    int n_models;                      /* 0: all */
    const struct network *networks;    /* may come from these */
    int n_networks;                    /* 0: anywhere */
    atomic_int refs;                   /* identity_ref() */
};
/* A deep copy of `like`, whose own count does not matter. One reference, the caller's. */
struct identity *identity_new(const struct identity *like);
struct identity *identity_ref(struct identity *who);
void identity_unref(struct identity *who); /* NULL is fine */

bool identity_may_use(const struct identity *who, const char *model);

/* Tenants, teams, projects and the like show up in labels, paths and columns: 1 to 64 letters, digits, '-', '_', '.'.
 * Users also have '@', '+', '|', ':', '/', '=' and up to 128. */
bool identity_name_ok(const char *text);
bool identity_user_ok(const char *text);
/* Model names and patterns: printable, no blanks or quotes, 1 to 128, '*' at the end only. */
bool identity_model_ok(const char *text);

#endif
