/* The catalogue of `spillway plan`. Facts and where they are from:
 *  - Models: the shapes their publishers' config.json state; parameters from the model cards.
 *  - API prices: public price lists as of pydantic/genai-prices 47df840 (dollars per million tokens).
 *  - Cloud prices: us-east, whole instance, from the AWS rows of skypilot-catalog v8 (late 2025); spot is the
 *  median over
 *    zones in the list, per GPU times GPUs.
 *  - GPU memory, bandwidth and dense FLOPs: NVIDIA's data sheets.
 *  - Watts: busy from ML.ENERGY v3 (about 690 W per H100 and 960 W per B200 at batch 256), measured A100 and L40S
 *  class
 *    cards, or TDP; host and idle watts (60 to 110 per GPU) are our estimates.
 *  - Purchase prices are estimates: whoever buys has better ones, and gives them in a file.
 *  - Curves: the line through ML.ENERGY v3's median inter-token latency, lm-arena-chat, batch 8 to 256 (least
 *  squares of
 *    relative errors; 2 to 6% off, DeepSeek 16%, 30B-A3B 11%). */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/yaml.h"
#include "scheduler/cli/plan.h"

/* --- built in -------------------------------------------------------------------------------------------------- */

#define DENSE(b, l, h, d)                                                                                              \
    {                                                                                                                  \
        .params = (b)*1e9, .active_params = (b)*1e9, .bits_per_weight = 16, .layers = (l), .kv_heads = (h),            \
        .head_dim = (d), .kv_bits = 16                                                                                 \
    }
#define MOE(b, a, w, l, h, d)                                                                                          \
    {                                                                                                                  \
        .params = (b)*1e9, .active_params = (a)*1e9, .bits_per_weight = (w), .layers = (l), .kv_heads = (h),           \
        .head_dim = (d), .kv_bits = 16                                                                                 \
    }
#define MLA(b, a, w, l)                                                                                                \
    {                                                                                                                  \
        .params = (b)*1e9, .active_params = (a)*1e9, .bits_per_weight = (w), .layers = (l), .kv_latent = 576,          \
        .kv_bits = 16                                                                                                  \
    }
#define PER_MTOK(in, cached, out)                                                                                      \
    {                                                                                                                  \
        {(int64_t)((in)*1e6 + 0.5)}, {(int64_t)((cached)*1e6 + 0.5)},                                                  \
        {                                                                                                              \
            (int64_t)((out)*1e6 + 0.5)                                                                                 \
        }                                                                                                              \
    }

static const struct plan_model models[] = {
    {"llama-3.1-8b", DENSE(8.03, 32, 8, 128), "groq", PER_MTOK(0.05, 0.05, 0.08)},
    {"llama-3.3-70b", DENSE(70.55, 80, 8, 128), "groq", PER_MTOK(0.59, 0.59, 0.79)},
    {"llama-3.1-405b", MOE(405.85, 405.85, 8, 126, 8, 128), "together", PER_MTOK(3.5, 3.5, 3.5)},
    {"qwen2.5-7b", DENSE(7.62, 28, 4, 128), "", PER_MTOK(0, 0, 0)},
    {"qwen3-8b", DENSE(8.19, 36, 8, 128), "", PER_MTOK(0, 0, 0)},
    {"qwen3-14b", DENSE(14.77, 40, 8, 128), "", PER_MTOK(0, 0, 0)},
    {"qwen3-32b", DENSE(32.76, 64, 8, 128), "groq", PER_MTOK(0.29, 0.29, 0.59)},
    {"qwen3-30b-a3b", MOE(30.53, 3.35, 16, 48, 4, 128), "", PER_MTOK(0, 0, 0)},
    {"qwen3-235b-a22b", MOE(235.1, 22.2, 8, 94, 4, 128), "fireworks", PER_MTOK(0.22, 0.22, 0.88)},
    {"deepseek-r1-distill-qwen-1.5b", DENSE(1.78, 28, 2, 128), "openrouter", PER_MTOK(0.18, 0.18, 0.18)},
    {"deepseek-r1-distill-qwen-7b", DENSE(7.62, 28, 4, 128), "nscale", PER_MTOK(0.15, 0.15, 0.15)},
    {"deepseek-r1-distill-llama-8b", DENSE(8.03, 32, 8, 128), "novita", PER_MTOK(0.04, 0.04, 0.04)},
    {"deepseek-r1-distill-qwen-14b", DENSE(14.77, 48, 8, 128), "novita", PER_MTOK(0.15, 0.15, 0.15)},
    {"deepseek-r1-distill-qwen-32b", DENSE(32.76, 64, 8, 128), "novita", PER_MTOK(0.3, 0.3, 0.3)},
    {"deepseek-r1-distill-llama-70b", DENSE(70.55, 80, 8, 128), "novita", PER_MTOK(0.8, 0.8, 0.8)},
    {"deepseek-v2-lite", MLA(15.7, 2.4, 16, 27), "", PER_MTOK(0, 0, 0)},
    {"deepseek-v3", MLA(671, 37, 8, 61), "deepseek", PER_MTOK(0.27, 0.13, 0.95)},
    {"deepseek-r1", MLA(671, 37, 8, 61), "deepseek", PER_MTOK(0.55, 0.14, 2.19)},
};

