#include "engine/serve/health.h"

#include "base/json_write.h"

static void write_time(struct json_writer *w, const struct serve_totals *t, const struct node_counts *n)
{
    json_open(w, "spillway_time", '{');
    json_string(w, "life", n->life);
    json_uint(w, "busy_us", (uint64_t)(t->batcher.step_seconds * 1e6 + 0.5));
    json_uint(w, "idle_us", t->batcher.idle_us);
    json_uint(w, "asleep_us", n->asleep_us);
    json_uint(w, "boot_us", n->boot_us);
    if (n->watts_are) {
        json_bool(w, "measured", n->watts_are == 2);
        json_uint(w, "millijoules", (uint64_t)(n->joules * 1e3 + 0.5));
        json_uint(w, "idle_millijoules", (uint64_t)(n->idle_joules * 1e3 + 0.5));
    }
    json_close(w, '}');
}

enum rc health_write(struct strbuf *out, const struct health_view *v)
{
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_string(&w, "status", v->status);
    json_string(&w, "model", v->model_id);
    if (v->reason && *v->reason)
        json_string(&w, "reason", v->reason);
    if (v->totals)
        write_time(&w, v->totals, v->node);
    json_close(&w, '}');
    return json_write_end(&w);
}
