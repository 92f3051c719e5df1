/* What the files of the EC2 provider share: ec2.c (opens, closes, the table, check), ec2_launch.c (launch and end of
 * one machine), ec2_watch.c (what is there: polls, list, adoption), ec2_offers.c (offers, prices, what is cold).
 *
 * A machine is one launch() or adopt(), and follows these steps; each is one call of the API, whose answer leads on:
 *
 *   launch() --> FIND --> TEMPLATE --> TRY --> WATCH ------------------> gone
 *                 |  \       |       ^   |       |                        ^
 *   adopt() ------+   +------+       +---+       +------> END ------------+
 *     by token, by id (WATCH)     next market,      terminate()
 *                                 next offer
 *
 * FIND looks for an instance with our tag of the token: for an adopted one, after an outcome that is not known, and
 * in the first quarter of an hour of a process, when the token may be one of the process before it. Client tokens
 * alone do not do: an attempt that found no capacity is forgotten by EC2, and would be done again. */
#ifndef PROVIDERS_EC2_INTERNAL_H
#define PROVIDERS_EC2_INTERNAL_H

#include "providers/catalogue.h"
#include "providers/ec2_requests.h"

#define EC2_ATTEMPTS_MAX 64

enum ec2_step { STEP_FIND, STEP_TEMPLATE, STEP_TRY, STEP_WATCH, STEP_END };

struct ec2_template {
    struct ec2_template *next;
    struct ec2_template_text text;
    bool made; /* as far as we know */
};

/* One call: some offers of one market, with a body and a token that never change. */
struct ec2_attempt {
    struct aws_form form; /* owned */
    int first, n;         /* of the machine's offers */
};

struct ec2_waiter { /* a terminate() that has not been answered */
    struct ec2_waiter *next;
    provider_done_cb *cb;
    void *arg;
};

struct ec2_machine {
    struct ec2_machine *next;
    struct ec2 *p;
    char *name, *token, *pool; /* owned; token "": adopted by hand */
    char *id, *offer;          /* owned; NULL: not known yet */
    char *host;                /* owned; NULL: none yet */
    char **offers;             /* owned */
    int n_offers, port;
    bool public_address;
    struct pusd *on_demand; /* owned; by offer: what it costs on demand */
    enum provider_instance_state state;
    enum provider_failure failure; /* of the tries so far */
    char reason[256];
    int64_t launched_s, ended_s, price_at_s;
    struct pusd price;

    enum ec2_step step;
    struct ec2_template *template;
    struct ec2_attempt *attempts; /* owned */
    int n_attempts, attempt;
    struct mono find_until; /* what is not found by then is not there */
    enum provider_failure if_not_found;
    struct aws_call *call;      /* under way; NULL: none */
    struct event *timer;        /* owned: the step begins */
    struct ec2_waiter *waiters; /* owned */
    bool told;                  /* on_change has said its id, with what it is and since when */
    bool ended;                 /* EC2 has taken our TerminateInstances: the next poll says since when it is over */
    bool ending, tagged;        /* tagged: an adopted one was given our tags */
    int template_tries;

    struct mono known; /* since when its id is known */
    int round, missed; /* the last poll that saw it; polls since then that did not */
};

struct ec2_cold { /* an offer, or a whole quota, to be left alone */
    struct ec2_cold *next;
    char *key; /* owned: an offer's id, or "FAMILY/MARKET" */
    bool quota;
    struct mono until;
};

struct ec2_spot_price { /* the newest */
    struct ec2_spot_price *next;
    char *type, *zone; /* owned */
    struct pusd hour;
    int64_t at_s;
};

struct ec2_price_row { /* of the history */
    struct ec2_spot_price *of;
    struct pusd hour;
    int64_t at_s;
};

struct ec2_question; /* ec2_offers.c, ec2_watch.c, ec2.c: a call with someone who waits for it */

struct ec2 {
    struct provider base;
    struct provider_env env;
    struct fetcher *fetcher;
    struct aws_keyring *keys;
    struct aws_client *client;
    struct aws_client *quotas; /* of the service quotas API; NULL: made when first asked */
    char *owner, *region;
    char *endpoint, *ca_file;
    int64_t call_ms, poll_ms, prices_ms, cold_ms, quota_ms;
    int per_s;
    struct mono opened;
    struct price_table listed; /* owned; empty without a price list */