#define DOLLARS(d)                                                                                                     \
    {                                                                                                                  \
        (int64_t)((d)*1e6 + 0.5) * 1000000                                                                             \
    }
#define GPU(gb, gbs, tf, tf8)                                                                                          \
    .gpu_memory_bytes = (gb)*1e9, .bandwidth_bytes_s = (gbs)*1e9, .flops = (tf)*1e12, .flops_fp8 = (tf8)*1e12

static const struct plan_node nodes[] = {
    {"g6.xlarge", "L4", 1, GPU(24, 300, 121, 242), 150, 60, DOLLARS(6000), DOLLARS(0.39), DOLLARS(0.8048)},
    {"g5.xlarge", "A10G", 1, GPU(24, 600, 70, 0), 250, 70, DOLLARS(0), DOLLARS(0.436), DOLLARS(1.006)},
    {"g6e.xlarge", "L40S", 1, GPU(48, 864, 362, 733), 450, 110, DOLLARS(14000), DOLLARS(0.88), DOLLARS(1.861)},
    {"g6e.12xlarge", "L40S", 4, GPU(48, 864, 362, 733), 1700, 400, DOLLARS(48000), DOLLARS(3.732), DOLLARS(10.49264)},
    {"p4de.24xlarge", "A100-80", 8, GPU(80, 2039, 312, 0), 4200, 1080, DOLLARS(160000), DOLLARS(10.336),
     DOLLARS(27.44705)},
    {"p5.48xlarge", "H100", 8, GPU(80, 3350, 989, 1979), 6500, 1320, DOLLARS(280000), DOLLARS(16.976), DOLLARS(55.04)},
    {"p5en.48xlarge", "H200", 8, GPU(141, 4800, 989, 1979), 6600, 1320, DOLLARS(320000), DOLLARS(16.4),
     DOLLARS(63.296)},
    {"p6-b200.48xlarge", "B200", 8, GPU(180, 8000, 2250, 4500), 8900, 1580, DOLLARS(460000), DOLLARS(22.144),
     DOLLARS(113.9328)},
};

#define LINE(base_ms, seq_ms)                                                                                          \
    {                                                                                                                  \
        .decode_us_base = (base_ms)*1e3, .decode_us_per_seq = (seq_ms)*1e3                                             \
    }

static const struct plan_curve curves[] = {
    {"llama-3.1-8b", "H100", 1, LINE(6.7, 0.0758)},
    {"deepseek-r1-distill-llama-8b", "H100", 1, LINE(6.7, 0.0758)},
    {"llama-3.3-70b", "H100", 4, LINE(16.4, 0.0901)},
    {"llama-3.3-70b", "B200", 2, LINE(15.9, 0.0848)},
    {"deepseek-r1-distill-llama-70b", "H100", 4, LINE(16.4, 0.0901)},
    {"deepseek-r1-distill-llama-70b", "B200", 2, LINE(15.9, 0.0848)},
    {"llama-3.1-405b", "H100", 8, LINE(31.5, 0.1407)},
    {"llama-3.1-405b", "B200", 4, LINE(29.0, 0.1353)},
    {"qwen3-8b", "H100", 1, LINE(7.5, 0.0992)},
    {"qwen3-14b", "H100", 1, LINE(11.7, 0.1116)},
    {"qwen3-32b", "H100", 2, LINE(14.2, 0.1204)},
    {"qwen3-32b", "B200", 1, LINE(13.6, 0.0888)},
    {"deepseek-r1-distill-qwen-32b", "H100", 2, LINE(14.2, 0.1204)},
    {"deepseek-r1-distill-qwen-32b", "B200", 1, LINE(13.6, 0.0888)},
    {"qwen3-30b-a3b", "H100", 1, LINE(12.1, 0.2534)},
    {"qwen3-235b-a22b", "H100", 4, LINE(36.2, 0.1415)},
    {"qwen3-235b-a22b", "H100", 8, LINE(25.1, 0.1275)},
    {"deepseek-v3", "B200", 8, LINE(18.3, 0.1410)},
    {"deepseek-r1", "B200", 8, LINE(18.3, 0.1410)},
};
#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

