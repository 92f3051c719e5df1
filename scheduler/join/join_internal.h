/* Shared by join.c (who is here), join_http.c (what engines ask). */
#ifndef SCHEDULER_JOIN_JOIN_INTERNAL_H
#define SCHEDULER_JOIN_JOIN_INTERNAL_H

#include "base/http_server.h"
#include "base/json_write.h"
#include "base/worker.h"
#include "scheduler/join/join.h"

#define JOIN_AREA        "join"
#define JOIN_MEMBERS_MAX 128 /* twice the places of the node table: those that are lost stay for a while */
#define JOIN_WRITES_MAX  64  /* of the book, at once */
#define JOIN_LONGEST_S   (INT64_C(31536000) + 2 * CERT_BACKDATE_S) /* the longest life that join.cert_life can give */

struct member {                                      /* one that has joined since our start */
    char name[TOKEN_NAME_MAX], pool[TOKEN_NAME_MAX]; /* pool: it came by a pool's token; "": not */
    char address[300], version[64];
    bool taken;    /* false: this place is free */
    bool ours;     /* no hook has claimed it */
    bool noticed;  /* of its end, in this life: it gets nothing new */
    bool ending;   /* noticed, and not only of a risk */
    bool revoked;  /* since it came */
    char life[17]; /* of its hello */
    enum join_state state;
    struct mono heard; /* moved on by what our loop stood still since */
    int64_t until_s;
    struct node_beat beat;
    enum join_order order;
    int64_t order_number;
    struct event *end; /* noticed: what still runs shortly before its end is moved; owned */
    struct join *join;
};

struct join {
    struct join_options o;
    struct config *config; /* a reference */
    struct join_hooks hooks;
    struct ca *ca;
    struct book *book;
    struct worker *writer;
    struct tls_door *door;
    struct http_server *server;
    struct event *timer;
    struct mono ticked; /* when it last came; 0: not yet */
    char *url;
    struct member members[JOIN_MEMBERS_MAX];
    struct join_stats stats;
};

int64_t join_now_s(const struct join *j);
struct member *join_find(struct join *j, const char *name);
/* May one of this name, or (pool) one that is named by us, join? */
enum rc join_may(struct join *j, enum token_kind kind, const char *name, struct error *e) SPW_MUST_USE;
/* It is here now. */
enum rc join_enter(struct join *j, const char *name, const char *pool, const char *url, const struct node_hello *h,
                   int64_t until_s, struct error *e) SPW_MUST_USE;
void join_heard(struct join *j, struct member *m, const struct node_beat *b);
void join_noticed(struct join *j, struct member *m, const struct node_notice *n);
void join_node_key(const struct join *j, const char *name, char out[65]);
const char *join_order_name(enum join_order o);

/* join_http.c */
void join_on_request(struct http_exchange *x, void *join);

#endif
