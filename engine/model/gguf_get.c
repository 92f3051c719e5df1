/* Look-ups in an open GGUF file: typed metadata, arrays, tensors. All of it was checked by gguf_open(). */
#include <inttypes.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/model/gguf_internal.h"

static const char *const type_names[] = {
    [GGUF_U8] = "uint8",   [GGUF_I8] = "int8",       [GGUF_U16] = "uint16",     [GGUF_I16] = "int16",
    [GGUF_U32] = "uint32", [GGUF_I32] = "int32",     [GGUF_F32] = "float32",    [GGUF_BOOL] = "bool",
    [GGUF_U64] = "uint64", [GGUF_STRING] = "string", [GGUF_ARRAY] = "an array", [GGUF_I64] = "int64",
    [GGUF_F64] = "float64"};

static const struct gguf_kv *find(const struct gguf *g, const char *key)
{
    uint64_t i = gguf_name_find(g->kv_names, g->n_kv, (struct gguf_str){.s = key, .n = strlen(key)});
    return i < g->n_kv ? &g->kv[i] : NULL;
}

static enum rc wrong_type(const struct gguf_kv *kv, const char *want, struct error *e)
{
    return error_set(e, RC_INVALID, "key %.*s: is %s, not %s", (int)kv->key.n, kv->key.s, type_names[kv->type], want);
}

static bool is_signed(enum gguf_value_type t)
{
    return t == GGUF_I8 || t == GGUF_I16 || t == GGUF_I32 || t == GGUF_I64;
}
static bool is_unsigned(enum gguf_value_type t)
{
    return t == GGUF_U8 || t == GGUF_U16 || t == GGUF_U32 || t == GGUF_U64;
}

enum rc gguf_get_u64(const struct gguf *g, const char *key, uint64_t *v, struct error *e)
{
    const struct gguf_kv *kv = find(g, key);
    if (!kv)
        return RC_NOT_FOUND;
    if (is_signed(kv->type) && kv->i < 0)
        return error_set(e, RC_INVALID, "key %s: is %" PRId64 ", not 0 or more", key, kv->i);
    if (!is_signed(kv->type) && !is_unsigned(kv->type))
        return wrong_type(kv, "an integer", e);
    *v = kv->u; /* a non-negative int64 reads the same */
    return RC_OK;
}

enum rc gguf_get_f64(const struct gguf *g, const char *key, double *v, struct error *e)
{
    const struct gguf_kv *kv = find(g, key);
    if (!kv)
        return RC_NOT_FOUND;
    if (kv->type == GGUF_F32 || kv->type == GGUF_F64)
        *v = kv->f;
    else if (is_signed(kv->type))
        *v = (double)kv->i;
    else if (is_unsigned(kv->type))
        *v = (double)kv->u;
    else
        return wrong_type(kv, "a number", e);
    return RC_OK;
}

enum rc gguf_get_bool(const struct gguf *g, const char *key, bool *v, struct error *e)
{
    const struct gguf_kv *kv = find(g, key);
    if (!kv)
        return RC_NOT_FOUND;
    if (kv->type != GGUF_BOOL)
        return wrong_type(kv, "a bool", e);
    *v = kv->u != 0;
    return RC_OK;
}

enum rc gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *v, struct error *e)
{
    const struct gguf_kv *kv = find(g, key);
    if (!kv)
        return RC_NOT_FOUND;
    if (kv->type != GGUF_STRING)
        return wrong_type(kv, "a string", e);
    *v = kv->str;
    return RC_OK;
}

enum rc gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *a, struct error *e)
{
    const struct gguf_kv *kv = find(g, key);
    if (!kv)
        return RC_NOT_FOUND;
    if (kv->type != GGUF_ARRAY)
        return wrong_type(kv, "an array", e);
    *a = kv->array;
    return RC_OK;
}

static const void *element(const struct gguf_array *a, uint64_t i)
{
    SPW_ASSERT(i < a->n && a->data);
    return a->data + i * gguf_value_bytes(a->type);
}

#define LOAD(type_, p, v)                                                                                              \
    do {                                                                                                               \
        type_ x_;                                                                                                      \
        memcpy(&x_, (p), sizeof x_);                                                                                   \
        (v) = x_;                                                                                                      \
    } while (0)

int64_t gguf_array_i64(const struct gguf_array *a, uint64_t i)
{
    const void *p = element(a, i);
    int64_t v = 0;
    switch (a->type) {
    case GGUF_U8:
    case GGUF_BOOL: LOAD(uint8_t, p, v); break;
    case GGUF_I8:
        LOAD(uint8_t, p, v);
        v = v < 128 ? v : v - 256;
        break;
    case GGUF_U16: LOAD(uint16_t, p, v); break;
    case GGUF_I16: LOAD(int16_t, p, v); break;
    case GGUF_U32: LOAD(uint32_t, p, v); break;
    case GGUF_I32: LOAD(int32_t, p, v); break;
    case GGUF_U64:
    case GGUF_I64: LOAD(int64_t, p, v); break; /* past INT64_MAX comes out negative: callers check ranges */
    case GGUF_F32:
    case GGUF_F64:
    case GGUF_STRING:
    case GGUF_ARRAY: SPW_ASSERT(false); break;
    }
    return v;
}

double gguf_array_f64(const struct gguf_array *a, uint64_t i)
{
    double v = 0;
    if (a->type == GGUF_F32)
        LOAD(float, element(a, i), v);
    else if (a->type == GGUF_F64)
        LOAD(double, element(a, i), v);
    else
        v = (double)gguf_array_i64(a, i);
    return v;
}

uint64_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct k_tensor *gguf_tensor(const struct gguf *g, uint64_t i, struct gguf_str *name)
{
    SPW_ASSERT(i < g->n_tensors);
    if (name)
        *name = g->tensors[i].name;
    return &g->tensors[i].t;
}

const struct k_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    uint64_t i = gguf_name_find(g->tensor_names, g->n_tensors, (struct gguf_str){.s = name, .n = strlen(name)});
    return i < g->n_tensors ? &g->tensors[i].t : NULL;
}

uint64_t gguf_n_keys(const struct gguf *g)
{
    return g->n_kv;
}

struct gguf_str gguf_key(const struct gguf *g, uint64_t i, enum gguf_value_type *type)
{
    SPW_ASSERT(i < g->n_kv);
    if (type)
        *type = g->kv[i].type;
    return g->kv[i].key;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t n = 0;
    for (uint32_t f = 0; f < g->n_files; f++)
        n += g->files[f].bytes;
    return n;
}

uint32_t gguf_n_files(const struct gguf *g)
{
    return g->n_files;
}

const uint8_t *gguf_header(const struct gguf *g, uint32_t file, size_t *bytes)
{
    SPW_ASSERT(file < g->n_files);
    *bytes = g->files[file].header_bytes;
    return g->files[file].data;
}
