#include "scheduler/front/explain.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fnv.h"

#define WORD           sizeof(uint64_t)
#define RECORD_WORDS   (sizeof(struct explain_record) / WORD)
#define CACHE_LINE     64
#define LOOKS          64 /* at a record that is being written; that takes less than a microsecond */
#define NODE_NAME_MAX  64
#define MODEL_NAME_MAX 128
#define CUT            '~' /* the end of a name that had no room */

/* What a name that comes late is left at least. */
#define NAME_MIN 4

struct place {
    _Atomic uint64_t moves; /* odd: it is being written */
    _Atomic uint64_t words[RECORD_WORDS];
};
_Static_assert(sizeof(struct place) == EXPLAIN_BYTES, "docs and help state what a record takes");
_Static_assert(sizeof(struct explain_record) % WORD == 0, "it is copied by words");
_Static_assert(offsetof(struct explain_record, candidates) % WORD == 0, "as above");
_Static_assert(offsetof(struct explain_record, then) % WORD == 0 && sizeof(struct explain_then) % WORD == 0,
               "as above");
_Static_assert(sizeof(struct explain_candidate) <= 80 && sizeof(struct explain_candidate) % WORD == 0, "as above");
_Static_assert(offsetof(struct explain_record, names) % WORD == 0, "as above");
_Static_assert(ROUTE_NOT_LISTED < EXPLAIN_REASONS, "every reason has a count");

struct explain {
    uint64_t keep;
    _Atomic uint64_t next;  /* ticket */
    _Atomic uint64_t *keys; /* of the requests, by place, so that one is found without a look at every record; owned */
    struct place *places;   /* owned */
};

const char *explain_attempt_name(enum explain_attempt a)
{
    static const char *const names[] = {"first", "retry", "continuation"};
    return names[a];
}

const char *explain_outcome_name(enum explain_outcome o)
{
    static const char *const names[] = {"chosen", "next_model", "nobody", "waits", "not_let_in", "held_for_longer"};
    return names[o];
}

struct explain *explain_new(int keep)
{
    if (keep <= 0)
        return NULL;
    struct explain *e = spw_calloc(1, sizeof *e);
    e->keep = (uint64_t)keep;
    e->next = 1;
    e->keys = spw_calloc((size_t)keep, sizeof *e->keys);
    e->places = spw_calloc((size_t)keep, sizeof *e->places);
    return e;
}

void explain_free(struct explain *e)
{
    if (!e)
        return;
    free(e->keys);
    free(e->places);
    free(e);
}

int explain_keeps(const struct explain *e)
{
    return e ? (int)e->keep : 0;
}

/* Of an id that is padded with zeros. Ids that share one cost a look, no more. Never 0, which is nobody's. */
static uint64_t key_of(const char id[EXPLAIN_ID_BYTES])
{
    uint64_t h = FNV_START, word; /* by words */
    for (size_t i = 0; i < EXPLAIN_ID_BYTES; i += WORD) {
        memcpy(&word, id + i, WORD);
        h = fnv_step(h, word);
        h ^= h >> 32;
    }
    return h | 1;
}

static void put_id(char to[EXPLAIN_ID_BYTES], const char *id)
{
    memset(to, 0, EXPLAIN_ID_BYTES);
    memcpy(to, id, strnlen(id, EXPLAIN_ID_BYTES - 1));
}

