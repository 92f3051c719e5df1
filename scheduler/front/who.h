/* The configuration's keys and issuers, and the store's keys, as one auth.h. */
#ifndef SCHEDULER_FRONT_WHO_H
#define SCHEDULER_FRONT_WHO_H

#include "scheduler/auth/auth.h"
#include "scheduler/config/config.h"

struct who_options { /* all borrowed; the fetcher and the loop are for issuers alone */
    const struct config *config;
    bool off; /* everybody is let in; not taken from config, because the admin API's door stays */
    struct keystore *keystore;
    struct event_base *loop;
    struct fetcher *fetcher;
    const struct clock *clock;
    const struct log *log;
};
enum rc who_auth_new(struct auth **a, const struct who_options *o, struct error *e) SPW_MUST_USE;

#endif
