#include "scheduler/front/who.h"

#include <stdlib.h>

/* auth_new() copies keys and issuers, so that these arrays are scratch. */
enum rc who_auth_new(struct auth **a, const struct who_options *o, struct error *e)
{
    const struct config *c = o->config;
    struct auth_key *keys = spw_calloc((size_t)c->n_keys + 1, sizeof *keys);
    struct oidc_issuer *issuers = spw_calloc((size_t)c->n_issuers + 1, sizeof *issuers);
    struct network **networks = spw_calloc((size_t)c->n_keys + 1, sizeof(struct network *));
    enum rc rc = RC_OK;

    *a = NULL;
    for (int i = 0; i < c->n_keys && rc == RC_OK; i++) {
        networks[i] = spw_calloc((size_t)c->keys[i].n_networks + 1, sizeof(struct network));
        keys[i].sha256 = c->keys[i].sha256;
        rc = config_key_identity(&c->keys[i], &keys[i].who, networks[i], &keys[i].expires_s, e);
    }
    for (int i = 0; i < c->n_issuers; i++)
        config_issuer_oidc(&c->issuers[i], &issuers[i]);
    struct auth_options ao = {.off = o->off,
                              .keys = keys,
                              .n_keys = c->n_keys,
                              .keystore = o->keystore,
                              .issuers = issuers,
                              .n_issuers = c->n_issuers,
                              .loop = o->loop,
                              .fetcher = o->fetcher,
                              .clock = o->clock,
                              .log = o->log};
    if (rc == RC_OK)
        rc = auth_new(a, &ao, e);
    for (int i = 0; i < c->n_keys; i++)
        free(networks[i]);
    free(networks);
    free(issuers);
    free(keys);
    return rc;
}
