/* Provider `static`: machines that are there whether we like it or not. Nothing to launch, nothing to end; the address
 * comes from the configuration. Power (Redfish, Wake-on-LAN) will hang here. */
#include <stdlib.h>

#include "base/alloc.h"
#include "providers/provider.h"

static enum rc static_open(struct provider **p, const struct provider_env *env, struct error *e)
{
    (void)env;
    (void)e;
    *p = spw_calloc(1, sizeof(**p));
    (*p)->ops = &provider_static;
    return RC_OK;
}

static void static_close(struct provider *p)
{
    free(p);
}

const struct provider_ops provider_static = {
    .name = "static",
    .open = static_open,
    .close = static_close,
};
