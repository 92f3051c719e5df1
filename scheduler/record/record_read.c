/* Lines of a recording, which may be anybody's: whatever is no record is refused by name. */
#include <string.h>

#include "scheduler/record/record_tables.h"

#define DEPTH_MAX 8

struct reading { /* one line */
    struct record_event *e;
    struct record_candidate *c;
    struct error *err;
};

static enum rc no_such(struct error *e, const cJSON *item)
{
    return error_set(e, RC_INVALID, "\"%.40s\" is no member that is known here", item->string ? item->string : "");
}

/* A list of whole numbers within 0..most. */
static enum rc read_numbers(const cJSON *list, int32_t *v, int room, int32_t most, int32_t *n, struct error *e)
{
    const cJSON *item;
    *n = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (*n == room || !cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most) ||
            item->valuedouble != (double)(int32_t)item->valuedouble)
            break;
        v[(*n)++] = (int32_t)item->valuedouble;
    }
    if (!cJSON_IsArray(list) || item)
        return error_set(e, RC_INVALID, "\"%s\": a list of at most %d whole numbers of 0 to %d is right", list->string,
                         room, (int)most);
    return RC_OK;
}

static enum rc read_models(const cJSON *list, struct shortlist_kind *k, struct error *e)
{
    int32_t ids[SHORTLIST_MODELS_MAX], n;
    const enum rc rc = read_numbers(list, ids, SHORTLIST_MODELS_MAX, SHORTLIST_MODELS_MAX - 1, &n, e);
    for (int32_t i = 0; rc == RC_OK && i < n; i++)
        shortlist_kind_add(k, ids[i]);
    return rc;
}

static enum rc read_facts(const cJSON *item, struct record_facts *x, struct error *e)
{
    if (strcmp(item->string, "models") == 0)
        return read_models(item, &x->f.kind, e);
    if (strcmp(item->string, "facts") == 0) {
        const struct shortlist_kind kind = x->f.kind; /* the models may have come before */
        const enum rc rc = members_read(item, &record_facts_members, &x->f, sizeof x->f, e);
        memcpy(x->f.kind.models, kind.models, sizeof kind.models);
        return rc;
    }
    if (strcmp(item->string, "curve") != 0)
        return no_such(e, item);
    x->has_curve = true;
    return members_read(item, &record_curve_members, &x->curve, sizeof x->curve, e);
}

static enum rc read_holders(const cJSON *list, struct record_choice *x, struct error *e)
{
    const cJSON *item;
    if (!cJSON_IsArray(list))
        return error_set(e, RC_INVALID, "\"holders\": a list is right");
    cJSON_ArrayForEach(item, list)
    {
        const cJSON *node = cJSON_GetArrayItem(item, 0), *tokens = cJSON_GetArrayItem(item, 1);
        if (x->n_holders == SHORTLIST_HINTS_MAX || !cJSON_IsNumber(node) || !cJSON_IsNumber(tokens) ||
            !(node->valuedouble >= 0 && node->valuedouble < SHORTLIST_NODES_MAX) ||
            !(tokens->valuedouble >= 0 && tokens->valuedouble <= (double)RECORD_TOKENS_MAX))
            return error_set(e, RC_INVALID, "\"holders\": at most %d pairs of node and tokens are right",
                             SHORTLIST_HINTS_MAX);
        x->holders[x->n_holders++] = (struct router_holder){(int32_t)node->valuedouble, (int64_t)tokens->valuedouble};
    }
    return RC_OK;
}

static enum rc read_candidates(const cJSON *list, const struct reading *r)
{
    const cJSON *item;
    struct record_choice *x = &r->e->u.choice;
    if (!cJSON_IsArray(list))
        return error_set(r->err, RC_INVALID, "\"candidates\": a list is right");
    cJSON_ArrayForEach(item, list)
    {
        if (x->n == RECORD_CANDIDATES_MAX)
            return error_set(r->err, RC_INVALID, "\"candidates\": %d are the most", RECORD_CANDIDATES_MAX);
        struct record_candidate *c = &r->c[x->n++];
        *c = (struct record_candidate){0};
        if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < SHORTLIST_NODES_MAX)
            c->node = (int32_t)item->valuedouble;
        else if (members_read(item, &record_candidate_members, c, sizeof *c, r->err) != RC_OK)
            return RC_INVALID;
    }
    return RC_OK;
}

