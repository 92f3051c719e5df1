/* The admin API `/admin/v1` and `/metrics`: on a unix socket, where the file's mode (0660) decides who may, and, where
 * configured, on admin.listen for keys of scope admin.
 *
 * One table (routes.c) has a row per route; dispatch and docs/ADMIN_API.md come from it. Everything on the loop thread;
 * what reads files runs on a worker. Owns its listeners; everything in the options is borrowed and outlives it. */
#ifndef SCHEDULER_ADMIN_ADMIN_H
#define SCHEDULER_ADMIN_ADMIN_H

#include <stdio.h>

#include "scheduler/auth/auth.h"
#include "scheduler/books/ledger.h"
#include "scheduler/config/reload.h"
#include "scheduler/front/front.h"

struct admin;
struct http_exchange;

struct admin_options {
    struct event_base *loop;
    const struct config *config;
    struct front *front;
    struct fleet *fleet;     /* NULL: there is none */
    struct join *join;       /* NULL: no engine can join */
    struct nightly *nightly; /* NULL: the ledger is off */
    struct ledger *ledger;
    struct audit *audit; /* NULL: none is kept */
    struct auth *auth;   /* NULL: nobody is let in on admin.listen */
    struct keystore *keystore;
    const struct log *log;
    const struct clock *clock;
    struct reload *reload;              /* POST /admin/v1/reload; NULL: there is no file to take over */
    void (*finance_changed)(void *arg); /* prices may be others now; NULL: nobody wants to know */
    void *finance_arg;
    /* Looks at what is asked for on admin.listen before we do, without a key: true, it has answered or will. NULL: nobody. */
    bool (*pages)(struct http_exchange *x, void *arg);
    void *pages_arg;
    void (*drain)(void *arg); /* POST /admin/v1/drain; may be called more than once */
    void *drain_arg;
};
/* Binds the listeners. RC_CONFLICT: another process answers on the socket. */
enum rc admin_new(struct admin **a, const struct admin_options *o, struct error *e) SPW_MUST_USE;
/* From now on these: another configuration (a reference of its own is taken), other keys. */
void admin_take(struct admin *a, const struct config *config, struct auth *auth);
/* Show the certificate of admin.listen that `config` names, read anew, and ask what it asks of operators' certificates.
 * All of it or, with *e, nothing. Reads the files (blocks for as long as that takes). */
enum rc admin_take_doors(struct admin *a, const struct config *config, struct error *e) SPW_MUST_USE;
/* Stop accepting and finish what is being answered; then done(arg), once, on the loop. */
void admin_drain(struct admin *a, void (*done)(void *arg), void *arg);
void admin_free(struct admin *a);      /* closes everything at once; NULL is fine */
int admin_port(const struct admin *a); /* of admin.listen; 0: off */

void admin_print_markdown(FILE *out); /* docs/ADMIN_API.md */

#endif