void plan_catalogue_builtin(struct plan_catalogue *c)
{
    memset(c, 0, sizeof(*c));
    memcpy(c->models, models, sizeof(models));
    memcpy(c->nodes, nodes, sizeof(nodes));
    memcpy(c->curves, curves, sizeof(curves));
    c->n_models = COUNT(models);
    c->n_nodes = COUNT(nodes);
    c->n_curves = COUNT(curves);
}

const struct plan_model *plan_find_model(const struct plan_catalogue *c, const char *name)
{
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, name) == 0)
            return &c->models[i];
    return NULL;
}

/* --- a file ---------------------------------------------------------------------------------------------------- */

enum field_kind { FIELD_NAME, FIELD_NUMBER, FIELD_COUNT, FIELD_DOLLARS, FIELD_PRICE };
struct field {
    const char *key;
    enum field_kind kind;
    size_t offset;
    double scale, lo, hi; /* numbers: as written */
    bool required;
};
#define AT(type, member) offsetof(struct type, member)

static const struct field model_fields[] = {
    {"name", FIELD_NAME, AT(plan_model, name), 0, 0, 0, true},
    {"params_b", FIELD_NUMBER, AT(plan_model, shape.params), 1e9, 0.001, 100000, true},
    {"active_b", FIELD_NUMBER, AT(plan_model, shape.active_params), 1e9, 0.001, 100000, false},
    {"weight_bits", FIELD_NUMBER, AT(plan_model, shape.bits_per_weight), 1, 1, 32, false},
    {"kv_bits", FIELD_NUMBER, AT(plan_model, shape.kv_bits), 1, 1, 32, false},
    {"layers", FIELD_COUNT, AT(plan_model, shape.layers), 1, 1, 10000, true},
    {"kv_heads", FIELD_COUNT, AT(plan_model, shape.kv_heads), 1, 1, 10000, false},
    {"head_dim", FIELD_COUNT, AT(plan_model, shape.head_dim), 1, 1, 100000, false},
    {"kv_latent", FIELD_COUNT, AT(plan_model, shape.kv_latent), 1, 1, 1000000, false},
    {"api", FIELD_NAME, AT(plan_model, api), 0, 0, 0, false},
    {"api_input", FIELD_PRICE, AT(plan_model, api_prices.input), 0, 0, 0, false},
    {"api_cached_input", FIELD_PRICE, AT(plan_model, api_prices.cached_input), 0, 0, 0, false},
    {"api_output", FIELD_PRICE, AT(plan_model, api_prices.output), 0, 0, 0, false},
};
static const struct field node_fields[] = {
    {"name", FIELD_NAME, AT(plan_node, name), 0, 0, 0, true},
    {"gpu", FIELD_NAME, AT(plan_node, gpu), 0, 0, 0, true},
    {"gpus", FIELD_COUNT, AT(plan_node, gpus), 1, 1, 64, true},
    {"gpu_memory_gb", FIELD_NUMBER, AT(plan_node, gpu_memory_bytes), 1e9, 0.1, 100000, true},
    {"bandwidth_gb_s", FIELD_NUMBER, AT(plan_node, bandwidth_bytes_s), 1e9, 1, 1e6, true},
    {"tflops", FIELD_NUMBER, AT(plan_node, flops), 1e12, 0.1, 1e6, true},
    {"tflops_fp8", FIELD_NUMBER, AT(plan_node, flops_fp8), 1e12, 0, 1e6, false},
    {"watts_busy", FIELD_NUMBER, AT(plan_node, watts_busy), 1, 0, 1e6, false},
    {"watts_idle", FIELD_NUMBER, AT(plan_node, watts_idle), 1, 0, 1e6, false},
    {"purchase", FIELD_DOLLARS, AT(plan_node, purchase), 0, 0, 0, false},
    {"spot_hour", FIELD_DOLLARS, AT(plan_node, spot_hour), 0, 0, 0, false},
    {"on_demand_hour", FIELD_DOLLARS, AT(plan_node, on_demand_hour), 0, 0, 0, false},
};
static const struct field curve_fields[] = {
    {"model", FIELD_NAME, AT(plan_curve, model), 0, 0, 0, true},
    {"gpu", FIELD_NAME, AT(plan_curve, gpu), 0, 0, 0, true},
    {"gpus", FIELD_COUNT, AT(plan_curve, gpus), 1, 1, 64, true},
    {"base_ms", FIELD_NUMBER, AT(plan_curve, curve.base_us), 1e3, 0, 1e6, false},
    {"prefill_us_per_token", FIELD_NUMBER, AT(plan_curve, curve.prefill_us_per_tok), 1, 0, 1e6, false},
    {"decode_ms", FIELD_NUMBER, AT(plan_curve, curve.decode_us_base), 1e3, 0.001, 1e6, true},
    {"decode_ms_per_sequence", FIELD_NUMBER, AT(plan_curve, curve.decode_us_per_seq), 1e3, 0, 1e6, true},
};

