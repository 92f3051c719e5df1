/* JSON Lines traces, as Mooncake publishes them: {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids":
 * [...]}. Each hash stands for 512 tokens of the prompt and all that is before them. */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/json.h"
#include "scheduler/simulate/trace_internal.h"

struct jsonl_source {
    struct trace_source base;
    struct lines lines;
    uint64_t *blocks; /* owned */
    int32_t blocks_cap;
};

static enum rc read_blocks(struct jsonl_source *s, const cJSON *row, struct sim_request *r, struct error *e)
{
    const cJSON *list = json_find(row, "hash_ids"), *item;
    int32_t n = 0;

    if (!list || cJSON_IsNull(list))
        return RC_OK;
    if (!cJSON_IsArray(list))
        return lines_error(&s->lines, e, RC_INVALID, "hash_ids: a list of whole numbers is wanted");
    cJSON_ArrayForEach(item, list)
    {
        if (n == TRACE_BLOCKS_MAX)
            return lines_error(&s->lines, e, RC_INVALID, "hash_ids: more than %d blocks", TRACE_BLOCKS_MAX);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < 9007199254740992.0))
            return lines_error(&s->lines, e, RC_INVALID, "hash_ids: item %d is no whole number below 2^53", n + 1);
        if (n == s->blocks_cap) {
            s->blocks_cap = s->blocks_cap ? s->blocks_cap * 2 : 64;
            s->blocks = spw_realloc(s->blocks, sizeof *s->blocks * (size_t)s->blocks_cap);
        }
        s->blocks[n++] = trace_mix((uint64_t)item->valuedouble);
    }
    r->blocks = s->blocks;
    r->n_blocks = n;
    return RC_OK;
}

static enum rc need_int(const cJSON *row, const char *key, int32_t *v, struct error *e)
{
    int64_t n = 0;
    bool found = false;
    enum rc rc = json_get_int(row, key, 1, TRACE_TOKENS_MAX, &n, &found, e);

    *v = (int32_t)n;
    return rc == RC_OK && !found ? error_set(e, RC_INVALID, "%s is missing", key) : rc;
}

static enum rc read_numbers(const cJSON *row, struct sim_request *r, struct error *e)
{
    double ms = 0;
    bool found = false;
    enum rc rc = json_get_double(row, "timestamp", -1e15, 1e15, &ms, &found, e);

    if (rc == RC_OK && !found)
        rc = error_set(e, RC_INVALID, "timestamp is missing");
    if (rc == RC_OK)
        rc = need_int(row, "input_length", &r->prompt, e);
    if (rc == RC_OK)
        rc = need_int(row, "output_length", &r->output, e);
    r->at_us = (int64_t)(ms * 1000);
    return rc;
}

static enum rc read_names(struct jsonl_source *s, const cJSON *row, struct sim_request *r, struct error *e)
{
    const char *model = NULL, *team = NULL;
    enum rc rc = json_get_string(row, "model", &model, NULL, e);

    if (rc == RC_OK)
        rc = json_get_string(row, "team", &team, NULL, e);
    if (rc == RC_OK && model && model[0])
        rc = trace_names_intern(&s->base.names[TRACE_MODELS], model, &r->model, e);
    if (rc == RC_OK && team && team[0])
        rc = trace_names_intern(&s->base.names[TRACE_TEAMS], team, &r->team, e);
    return rc;
}

static enum rc jsonl_next(struct trace_source *base, struct sim_request *r, struct error *e)
{
    struct jsonl_source *s = (struct jsonl_source *)base;
    struct json_doc doc;
    struct error why;
    char *text;
    size_t n;
    enum rc rc = lines_next(&s->lines, &text, &n, e);

    if (rc != RC_OK)
        return rc;
    *r = (struct sim_request){.model = base->defaults.model,
                              .team = base->defaults.team,
                              .file = base->defaults.file,
                              .batch = base->defaults.batch,
                              .deadline_us = base->defaults.deadline_us};
    if (json_doc_parse(&doc, text, n, 8, &why) != RC_OK)
        return lines_error(&s->lines, e, RC_INVALID, "%s", why.message);
    rc = cJSON_IsObject(doc.root) ? read_numbers(doc.root, r, &why) : error_set(&why, RC_INVALID, "no JSON object");
    if (rc == RC_OK)
        rc = read_names(s, doc.root, r, &why);
    if (rc != RC_OK)
        rc = lines_error(&s->lines, e, rc, "%s", why.message);
    else
        rc = read_blocks(s, doc.root, r, e);
    json_doc_fini(&doc);
    return rc;
}

static enum rc jsonl_rewind(struct trace_source *base, struct error *e)
{
    return lines_rewind(&((struct jsonl_source *)base)->lines, e);
}

static double jsonl_done(const struct trace_source *base)
{
    return lines_done(&((const struct jsonl_source *)base)->lines);
}

static void jsonl_close(struct trace_source *base)
{
    struct jsonl_source *s = (struct jsonl_source *)base;

    lines_close(&s->lines);
    free(s->blocks);
    free(s);
}

static const struct trace_source_ops jsonl_ops = {jsonl_next, jsonl_rewind, jsonl_done, jsonl_close};

enum rc trace_jsonl_open(struct trace_source **out, const char *path, struct error *e)
{
    struct jsonl_source *s = spw_calloc(1, sizeof *s);
    enum rc rc = lines_open(&s->lines, path, e);

    s->base.ops = &jsonl_ops;
    if (rc != RC_OK) {
        free(s);
        return rc;
    }
    *out = &s->base;
    return RC_OK;
}
