/* The one visible array of providers. */
#include "providers/provider.h"

#include <string.h>

const struct provider_ops *const provider_list[] = {&provider_static, &provider_process, NULL};

const struct provider_ops *provider_find(const char *name)
{
    for (int i = 0; provider_list[i]; i++) {
        if (strcmp(provider_list[i]->name, name) == 0)
            return provider_list[i];
    }
    return NULL;
}

const char *provider_instance_state_name(enum provider_instance_state s)
{
    switch (s) {
    case INSTANCE_STARTING: return "starting";
    case INSTANCE_RUNNING: return "running";
    case INSTANCE_BACKOFF: return "backoff";
    case INSTANCE_STOPPING: return "stopping";
    case INSTANCE_GONE: return "gone";
    }
    return "unknown";
}