    struct ec2_machine *machines;
    struct ec2_template *templates;
    struct ec2_cold *colds;
    struct ec2_spot_price *prices;
    int n_prices;
    bool prices_full;
    char *price_types;     /* owned: those that prices are asked for, with commas */
    struct mono prices_at; /* when they were asked last; 0: never */
    struct aws_call *price_call;
    int price_pages;            /* asked for in this round */
    struct ec2_price_row *rows; /* owned; what they said */
    int n_rows, rows_cap;
    int64_t history_s;           /* from then on all prices are told (Unix time, like those that follow) */
    int64_t round_s, round_at_s; /* this round: the prices since then; when it was asked for */
    int64_t next_round_s;
    struct event *price_timer; /* owned */

    struct event *poll_timer; /* owned */
    struct aws_call *poll_call;
    int round, pages;
    struct ec2_question *questions;
};

/* A call on behalf of somebody; answered or dropped with the provider. */
struct ec2_question {
    struct ec2_question *prev, *next;
    struct ec2 *p;
    struct aws_call *call;
    struct event *timer; /* owned; NULL: none */
    int step, pages;
    provider_instance_cb *each_instance;
    provider_offer_cb *each_offer;
    provider_check_cb *each_check;
    provider_done_cb *done;
    void *arg;
    char *text; /* owned: an id, settings that were copied */
    void *more; /* owned by who made it */
    void (*free_more)(void *more);
};
struct ec2_question *ec2_ask(struct ec2 *p, provider_done_cb *done, void *arg);
void ec2_question_free(struct ec2_question *q);
void ec2_question_answer(struct ec2_question *q, enum provider_failure failure, const char *text); /* frees it */

struct ec2 *ec2_self(struct provider *p);
struct aws_call *ec2_call(struct ec2 *p, struct aws_form *f, aws_call_cb *cb, void *arg); /* frees f's text */
struct mono ec2_after(const struct ec2 *p, int64_t ms);
bool ec2_is_past(const struct ec2 *p, struct mono t);

/* ec2_launch.c */
enum rc ec2_launch(struct provider *base, const struct provider_spec *s, struct error *e);
enum rc ec2_terminate(struct provider *base, const char *name, int64_t grace_ms, provider_done_cb *cb, void *arg);
enum rc ec2_terminate_id(struct provider *base, const char *id, provider_done_cb *cb, void *arg);
struct ec2_machine *ec2_machine_new(struct ec2 *p, const struct provider_spec *s);
void ec2_machine_free(struct ec2_machine *m);
struct ec2_machine *ec2_machine_find(struct ec2 *p, const char *name);
void ec2_machine_begin(struct ec2_machine *m, enum ec2_step step, int64_t ms); /* after so long */
/* Its id is known: from here on it is watched. */
void ec2_machine_known(struct ec2_machine *m, const char *id);
void ec2_machine_enter(struct ec2_machine *m, enum provider_instance_state state); /* tells on_change */
void ec2_machine_gone(struct ec2_machine *m, enum provider_failure failure, const char *format, ...) SPW_PRINTF(3, 4);
void ec2_describe_machine(const struct ec2_machine *m, struct provider_instance *i);

/* ec2_watch.c */
void ec2_list(struct provider *base, provider_instance_cb *each, provider_done_cb *done, void *arg);
enum rc ec2_adopt(struct provider *base, const struct provider_spec *s, const struct provider_instance *known,
                  struct error *e);
void ec2_forget(struct provider *base, const char *name);
void ec2_find_machine(struct ec2_machine *m); /* STEP_FIND */
void ec2_poll_soon(struct ec2 *p);
void ec2_on_poll(evutil_socket_t fd, short what, void *arg);

/* ec2_offers.c */
void ec2_offers(struct provider *base, const struct provider_settings *pool, provider_offer_cb *each,
                provider_done_cb *done, void *arg);
void ec2_on_prices_due(evutil_socket_t fd, short what, void *arg);
/* What an offer costs now; {0}: not known. on_demand: as the machine's pool says. at_s (may be NULL): since when. */
struct pusd ec2_price_of(const struct ec2 *p, const struct ec2_offer *o, struct pusd on_demand, int64_t *at_s);
/* What a type costs on demand: as the pool says, else as the price list does; {0}: not known. */
struct pusd ec2_listed_price(const struct ec2 *p, const struct provider_settings *pool, const char *type,
                             size_t type_n);
void ec2_mark_cold(struct ec2 *p, const char *offer);
void ec2_mark_quota(struct ec2 *p, const char *offer);
/* 0: it can be had as far as we know; else for how many ms it is to be left alone, and whether that is a quota. */
int64_t ec2_cold_ms(struct ec2 *p, const char *offer, bool *quota);
void ec2_want_prices(struct ec2 *p, const char *types);
/* From at_s on all prices are to be told: the next round does so. */
void ec2_want_history(struct ec2 *p, int64_t at_s);

#endif
