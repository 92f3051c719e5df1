/* synth: write a model of random weights in a true shape, or in one described by a JSON file. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/cli/cli.h"
#include "engine/model/synth.h"

#define SHAPE_BYTES_MAX ((size_t)1 << 20)
#define REALS_MAX       5

static const char *const type_names[] = {[SYNTH_F32] = "F32",      [SYNTH_F16] = "F16",   [SYNTH_BF16] = "BF16",
                                         [SYNTH_Q8_0] = "Q8_0",    [SYNTH_Q4_0] = "Q4_0", [SYNTH_Q4_K_M] = "Q4_K_M",
                                         [SYNTH_Q4_K_M + 1] = NULL};

/* The real numbers of a shape file; the integers are in synth_fields. */
struct real {
    const char *name;
    double *v;
    double hi;
};

static bool known_key(const char *key, const struct real *reals)
{
    bool known = strcmp(key, "arch") == 0 || strcmp(key, "name") == 0;
    for (int i = 0; i < synth_n_fields && !known; i++)
        known = strcmp(key, synth_fields[i].name) == 0;
    for (int i = 0; i < REALS_MAX && !known; i++)
        known = strcmp(key, reals[i].name) == 0;
    return known;
}

static enum rc check_keys(const cJSON *root, const struct real *reals, struct error *e)
{
    const char *names[64] = {"arch", "name"};
    int n = 2;
    for (int i = 0; i < synth_n_fields; i++)
        names[n++] = synth_fields[i].name;
    for (int i = 0; i < REALS_MAX; i++)
        names[n++] = reals[i].name;
    const cJSON *item;
    cJSON_ArrayForEach(item, root)
    {
        if (known_key(item->string, reals))
            continue;
        const char *nearest = text_nearest(item->string, names, n);
        if (nearest)
            return error_set(e, RC_INVALID, "unknown key \"%.64s\"; did you mean \"%s\"?", item->string, nearest);
        return error_set(e, RC_INVALID, "unknown key \"%.64s\"", item->string);
    }
    return RC_OK;
}

/* Strings of the shape stay borrowed from the tree. */
static enum rc shape_from_json(const cJSON *root, struct synth_shape *s, struct error *e)
{
    const struct real reals[REALS_MAX] = {{"rope_base", &s->rope_base, 1e12},
                                          {"eps", &s->eps, 0.1},
                                          {"weights_scale", &s->weights_scale, 1e6},
                                          {"yarn_factor", &s->yarn_factor, 1e6},
                                          {"yarn_mscale", &s->yarn_mscale, 100}};
    enum rc rc = check_keys(root, reals, e);
    if (!rc)
        rc = json_get_string(root, "arch", &s->arch, NULL, e);
    if (!rc)
        rc = json_get_string(root, "name", &s->name, NULL, e);
    for (int i = 0; i < synth_n_fields && !rc; i++)
        rc = json_get_int(root, synth_fields[i].name, 0, synth_fields[i].hi,
                          (int64_t *)(void *)((char *)s + synth_fields[i].offset), NULL, e);
    for (int i = 0; i < REALS_MAX && !rc; i++)
        rc = json_get_double(root, reals[i].name, 0, reals[i].hi, reals[i].v, NULL, e);
    return rc;
}

/* *root: the tree that the shape's strings live in, or NULL. */
static enum rc load_shape(const char *name, struct synth_shape *s, cJSON **root, struct error *e)
{
    struct strbuf text;
    size_t n = strlen(name);
    if (n < 5 || strcmp(name + n - 5, ".json") != 0) {
        const struct synth_shape *known = synth_shape_find(name);
        const char *names[16];
        int n_names = 0;
        for (; n_names < 16 && synth_shape_at(n_names); n_names++)
            names[n_names] = synth_shape_at(n_names)->name;
        const char *nearest = text_nearest(name, names, n_names);
        if (!known)
            return error_set(e, RC_INVALID, "--shape: \"%.64s\" is neither a known shape nor a .json file%s%s", name,
                             nearest ? "; did you mean " : "; see --help", nearest ? nearest : "");
        *s = *known;
        return RC_OK;
    }
    enum rc rc = file_read(&text, name, SHAPE_BYTES_MAX, e);
    if (!rc)
        rc = json_parse(text.data, text.len, 8, root, e);
    if (!rc)
        rc = shape_from_json(*root, s, e);
    if (rc == RC_INVALID)
        error_prefix(e, "%s", name);
    strbuf_fini(&text);
    return rc;
}

int cmd_synth(int argc, char **argv)
{
    const char *shape = NULL, *type = "Q8_0", *out = NULL;
    int64_t layers = 0, seed = 1;
    /* clang-format off */
    const struct arg_option options[] = {
        {.name = "shape", .type = ARG_STRING, .value = &shape, .meta = "SHAPE", .help = "qwen2-1.5b, qwen2-7b, llama-8b, deepseek-v2-lite, deepseek-v3, or a .json file", .required = true},
        {.name = "layers", .type = ARG_INT, .value = &layers, .meta = "N", .lo = 0, .hi = 1024, .help = "only so many layers; 0: all"},
        {.name = "type", .type = ARG_STRING, .value = &type, .meta = "TYPE", .help = "type of the weights", .choices = type_names},
        {.name = "seed", .type = ARG_INT, .value = &seed, .meta = "N", .lo = 0, .hi = INT64_MAX, .help = "the same seed gives the same file"},
        {.name = "out", .letter = 'o', .type = ARG_STRING, .value = &out, .meta = "FILE", .help = "where the model goes", .required = true},
    };
    /* clang-format on */
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "synth",
                                  .summary = "write a model of random weights in a true shape",
                                  .example = "spillway-engine synth --shape qwen2-1.5b --type Q8_0 --out q.gguf",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    struct error e = {0};
    struct synth_shape s = {0};
    cJSON *root = NULL;
    int code, t = 0;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    while (strcmp(type_names[t], type) != 0)
        t++;
    enum rc rc = load_shape(shape, &s, &root, &e);
    if (!rc && layers > 0)
        s.n_layer = layers;
    if (!rc)
        rc = synth_write(&s, (enum synth_type)t, (uint64_t)seed, out, &e);
    cJSON_Delete(root);
    return rc ? cli_fail("synth", &e) : ARGS_EXIT_OK;
}