static enum rc set_field(void *row, const struct field *f, const struct yaml_node *v, const char *path, struct error *e)
{
    char *at = (char *)row + f->offset, *end;
    struct pusd *amount = (struct pusd *)at;
    enum rc rc = RC_OK;

    if (v->kind != YAML_KIND_SCALAR)
        return error_set(e, RC_INVALID, "%s:%d: %s: one value is wanted", path, v->line, f->key);
    switch (f->kind) {
    case FIELD_NAME:
        if (!v->scalar[0] || strlen(v->scalar) >= PLAN_NAME)
            return error_set(e, RC_INVALID, "%s:%d: %s: 1 to %d characters", path, v->line, f->key, PLAN_NAME - 1);
        memcpy(at, v->scalar, strlen(v->scalar) + 1);
        return RC_OK;
    case FIELD_DOLLARS: rc = pusd_parse(v->scalar, amount, e); break;
    case FIELD_PRICE: rc = price_parse(v->scalar, (struct price *)at, e); break;
    case FIELD_NUMBER:
    case FIELD_COUNT: {
        double x = strtod(v->scalar, &end);
        bool whole = f->kind == FIELD_NUMBER || x == (double)(int)(x < 2e9 && x > -2e9 ? x : 0);
        if (end == v->scalar || *end || !(x >= f->lo && x <= f->hi) || !whole)
            return error_set(e, RC_INVALID, "%s:%d: %s: \"%.40s\" is no %snumber from %g to %g", path, v->line, f->key,
                             v->scalar, f->kind == FIELD_COUNT ? "whole " : "", f->lo, f->hi);
        if (f->kind == FIELD_COUNT)
            *(int *)at = (int)x;
        else
            *(double *)at = x * f->scale;
        return RC_OK;
    }
    }
    return rc == RC_OK ? rc : error_prefix(e, "%s:%d: %s", path, v->line, f->key);
}

static enum rc read_row(void *row, const struct field *fields, int n, const struct yaml_node *map, const char *path,
                        struct error *e)
{
    const char *names[16];

    if (map->kind != YAML_KIND_MAP)
        return error_set(e, RC_INVALID, "%s:%d: a map of %s: ... is wanted", path, map->line, fields[0].key);
    for (int i = 0; i < n; i++)
        names[i] = fields[i].key;
    for (int k = 0; k < map->n_items; k++) {
        int i = 0;
        while (i < n && strcmp(fields[i].key, map->keys[k]) != 0)
            i++;
        if (i == n) {
            const char *near = text_nearest(map->keys[k], names, n);
            return error_set(e, RC_INVALID, "%s:%d: unknown key \"%.40s\"%s%s", path, map->key_lines[k], map->keys[k],
                             near ? "; did you mean " : "", near ? near : "");
        }
        if (set_field(row, &fields[i], map->items[k], path, e) != RC_OK)
            return e->code;
    }
    for (int i = 0; i < n; i++)
        if (fields[i].required && !yaml_get(map, fields[i].key))
            return error_set(e, RC_INVALID, "%s:%d: %s is missing", path, map->line, fields[i].key);
    return RC_OK;
}

