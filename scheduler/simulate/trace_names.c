#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fnv.h"
#include "scheduler/simulate/trace_internal.h"

static uint32_t slot_of(const struct trace_names_table *t, const char *name)
{
    uint32_t slot = (uint32_t)trace_mix(fnv_text(FNV_START, name)) & (t->n_slots - 1);

    while (t->slots[slot] && strcmp(t->names[t->slots[slot] - 1], name) != 0)
        slot = (slot + 1) & (t->n_slots - 1);
    return slot;
}

static void grow(struct trace_names_table *t)
{
    t->n_slots = t->n_slots ? t->n_slots * 2 : 64;
    free(t->slots);
    t->slots = spw_calloc(t->n_slots, sizeof *t->slots);
    t->names = spw_realloc(t->names, sizeof *t->names * (t->n_slots / 2));
    for (uint32_t i = 0; i < t->n; i++)
        t->slots[slot_of(t, t->names[i])] = i + 1;
}

enum rc trace_names_intern(struct trace_names_table *t, const char *name, uint32_t *i, struct error *e)
{
    if (t->n && strcmp(t->names[t->last], name) == 0) { /* mostly the same again */
        *i = t->last;
        return RC_OK;
    }
    if (t->n * 2 >= t->n_slots)
        grow(t);
    uint32_t slot = slot_of(t, name);
    if (!t->slots[slot]) {
        if (t->n == TRACE_NAMES_MAX)
            return error_set(e, RC_FULL,
                             "\"%.80s\" would be the %dth name of a model or team; no more can be told apart", name,
                             TRACE_NAMES_MAX + 1);
        t->names[t->n++] = spw_strdup(name);
        t->slots[slot] = t->n;
    }
    *i = t->last = t->slots[slot] - 1;
    return RC_OK;
}

void trace_names_fini(struct trace_names_table *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->names[i]);
    free(t->names);
    free(t->slots);
    *t = (struct trace_names_table){0};
}
