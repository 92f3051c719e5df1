#include "scheduler/front/explained.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scheduler/front/explain_text.h"
#include "scheduler/front/front_internal.h"

static const char *why_not(const struct config *c, const struct identity *who)
{
    if (c->explain_header == CONFIG_EXPLAIN_OFF)
        return "explanations are turned off: routing.explain_header";
    if (c->explain_header == CONFIG_EXPLAIN_ADMIN && !(who->scopes & AUTH_SCOPE_ADMIN))
        return "explanations are for keys with the scope admin: routing.explain_header";
    if (c->explain_keep == 0)
        return "no decisions are kept: routing.explain_keep is 0";
    return NULL;
}

static bool is_word(const char *v, const char *digit, const char *word)
{
    return strcmp(v, digit) == 0 || strcasecmp(v, word) == 0;
}

enum rc explained_read(struct http_exchange *x, bool *asks, struct api_error *e)
{
    const char *v = http_head_get(http_request_head(x), EXPLAIN_HEADER);
    *asks = v && is_word(v, "1", "true");
    if (!v || *asks || is_word(v, "0", "false"))
        return RC_OK;
    api_error_set(e, API_INVALID_BODY, EXPLAIN_HEADER, "header " EXPLAIN_HEADER ": \"%.40s\" is neither 1 nor 0", v);
    return RC_INVALID;
}

void explained_begin(struct request *r)
{
    r->explained = spw_calloc(1, sizeof *r->explained);
    r->explained->refused = why_not(r->config, r->who);
}

/* ---- everybody's decisions ---------------------------------------------------------------------------------------- */

/* Free places of the table are among the candidates. */
static const char *name_of(const void *arg, int32_t i)
{
    const struct explained_look *look = arg;
    const struct node *n = nodes_at(look->r->lane->front->nodes, look->listed ? look->listed[i] : i);
    return n->spec ? n->name : NULL;
}

/* Nodes that were not worth a look. */
static int unlisted(const struct explained_look *look)
{
    const struct nodes *nodes = look->r->lane->front->nodes;
    int n = 0;
    for (int i = 0; look->listed && i < nodes_count(nodes); i++)
        n += nodes_at(nodes, i)->spec != NULL;
    return n > look->n ? n - look->n : 0;
}

static int64_t waited_ms_locked(const struct request *r)
{
    int64_t ns = r->waited_ns;
    if (r->waiter.waits)
        ns += mono_since(r->lane->front->o.clock, r->wait_since);
    return ns / NS_PER_MS;
}

void explained_decided_locked(const struct explained_look *look, const struct route_decision *d)
{
    const struct request *r = look->r;
    struct front *f = r->lane->front;
    if (!f->explain)
        return;
    const struct explain_context x = {
        .request_id = r->id,
        .model_asked = r->model->name,
        .model = look->model->name,
        .at_ns = clock_wall(f->o.clock).ns,
        .waited_ms = waited_ms_locked(r),
        .attempt = r->attempts == 0                          ? EXPLAIN_FIRST
                   : r->replied || trail_has_said(&r->trail) ? EXPLAIN_CONTINUATION
                                                             : EXPLAIN_RETRY,
        .legs = r->attempts,
        .class = r->urgency.class,
        .granted = r->waiter.waits,
        .prefers_local = budgeted_prefers_local(r),
        .unlisted = unlisted(look),
        .name = name_of,
        .arg = look,
    };
    explain_note_locked(f->explain, &x, look->request, look->candidates, look->n, d);
}

static int32_t at_most_i32(int64_t v)
{
    return v < INT32_MAX ? (int32_t)v : INT32_MAX;
}

static void then_locked(const struct request *r, const struct explain_then *then)
{
    struct explain *e = r->lane->front->explain;
    explain_then_locked(e, explain_next_locked(e) - 1, then);
}

void explained_steps_on_locked(const struct request *r)
{
    then_locked(r, &(struct explain_then){.outcome = EXPLAIN_NEXT_MODEL});
}

