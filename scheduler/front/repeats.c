/* See repeats.h. Entries that are answered stand in `answered`, in the order of their answers, which is the order in
 * which they expire; those of them that keep an answer stand in `kept`, too, in the same order. */
#include "scheduler/front/repeats.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_TEXTS_MAX ((size_t)16 << 10)

enum entry_state { ENTRY_RUNNING, ENTRY_ANSWERED }; /* ANSWERED with an answer is the drawing's KEPT */

TAILQ_HEAD(wait_list, repeat_wait);
TAILQ_HEAD(entry_list, repeat_entry);

struct repeat_entry {
    TAILQ_ENTRY(repeat_entry) answered, kept;
    struct hash name, what; /* name: of tenant and key */
    enum entry_state state;
    bool was_answered; /* it is computed again */
    int number;        /* computed again so often, with a run under way */
    struct mono until; /* ANSWERED */
    struct repeat_answer *answer;
    struct repeat_ticket *ticket; /* RUNNING */
    struct wait_list waiting;
    int n_waiting;
    bool orphaned; /* its own client is gone: it runs for those who wait */
};

struct repeat_ticket {
    struct repeat_entry *entry; /* NULL: ended */
    struct repeats *table;
    struct repeat_owner owner;
    int number;
    size_t bytes; /* of the answer so far */
    struct mail mail;
    bool posted; /* under the lock: the mail is on its way, and frees the ticket if it has ended */
};

struct repeats {
    struct repeats_options o;
    pthread_mutex_t lock; /* guards everything below, and all entries */
    struct hash_table *by_name;
    struct entry_list answered, kept;
    struct repeats_stats stats;
};

/* ---- answers ---------------------------------------------------------------------------------------------------- */

struct repeat_answer *repeat_answer_new(int status, const struct http_header *headers, int n)
{
    struct repeat_answer *a = spw_calloc(1, sizeof *a);
    atomic_init(&a->refs, 1);
    a->status = status;
    a->arena = arena_new(HEADER_TEXTS_MAX);
    strbuf_init(&a->body, REPEAT_ANSWER_MAX);
    for (int i = 0; i < n && i < REPEAT_HEADERS_MAX; i++) {
        struct http_header h = {arena_strndup(a->arena, headers[i].name, strlen(headers[i].name)),
                                arena_strndup(a->arena, headers[i].value, strlen(headers[i].value))};
        if (h.name && h.value)
            a->headers[a->n_headers++] = h;
    }
    return a;
}

static struct repeat_answer *answer_ref(struct repeat_answer *a)
{
    if (a)
        atomic_fetch_add(&a->refs, 1);
    return a;
}