static struct place *place_of(const struct explain *e, uint64_t ticket)
{
    return &e->places[ticket % e->keep];
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

static uint64_t begin(struct place *p)
{
    uint64_t moves = atomic_load_explicit(&p->moves, memory_order_relaxed);
    atomic_store_explicit(&p->moves, moves + 1, memory_order_relaxed);
    return moves + 2;
}

/* Release, so that who sees one of these words sees the odd counter, too. */
static void put_words(struct place *p, const struct explain_record *r, size_t from, size_t bytes)
{
    uint64_t word;
    for (size_t i = from / WORD; i < (from + bytes + WORD - 1) / WORD; i++) {
        memcpy(&word, (const char *)r + i * WORD, WORD);
        atomic_store_explicit(&p->words[i], word, memory_order_release);
    }
}

static void end(struct place *p, uint64_t moves)
{
    atomic_store_explicit(&p->moves, moves, memory_order_release);
}

/* The ring is larger than the caches next to a core: what the next decision will write, as much as this one did, is
 * fetched while others are at work. */
static void fetch_next(const struct place *p, const struct explain_record *like)
{
    const char *at = (const char *)p;
    size_t list = offsetof(struct explain_record, candidates) + like->n * sizeof like->candidates[0];
    size_t names = offsetof(struct explain_record, names);
    for (size_t i = 0; i < list + WORD; i += CACHE_LINE)
        __builtin_prefetch(at + i, 1);
    for (size_t i = names; i < names + like->names_used + WORD; i += CACHE_LINE)
        __builtin_prefetch(at + i, 1);
}

static int32_t to_i32(int64_t v)
{
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}

/* later: names that are still to come, which must have some room, too. */
static uint16_t put_name(struct explain_record *r, const char *name, size_t most, int later)
{
    size_t at = r->names_used, room = EXPLAIN_NAMES_BYTES - at - (size_t)later * NAME_MIN - 1;
    size_t n = strnlen(name, most);
    bool cut = n > room;
    n = cut ? room : n;
    memcpy(r->names + at, name, n);
    if (cut)
        r->names[at + n - 1] = CUT;
    r->names[at + n] = '\0';
    r->names_used = (uint16_t)(at + n + 1);
    return (uint16_t)at;
}

/* Which are listed, in their order: all, or those that came furthest. Those of other models and those that were not
 * worth a look come last. */
static int32_t pick(const struct route_decision *d, int32_t n, bool listed[ROUTE_CANDIDATES_MAX])
{
    static const uint8_t nothing_to_say[] = {ROUTE_NOT_LISTED, ROUTE_OTHER_MODEL};
    int32_t of[EXPLAIN_REASONS] = {0}, left = EXPLAIN_CANDIDATES_MAX;
    uint8_t order[EXPLAIN_REASONS];
    int n_order = 0;
    for (int32_t i = 0; i < n; i++)
        of[d->reasons[i]]++;
    order[n_order++] = ROUTE_CHOSEN;
    for (int r = ROUTE_NOT_LISTED - 1; r > ROUTE_OTHER_MODEL; r--)
        order[n_order++] = (uint8_t)r;
    memcpy(order + n_order, nothing_to_say, sizeof nothing_to_say);
    n_order += (int)sizeof nothing_to_say;
    for (int k = 0; k < n_order; k++) { /* from how many each reason has to how many of them are listed */
        int32_t here = of[order[k]] < left ? of[order[k]] : left;
        of[order[k]] = here;
        left -= here;
    }
    for (int32_t i = 0; i < n; i++)
        listed[i] = of[d->reasons[i]]-- > 0;
    return EXPLAIN_CANDIDATES_MAX - left;
}

static void put_candidate(struct explain_candidate *to, const struct route_request *q, const struct route_candidate *c,
                          enum route_reason reason, const struct route_terms *t)
{
    *to = (struct explain_candidate){
        .money = reason == ROUTE_OTHER_MODEL ? 0 : route_money(q, c),
        .wake_us = (float)c->wake_us,
        .back_us = (float)c->back_us,
        .p_slo = (float)t->p_slo,
        .time_us = (float)t->time_us,
        .energy_mj = c->has_energy ? (float)c->marginal_mj : -1,
        .value = (float)t->value,
        .risk = (float)c->risk,
        .cached = to_i32(c->cached_tokens),
        .in_flight = c->in_flight,
        .slots = c->slots,
        .reason = (uint8_t)reason,
        .knows = (uint8_t)((c->predicted ? EXPLAIN_PREDICTED : 0) | (c->has_marginal ? EXPLAIN_MARGINAL : 0) |
                           (c->local ? EXPLAIN_LOCAL : 0)),
    };
    if (!c->predicted)
        return;
    to->ttft_us = (float)c->latency.ttft.median_us;
    to->ttft_sd = (float)c->latency.ttft.log_sd;
    to->tpot_us = (float)c->latency.tpot.median_us;
    to->tpot_sd = (float)c->latency.tpot.log_sd;
}

static void put_head(struct explain_record *r, const struct explain_context *x, const struct route_request *q,
                     const struct route_decision *d)
{
    memset(r, 0, offsetof(struct explain_record, candidates));
    put_id(r->id, x->request_id);
    r->then.outcome = d->chosen >= 0 ? EXPLAIN_CHOSEN : EXPLAIN_NOBODY;
    r->then.back_ms = to_i32(d->chosen >= 0 ? 0 : d->back_us / 1000);
    r->at_ns = x->at_ns;
    r->charge_max = q->bounded ? q->charge_max.v : 0;
    r->slo_ttft_us = q->slo.ttft_us;
    r->slo_tpot_us = q->slo.tpot_us;
    r->slo_probability = (float)q->slo.probability;
    r->input_tokens = to_i32(q->input_tokens);
    r->output_tokens = to_i32(q->output_tokens);
    r->waited_ms = to_i32(x->waited_ms);
    r->legs = (uint16_t)(x->legs < UINT16_MAX ? x->legs : UINT16_MAX);
    r->objective = (uint8_t)q->objective;
    r->attempt = (uint8_t)x->attempt;
    r->chosen = -1;
    r->local_only = q->local_only;
    r->bounded = q->bounded;
    r->alone = q->alone;
    r->prefers_local = x->prefers_local;
    r->class = (uint8_t)x->class;
    r->granted = x->granted;
}

static void put_candidates(struct explain_record *r, const struct explain_context *x, const struct route_request *q,
                           const struct route_candidate *c, int32_t n, const struct route_decision *d)
{
    bool listed[ROUTE_CANDIDATES_MAX];
    int32_t most = n;
    if (n > EXPLAIN_CANDIDATES_MAX)
        most = pick(d, n, listed);
    r->model_asked = put_name(r, x->model_asked, MODEL_NAME_MAX, most + 1);
    r->model = x->model == x->model_asked ? r->model_asked : put_name(r, x->model, MODEL_NAME_MAX, most);
    for (int32_t i = 0; i < n; i++) {
        const char *name = x->name(x->arg, i);
        if (!name)
            continue;
        if (n > EXPLAIN_CANDIDATES_MAX && !listed[i]) {
            r->others[d->reasons[i]]++;
            continue;
        }
        struct explain_candidate *to = &r->candidates[r->n];
        if (i == d->chosen)
            r->chosen = (int8_t)r->n;
        r->n++;
        put_candidate(to, q, &c[i], d->reasons[i], &d->terms[i]);
        to->name = put_name(r, name, NODE_NAME_MAX, most - r->n);
    }
    r->others[ROUTE_NOT_LISTED] = (uint16_t)(r->others[ROUTE_NOT_LISTED] + x->unlisted);
}

uint64_t explain_note_locked(struct explain *e, const struct explain_context *x, const struct route_request *q,
                             const struct route_candidate *c, int32_t n, const struct route_decision *d)
{
    struct explain_record r;
    if (!e)
        return 0;
    uint64_t ticket = atomic_load_explicit(&e->next, memory_order_relaxed);
    struct place *p = place_of(e, ticket);
    put_head(&r, x, q, d);
    r.ticket = ticket;
    put_candidates(&r, x, q, c, n, d);
    uint64_t moves = begin(p);
    put_words(p, &r, 0, offsetof(struct explain_record, candidates) + r.n * sizeof r.candidates[0]);
    put_words(p, &r, offsetof(struct explain_record, names), r.names_used);
    end(p, moves);
    atomic_store_explicit(&e->keys[ticket % e->keep], key_of(r.id), memory_order_release);
    atomic_store_explicit(&e->next, ticket + 1, memory_order_release);
    fetch_next(place_of(e, ticket + 1), &r);
    return ticket;
}

void explain_then_locked(struct explain *e, uint64_t ticket, const struct explain_then *then)
{
    struct explain_record r;
    if (!e || !ticket)
        return;
    struct place *p = place_of(e, ticket);
    if (atomic_load_explicit(&p->words[offsetof(struct explain_record, ticket) / WORD], memory_order_relaxed) != ticket)
        return;
    r.then = *then;
    uint64_t moves = begin(p);
    put_words(p, &r, offsetof(struct explain_record, then), sizeof r.then);
    end(p, moves);
}

uint64_t explain_next_locked(const struct explain *e)
{
    return e ? atomic_load_explicit(&e->next, memory_order_relaxed) : 0;
}

void explain_forget_locked(struct explain *e, uint64_t ticket)
{
    if (!e)
        return;
    for (uint64_t t = ticket; t < e->next; t++)
        atomic_store_explicit(&e->keys[t % e->keep], 0, memory_order_release);
    atomic_store_explicit(&e->next, ticket, memory_order_release);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

/* One look; false: it moved meanwhile. Each word is acquired, so that whoever wrote a word that is too new has made the
 * counter move for us, too. */
static bool read_once(struct place *p, struct explain_record *out)
{
    uint64_t moves = atomic_load_explicit(&p->moves, memory_order_acquire), word;
    if (moves & 1)
        return false;
    for (size_t i = 0; i < RECORD_WORDS; i++) {
        word = atomic_load_explicit(&p->words[i], memory_order_acquire);
        memcpy((char *)out + i * WORD, &word, WORD);
    }
    return atomic_load_explicit(&p->moves, memory_order_relaxed) == moves;
}

static bool read_ticket(const struct explain *e, uint64_t ticket, struct explain_record *out)
{
    for (int i = 0; e && i < LOOKS; i++) {
        if (read_once(place_of(e, ticket), out))
            return out->ticket == ticket;
    }
    return false;
}

bool explain_read(const struct explain *e, uint64_t ticket, const char *request_id, struct explain_record *out)
{
    return read_ticket(e, ticket, out) && strncmp(out->id, request_id, EXPLAIN_ID_BYTES - 1) == 0;
}

int explain_newest(const struct explain *e, struct explain_record *out, int max)
{
    const uint64_t next = e ? atomic_load_explicit(&e->next, memory_order_acquire) : 1;
    const uint64_t oldest = e && next > e->keep ? next - e->keep : 1;
    int n = 0;

    for (uint64_t t = next; t-- > oldest && n < max;)
        n += read_ticket(e, t, &out[n]);
    return n;
}

/* Of the request, whatever its key says? */
static bool is_of(const struct explain *e, uint64_t ticket, const char *request_id)
{
    struct explain_record r;
    return explain_read(e, ticket, request_id, &r);
}

int explain_find(const struct explain *e, const char *request_id, uint64_t *tickets, int max, int *earlier)
{
    char id[EXPLAIN_ID_BYTES];
    put_id(id, request_id);
    uint64_t key = key_of(id), next = e ? atomic_load_explicit(&e->next, memory_order_acquire) : 1;
    uint64_t oldest = e && next > e->keep ? next - e->keep : 1;
    int n = 0, more = 0;
    for (uint64_t t = next; t-- > oldest;) {
        if (atomic_load_explicit(&e->keys[t % e->keep], memory_order_acquire) != key || !is_of(e, t, request_id))
            continue;
        if (n < max)
            tickets[n++] = t;
        else
            more++;
    }
    for (int i = 0; i < n / 2; i++) {
        uint64_t t = tickets[i];
        tickets[i] = tickets[n - 1 - i];
        tickets[n - 1 - i] = t;
    }
    if (earlier)
        *earlier = more;
    return n;
}