void explained_found_locked(const struct request *r, enum found found, const struct route_decision *d,
                            enum waiting_verdict v)
{
    static const uint8_t outcomes[] = {[FOUND_SLOT] = EXPLAIN_CHOSEN,
                                       [FOUND_ROOM] = EXPLAIN_WAITS,
                                       [FOUND_NOBODY] = EXPLAIN_NOBODY,
                                       [FOUND_TOO_LATE] = EXPLAIN_HELD_FOR_LONGER,
                                       [FOUND_NO_ROOM] = EXPLAIN_NOT_LET_IN};
    struct explain_then then = {.outcome = outcomes[found], .back_ms = at_most_i32(d->back_us / 1000)};
    if (!r->lane->front->explain || found == FOUND_SLOT) /* as it stands */
        return;
    if (found == FOUND_NO_ROOM)
        then.verdict = (uint8_t)v;
    if (found == FOUND_ROOM) {
        then.ahead = at_most_i32(waiting_count(&r->room->waiting) - 1);
        then.wait_ms = at_most_i32((r->waiter.until_ns - r->wait_since.ns) / NS_PER_MS);
    }
    then_locked(r, &then);
}

/* ---- those who ask ------------------------------------------------------------------------------------------------- */

static void keep(struct explained *x, const struct explain_record *r)
{
    if (x->n == EXPLAINED_MAX) {
        memmove(x->records, x->records + 1, sizeof x->records - sizeof x->records[0]);
        x->n--;
        x->earlier++;
    }
    x->records[x->n++] = *r;
    x->seen = r->ticket;
}

void explained_note(struct request *r)
{
    struct explained *x = r->explained;
    uint64_t tickets[EXPLAINED_MAX];
    struct explain_record record;
    if (!x || x->refused)
        return;
    int n = explain_find(r->lane->front->explain, r->id, tickets, EXPLAINED_MAX, NULL);
    for (int i = 0; i < n; i++) {
        if (tickets[i] > x->seen && explain_read(r->lane->front->explain, tickets[i], r->id, &record))
            keep(x, &record);
    }
}

static void write_error(struct strbuf *text, const char *why)
{
    struct json_writer w = json_write_begin(text);
    json_open(&w, NULL, '{');
    json_string(&w, "error", why);
    json_close(&w, '}');
    SPW_ASSERT(json_write_end(&w) == RC_OK); /* static texts, far below the bound */
}

int explained_header(const struct request *r, struct strbuf *text, struct http_header *header)
{
    const struct explained *x = r->explained;
    strbuf_init(text, EXPLAIN_HEADER_MAX);
    if (!x)
        return 0;
    if (x->refused)
        write_error(text, x->refused);
    else if (x->n == 0)
        write_error(text, "no node was looked for: the answer was known, or the request refused before");
    else
        explain_write_header(x->records, x->n, x->earlier, text);
    *header = (struct http_header){EXPLAIN_HEADER, text->data};
    return 1;
}

void explained_fini(struct request *r)
{
    free(r->explained);
    r->explained = NULL;
}

enum rc front_explain(const struct front *f, const char *request_id, struct json_writer *w, struct error *e)
{
    if (!f->explain)
        return error_set(e, RC_NOT_FOUND, "no decisions are kept: routing.explain_keep is 0");
    if (explain_write_request(f->explain, request_id, w) == RC_OK)
        return RC_OK;
    return error_set(
        e, RC_NOT_FOUND,
        "no decision about a request \"%.64s\" is known: the newest %d are kept (routing.explain_keep), in "
        "memory, and an answer from the cache needs none",
        request_id, explain_keeps(f->explain));
}

int front_decisions(const struct front *f, struct explain_record *out, int max)
{
    return explain_newest(f->explain, out, max);
}

int front_decisions_of(const struct front *f, const char *request_id, struct explain_record *out, int max)
{
    uint64_t tickets[EXPLAINED_MAX];
    const int found = explain_find(f->explain, request_id, tickets, max < EXPLAINED_MAX ? max : EXPLAINED_MAX, NULL);
    int n = 0;

    for (int i = 0; i < found; i++)
        n += explain_read(f->explain, tickets[i], request_id, &out[n]);
    return n;
}