static enum rc put_model(struct plan_catalogue *c, const struct yaml_node *map, const char *path, struct error *e)
{
    struct plan_model m = {.shape = {.bits_per_weight = 16, .kv_bits = 16}};
    int i = 0;

    if (read_row(&m, model_fields, COUNT(model_fields), map, path, e) != RC_OK)
        return e->code;
    if (m.shape.active_params <= 0)
        m.shape.active_params = m.shape.params;
    if (m.shape.active_params > m.shape.params)
        return error_set(e, RC_INVALID, "%s:%d: active_b is more than params_b", path, map->line);
    if (m.shape.kv_latent <= 0 && (m.shape.kv_heads <= 0 || m.shape.head_dim <= 0))
        return error_set(e, RC_INVALID, "%s:%d: kv_heads and head_dim, or kv_latent, are missing", path, map->line);
    if (!yaml_get(map, "api_cached_input"))
        m.api_prices.cached_input = m.api_prices.input;
    while (i < c->n_models && strcmp(c->models[i].name, m.name) != 0)
        i++;
    if (i == PLAN_MODELS)
        return error_set(e, RC_FULL, "%s:%d: at most %d models", path, map->line, PLAN_MODELS);
    c->models[i] = m;
    c->n_models += i == c->n_models;
    return RC_OK;
}

static enum rc put_node(struct plan_catalogue *c, const struct yaml_node *map, const char *path, struct error *e)
{
    struct plan_node n = {0};
    int i = 0;

    if (read_row(&n, node_fields, COUNT(node_fields), map, path, e) != RC_OK)
        return e->code;
    while (i < c->n_nodes && strcmp(c->nodes[i].name, n.name) != 0)
        i++;
    if (i == PLAN_NODES)
        return error_set(e, RC_FULL, "%s:%d: at most %d node types", path, map->line, PLAN_NODES);
    c->nodes[i] = n;
    c->n_nodes += i == c->n_nodes;
    return RC_OK;
}

static enum rc put_curve(struct plan_catalogue *c, const struct yaml_node *map, const char *path, struct error *e)
{
    struct plan_curve v = {0};
    int i = 0;

    if (read_row(&v, curve_fields, COUNT(curve_fields), map, path, e) != RC_OK)
        return e->code;
    while (i < c->n_curves && (strcmp(c->curves[i].model, v.model) != 0 || strcmp(c->curves[i].gpu, v.gpu) != 0 ||
                               c->curves[i].gpus != v.gpus))
        i++;
    if (i == PLAN_CURVES)
        return error_set(e, RC_FULL, "%s:%d: at most %d curves", path, map->line, PLAN_CURVES);
    c->curves[i] = v;
    c->n_curves += i == c->n_curves;
    return RC_OK;
}

static enum rc read_catalogue(struct plan_catalogue *c, const struct yaml_node *root, const char *path, struct error *e)
{
    static const struct {
        const char *key;
        enum rc (*put)(struct plan_catalogue *, const struct yaml_node *, const char *, struct error *);
    } lists[] = {{"models", put_model}, {"nodes", put_node}, {"curves", put_curve}};

    if (root->kind != YAML_KIND_MAP)
        return error_set(e, RC_INVALID, "%s: a map of models, nodes and curves is wanted", path);
    for (int k = 0; k < root->n_items; k++) {
        int i = 0;
        const struct yaml_node *list = root->items[k];
        while (i < COUNT(lists) && strcmp(lists[i].key, root->keys[k]) != 0)
            i++;
        if (i == COUNT(lists))
            return error_set(e, RC_INVALID, "%s:%d: unknown key \"%.40s\"; there are models, nodes and curves", path,
                             root->key_lines[k], root->keys[k]);
        if (list->kind != YAML_KIND_LIST)
            return error_set(e, RC_INVALID, "%s:%d: %s: a list is wanted", path, list->line, lists[i].key);
        for (int r = 0; r < list->n_items; r++)
            if (lists[i].put(c, list->items[r], path, e) != RC_OK)
                return e->code;
    }
    return RC_OK;
}

enum rc plan_catalogue_load(struct plan_catalogue *c, const char *path, struct error *e)
{
    struct yaml_doc *doc = NULL;
    enum rc rc = yaml_load(&doc, path, e);

    if (rc == RC_OK)
        rc = read_catalogue(c, yaml_root(doc), path, e);
    yaml_doc_free(doc);
    return rc;
}