void repeat_answer_unref(struct repeat_answer *a)
{
    if (!a || atomic_fetch_sub(&a->refs, 1) > 1)
        return;
    arena_free(a->arena);
    strbuf_fini(&a->body);
    free(a);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

struct repeats *repeats_new(const struct repeats_options *o)
{
    struct repeats *t = spw_calloc(1, sizeof *t);
    struct error e;
    t->o = *o;
    pthread_mutex_init(&t->lock, NULL);
    SPW_ASSERT(hash_table_new(&t->by_name, &e) == RC_OK); /* random bytes are there since the system's start */
    TAILQ_INIT(&t->answered);
    TAILQ_INIT(&t->kept);
    return t;
}

static void drop_answer(struct repeats *t, struct repeat_entry *x)
{
    if (!x->answer)
        return;
    TAILQ_REMOVE(&t->kept, x, kept);
    t->stats.bytes -= (int64_t)x->answer->body.len;
    repeat_answer_unref(x->answer);
    x->answer = NULL;
}

/* It is in no list any more. */
static void erase(struct repeats *t, struct repeat_entry *x)
{
    SPW_ASSERT(x->n_waiting == 0);
    hash_table_remove(t->by_name, &x->name);
    t->stats.keys--;
    free(x);
}

static void forget_answered(struct repeats *t, struct repeat_entry *x)
{
    TAILQ_REMOVE(&t->answered, x, answered);
    drop_answer(t, x);
    erase(t, x);
}

void repeats_free(struct repeats *t)
{
    if (!t)
        return;
    struct repeat_entry *x, *next;
    for (x = TAILQ_FIRST(&t->answered); x; x = next) {
        next = TAILQ_NEXT(x, answered);
        forget_answered(t, x);
    }
    SPW_ASSERT(t->stats.keys == 0);
    hash_table_free(t->by_name);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void expire(struct repeats *t)
{
    struct mono now = clock_now(t->o.clock);
    struct repeat_entry *x, *next;
    for (x = TAILQ_FIRST(&t->answered); x && x->until.ns <= now.ns; x = next) {
        next = TAILQ_NEXT(x, answered);
        forget_answered(t, x);
    }
}

/* Room for n more bytes of answers. False: there is none, even without all that is kept. */
static bool make_room(struct repeats *t, size_t n)
{
    while (t->stats.bytes + (int64_t)n > t->o.bytes_max && !TAILQ_EMPTY(&t->kept)) {
        drop_answer(t, TAILQ_FIRST(&t->kept));
        t->stats.forgotten++;
    }
    return t->stats.bytes + (int64_t)n <= t->o.bytes_max;
}

static struct repeat_entry *entry_new(struct repeats *t, const struct hash *name, const struct hash *what)
{
    if (t->stats.keys >= t->o.keys_max) {
        struct repeat_entry *oldest = TAILQ_FIRST(&t->answered);
        if (!oldest)
            return NULL;
        forget_answered(t, oldest);
        t->stats.forgotten++;
    }
    struct repeat_entry *x = spw_calloc(1, sizeof *x);
    x->name = *name;
    x->what = *what;
    TAILQ_INIT(&x->waiting);
    hash_table_put(t->by_name, name, x);
    t->stats.keys++;
    return x;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

enum rc repeat_key_check(const char *key, struct error *e)
{
    size_t n = 0;
    while (key[n] > ' ' && key[n] <= '~')
        n++;
    if (n == 0 || key[n] != '\0' || n > REPEAT_KEY_BYTES_MAX)
        return error_set(e, RC_INVALID, "Idempotency-Key must be 1 to %d printable ASCII characters without blanks",
                         REPEAT_KEY_BYTES_MAX);
    return RC_OK;
}

struct hash repeat_hash(const struct iovec *parts, int n)
{
    struct hash h;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;
    for (int i = 0; i < n && good; i++) {
        uint64_t bytes = parts[i].iov_len; /* so that no part can pass for another's beginning */
        good = EVP_DigestUpdate(c, &bytes, sizeof bytes) == 1 &&
               EVP_DigestUpdate(c, parts[i].iov_base, parts[i].iov_len) == 1;
    }
    SPW_ASSERT(good && EVP_DigestFinal_ex(c, (unsigned char *)h.w, NULL) == 1); /* no memory is all that can fail */
    EVP_MD_CTX_free(c);
    return h;
}

static struct hash name_of(const struct repeat_question *q)
{
    const char *tenant = q->tenant ? q->tenant : "";
    const struct iovec parts[] = {{(void *)tenant, strlen(tenant)}, {(void *)q->key, strlen(q->key)}};
    return repeat_hash(parts, 2);
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

static void deliver_unwanted(struct mail *m)
{
    struct repeat_ticket *k = (struct repeat_ticket *)((char *)m - offsetof(struct repeat_ticket, mail));
    struct repeats *t = k->table;
    pthread_mutex_lock(&t->lock);
    k->posted = false;
    bool ended = !k->entry;
    bool unwanted = !ended && k->entry->n_waiting == 0; /* somebody may have come meanwhile */
    pthread_mutex_unlock(&t->lock);
    if (ended)
        free(k);
    else if (unwanted && k->owner.arg)
        k->owner.unwanted(k->owner.arg);
}

static enum repeat_role compute(struct repeats *t, struct repeat_entry *x, const struct repeat_owner *owner,
                                struct repeat_ticket **ticket)
{
    if (x->state == ENTRY_ANSWERED) {
        TAILQ_REMOVE(&t->answered, x, answered);
        x->number++;
        t->stats.computed_again++;
    }
    struct repeat_ticket *k = spw_calloc(1, sizeof *k);
    *k = (struct repeat_ticket){
        .entry = x, .table = t, .owner = *owner, .number = x->number, .mail = {.deliver = deliver_unwanted}};
    x->state = ENTRY_RUNNING;
    x->orphaned = false;
    x->ticket = *ticket = k;
    return REPEAT_COMPUTE;
}

static enum repeat_role wait_for(struct repeats *t, struct repeat_entry *x, struct repeat_wait *w)
{
    if (x->n_waiting >= REPEAT_WAITERS_MAX)
        return REPEAT_CROWD;
    w->of = x;
    w->answer = NULL;
    TAILQ_INSERT_TAIL(&x->waiting, w, entry);
    x->n_waiting++;
    t->stats.waited++;
    return REPEAT_WAIT;
}

static enum repeat_role ask_locked(struct repeats *t, const struct hash *name, const struct hash *what,
                                   const struct repeat_owner *owner, struct repeat_ticket **ticket,
                                   struct repeat_wait *w, struct repeat_answer **answer)
{
    expire(t);
    struct repeat_entry *x = hash_table_find(t->by_name, name);
    if (!x) {
        x = entry_new(t, name, what);
        return x ? compute(t, x, owner, ticket) : REPEAT_CROWD;
    }
    if (!hash_equal(&x->what, what))
        return REPEAT_OTHER;
    if (x->state == ENTRY_RUNNING)
        return wait_for(t, x, w);
    if (x->answer) {
        t->stats.replayed++;
        *answer = answer_ref(x->answer);
        return REPEAT_ANSWER;
    }
    return x->number >= REPEATS_MAX ? REPEAT_SPENT : compute(t, x, owner, ticket);
}

enum repeat_role repeats_ask(struct repeats *t, const struct repeat_question *q, const struct repeat_owner *owner,
                             struct repeat_ticket **ticket, struct repeat_wait *w, struct repeat_answer **answer)
{
    struct hash name = name_of(q);
    *ticket = NULL;
    *answer = NULL;
    pthread_mutex_lock(&t->lock);
    enum repeat_role role = ask_locked(t, &name, &q->what, owner, ticket, w, answer);
    pthread_mutex_unlock(&t->lock);
    return role;
}

bool repeats_leave(struct repeats *t, struct repeat_wait *w)
{
    struct repeat_ticket *tell = NULL;
    pthread_mutex_lock(&t->lock);
    struct repeat_entry *x = w->of;
    if (x) {
        TAILQ_REMOVE(&x->waiting, w, entry);
        w->of = NULL;
        x->n_waiting--;
    }
    if (x && x->n_waiting == 0 && x->orphaned && !x->ticket->posted) {
        tell = x->ticket;
        tell->posted = true; /* it lives until the mail is delivered */
    }
    pthread_mutex_unlock(&t->lock);
    if (tell)
        mailbox_post(tell->owner.box, &tell->mail);
    return x != NULL;
}

/* ---- the owner -------------------------------------------------------------------------------------------------- */

int repeat_number(const struct repeat_ticket *k)
{
    return k->number;
}

void repeat_ticket_for(struct repeat_ticket *k, void *arg)
{
    k->owner.arg = arg;
}

bool repeats_grow(struct repeats *t, struct repeat_ticket *k, size_t n)
{
    pthread_mutex_lock(&t->lock);
    bool fits = k->bytes + n <= REPEAT_ANSWER_MAX && make_room(t, n);
    if (fits) {
        k->bytes += n;
        t->stats.bytes += (int64_t)n;
    }
    pthread_mutex_unlock(&t->lock);
    return fits;
}

/* Those who wait, each with a reference, leave the line; they are told when the lock is free. */
static void take_waiting(struct repeat_entry *x, struct repeat_answer *answer, struct wait_list *list)
{
    struct repeat_wait *w;
    TAILQ_INIT(list);
    TAILQ_FOREACH(w, &x->waiting, entry)
    {
        w->of = NULL;
        w->answer = answer_ref(answer);
    }
    TAILQ_CONCAT(list, &x->waiting, entry);
    x->n_waiting = 0;
}

static void tell(struct wait_list *list)
{
    struct repeat_wait *w;
    while ((w = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, w, entry);
        mailbox_post(w->box, &w->mail); /* and it may be gone */
    }
}

/* What had been reserved for its answer is free again. */
static struct repeat_entry *end_ticket(struct repeats *t, struct repeat_ticket *k)
{
    struct repeat_entry *x = k->entry;
    t->stats.bytes -= (int64_t)k->bytes;
    x->ticket = NULL;
    k->entry = NULL;
    if (!k->posted)
        free(k);
    return x;
}

static void now_answered(struct repeats *t, struct repeat_entry *x, int64_t left_ns)
{
    x->state = ENTRY_ANSWERED;
    x->was_answered = true;
    x->until.ns = clock_now(t->o.clock).ns + left_ns;
    TAILQ_INSERT_TAIL(&t->answered, x, answered);
}

void repeats_finish(struct repeats *t, struct repeat_ticket *k, struct repeat_answer *answer)
{
    struct wait_list waiting;
    pthread_mutex_lock(&t->lock);
    struct repeat_entry *x = end_ticket(t, k);
    take_waiting(x, answer, &waiting);
    now_answered(t, x, t->o.keep_ms * NS_PER_MS);
    if (answer && make_room(t, answer->body.len)) {
        x->answer = answer_ref(answer);
        t->stats.bytes += (int64_t)answer->body.len;
        TAILQ_INSERT_TAIL(&t->kept, x, kept);
    }
    expire(t);
    pthread_mutex_unlock(&t->lock);
    tell(&waiting);
    repeat_answer_unref(answer);
}

/* Back to what it was before it was asked for. */
static void not_answered(struct repeats *t, struct repeat_entry *x, enum repeat_use use)
{
    if (!x->was_answered) {
        erase(t, x);
        return;
    }
    x->number -= use == REPEAT_UNUSED;
    now_answered(t, x, t->o.keep_ms * NS_PER_MS);
}

bool repeats_give_up(struct repeats *t, struct repeat_ticket *k, enum repeat_use use)
{
    pthread_mutex_lock(&t->lock);
    bool wanted = k->entry->n_waiting > 0;
    if (wanted)
        k->entry->orphaned = true;
    else
        not_answered(t, end_ticket(t, k), use);
    pthread_mutex_unlock(&t->lock);
    return !wanted;
}

void repeats_fail(struct repeats *t, struct repeat_ticket *k, enum repeat_use use, const struct api_error *why)
{
    struct repeat_answer *answer = repeat_answer_new(api_error_status(why), NULL, 0);
    struct wait_list waiting;
    answer->failed = true;
    answer->error = *why;
    pthread_mutex_lock(&t->lock);
    struct repeat_entry *x = end_ticket(t, k);
    take_waiting(x, answer, &waiting);
    not_answered(t, x, use);
    pthread_mutex_unlock(&t->lock);
    tell(&waiting);
    repeat_answer_unref(answer);
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

void repeats_restore(struct repeats *t, const struct repeat_question *q, int number, int64_t ago_ns)
{
    struct hash name = name_of(q);
    int64_t left_ns = t->o.keep_ms * NS_PER_MS - ago_ns;
    pthread_mutex_lock(&t->lock);
    struct repeat_entry *x = hash_table_find(t->by_name, &name);
    if (x)
        TAILQ_REMOVE(&t->answered, x, answered);
    else
        x = entry_new(t, &name, &q->what);
    if (x) {
        x->number = number > x->number ? number : x->number;
        now_answered(t, x, left_ns);
    }
    pthread_mutex_unlock(&t->lock);
}

struct repeats_stats repeats_stats(struct repeats *t)
{
    pthread_mutex_lock(&t->lock);
    struct repeats_stats s = t->stats;
    pthread_mutex_unlock(&t->lock);
    return s;
}
