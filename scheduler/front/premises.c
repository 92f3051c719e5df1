#include "scheduler/front/premises.h"

#include <string.h>
#include <strings.h>

/* A label that is not understood must not mean "no label". */
static enum rc read_header(const struct http_head *head, bool *bound, struct error *e)
{
    *bound = false;
    for (int i = 0; i < head->n_headers; i++) {
        const struct http_header *h = &head->headers[i];
        if (strcasecmp(h->name, PREMISES_HEADER) != 0)
            continue;
        bool yes = strcasecmp(h->value, "true") == 0;
        if (!yes && strcasecmp(h->value, "false") != 0)
            return error_set(e, RC_INVALID, PREMISES_HEADER ": \"%.40s\" is neither true nor false", h->value);
        *bound = *bound || yes;
    }
    return RC_OK;
}

static bool tenant_is_bound(const struct config *c, const char *tenant)
{
    for (int i = 0; i < c->n_local_only_tenants; i++) {
        if (strcmp(c->local_only_tenants[i], tenant) == 0)
            return true;
    }
    return false;
}

enum rc premises_bind(const struct config *c, const struct http_head *head, struct identity **who, struct error *e)
{
    bool asked;
    enum rc rc = read_header(head, &asked, e);
    if (rc != RC_OK || (*who)->local_only || (!asked && !tenant_is_bound(c, (*who)->tenant)))
        return rc;
    struct identity *bound = identity_new(*who);
    bound->local_only = true; /* nobody else has it yet */
    identity_unref(*who);
    *who = bound;
    return RC_OK;
}
