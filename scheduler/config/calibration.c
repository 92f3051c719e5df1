/* How fast each node is, by the record that `spillway nodes calibrate` wrote of it or of its type. A record that the
 * file names must be good; the one that lies in the state folder was nobody's wish in particular: what is wrong with it
 * is said, and the node counts as not calibrated. */
#include <string.h>
#include <time.h>

#include "scheduler/calibrate/record.h"
#include "scheduler/config/config_internal.h"

static bool of_its_model(const struct config_node *n, const struct calibration *r)
{
    return !r->model[0] || (n->upstream_model && strcmp(n->upstream_model, r->model) == 0) ||
           config_node_serves(n, r->model);
}

static const char *why_text(struct config_loader *l, const char *text)
{
    const char *kept = config_strdup(l, text);
    return kept ? kept : "the configuration is too large";
}

/* A record that speaks of another model says nothing of this one. */
static void take(struct config_loader *l, struct config_node *n, const char *path, const struct calibration *r)
{
    struct calibration *kept;
    char why[512];
    if (!of_its_model(n, r)) {
        snprintf(why, sizeof why, "%.200s is of model \"%.80s\", which this node does not serve; it is not used", path,
                 r->model);
        n->calibration_why = why_text(l, why);
    } else if (!(kept = arena_alloc(l->c->arena, sizeof *kept))) {
        n->calibration_why = "the configuration is too large";
    } else {
        *kept = *r;
        n->calibrated = kept;
    }
}

static void read_record(struct config_loader *l, struct config_node *n)
{
    struct calibration r;
    int line;
    struct error e;
    char key[128];
    const char *path = n->calibration;
    if (!path && n->name && l->c->state_dir)
        path = arena_printf(l->c->arena, "%s/calibration/%s.json", l->c->state_dir, n->name);
    if (!path)
        return;
    enum rc rc = calibration_load(&r, path, &e);
    if (rc == RC_OK) {
        take(l, n, path, &r);
    } else if (n->calibration) {
        config_server_key(l->c, n, "calibration", key, sizeof key, &line);
        config_problem(l, line, key, "%s; `spillway nodes calibrate` writes such a record", e.message);
    } else if (rc != RC_NOT_FOUND) {
        n->calibration_why = why_text(l, e.message);
    }
}

void config_check_calibrations(struct config_loader *l)
{
    for (int i = 0; i < l->c->n_nodes; i++)
        read_record(l, &l->c->nodes[i]);
    for (int i = 0; i < l->c->n_pools; i++)
        read_record(l, &l->c->pools[i].node);
}

void config_warn_calibrations(const struct config *c, struct strbuf *out, int *n)
{
    const int64_t now_s = (int64_t)time(NULL);
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *node = config_server(c, i);
        char key[128];
        int line;
        config_server_key(c, node, "calibration", key, sizeof key, &line);
        if (node->calibration_why)
            config_warn(c, out, n, line, "%s: %s", key, node->calibration_why);
        else if (node->calibrated && calibration_stale(node->calibrated, now_s))
            config_warn(c, out, n, line,
                        "%s: measured %s, more than %d days ago; `spillway nodes calibrate %s` measures again", key,
                        node->calibrated->measured_at[0] ? node->calibrated->measured_at : "at an unknown time",
                        CALIBRATION_STALE_DAYS, node->name);
    }
}