static enum rc read_choice(const cJSON *item, const struct reading *r)
{
    struct record_choice *x = &r->e->u.choice;
    int from = 0;
    if (strcmp(item->string, "q") == 0)
        return members_read(item, &record_request_members, &x->q, sizeof x->q, r->err);
    if (strcmp(item->string, "holders") == 0)
        return read_holders(item, x, r->err);
    if (strcmp(item->string, "skip") == 0)
        return read_numbers(item, x->skip, SHORTLIST_SKIP_MAX, SHORTLIST_NODES_MAX - 1, &x->n_skip, r->err);
    if (strcmp(item->string, "candidates") == 0)
        return read_candidates(item, r);
    enum rc rc = members_read_one(item, &record_who_members, &from, &x->who, r->err);
    from = 0;
    if (rc == RC_NOT_FOUND)
        rc = members_read_one(item, &record_choice_members, &from, x, r->err);
    return rc;
}

static enum rc read_sent(const cJSON *item, struct record_sent *x, struct error *e)
{
    if (strcmp(item->string, "work") == 0)
        return members_read(item, &record_work_members, &x->work, sizeof x->work, e);
    if (strcmp(item->string, "leg") == 0)
        return members_read(item, &record_leg_members, &x->leg, sizeof x->leg, e);
    return no_such(e, item);
}

static enum rc read_member(const cJSON *item, const struct reading *r)
{
    struct record_event *e = r->e;
    int from = 0;
    enum rc rc = members_read_one(item, &record_event_members, &from, e, r->err);
    if (rc != RC_NOT_FOUND || strcmp(item->string, "event") == 0)
        return rc == RC_NOT_FOUND ? RC_OK : rc;
    from = 0;
    switch ((int)e->kind) {
    case ROUTER_PUT: return read_facts(item, &e->u.facts, r->err);
    case ROUTER_LIKE: return members_read_one(item, &record_like_members, &from, e, r->err);
    case ROUTER_STATE: return members_read_one(item, &record_state_members, &from, &e->u.state, r->err);
    case ROUTER_TARIFF: return members_read_one(item, &record_tariff_members, &from, &e->u.tariff, r->err);
    case ROUTER_GROWING: return members_read_one(item, &record_growing_members, &from, &e->u.growing, r->err);
    case ROUTER_SENT: return read_sent(item, &e->u.sent, r->err);
    case ROUTER_SPOKE:
    case ROUTER_ENDED: return members_read_one(item, &record_heard_members, &from, &e->u.heard, r->err);
    case ROUTER_LISTED:
    case ROUTER_CHOSE: return read_choice(item, r);
    case RECORD_BEGIN: return members_read_one(item, &record_begin_members, &from, &e->u.begin, r->err);
    case RECORD_NODE:
    case RECORD_MODEL: return members_read_one(item, &record_named_members, &from, &e->u.named, r->err);
    case RECORD_END: return members_read_one(item, &record_end_members, &from, &e->u.end, r->err);
    default: return RC_NOT_FOUND;
    }
}

static enum rc read_event(const cJSON *root, const struct reading *r)
{
    const cJSON *item, *kind = json_find(root, "event");
    int k = 0;
    while (cJSON_IsString(kind) && k < RECORD_KINDS &&
           strcmp(record_kind_name((enum record_kind)k), kind->valuestring) != 0)
        k++;
    if (!cJSON_IsString(kind) || k == RECORD_KINDS)
        return error_set(r->err, RC_INVALID, "\"event\": \"%.40s\" is no event that is known here",
                         cJSON_IsString(kind) ? kind->valuestring : "");
    memset(r->e, 0, record_event_bytes((enum record_kind)k));
    r->e->kind = (enum record_kind)k;
    cJSON_ArrayForEach(item, root)
    {
        const enum rc rc = read_member(item, r);
        if (rc == RC_NOT_FOUND)
            return no_such(r->err, item);
        if (rc != RC_OK)
            return rc;
    }
    return RC_OK;
}

enum rc record_read(const char *text, size_t n, struct record_event *e,
                    struct record_candidate c[RECORD_CANDIDATES_MAX], struct error *err)
{
    struct json_doc d = {0};
    const struct reading r = {.e = e, .c = c, .err = err};
    enum rc rc = json_doc_parse(&d, text, n, DEPTH_MAX, err);
    if (rc == RC_OK)
        rc = cJSON_IsObject(d.root) ? read_event(d.root, &r) : error_set(err, RC_INVALID, "an object is missing");
    json_doc_fini(&d);
    return rc;
}
