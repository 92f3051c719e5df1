#include "engine/model/gguf_write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

#define HEADER_BYTES_MAX ((size_t)1 << 30)
#define ALIGNMENT        32u

struct gguf_writer {
    struct strbuf keys, table; /* encoded metadata and tensor table */
    uint64_t n_keys, n_tensors;
    uint64_t *bytes; /* owned; of each tensor */
    uint64_t data_end;
    FILE *file; /* NULL before gguf_write_open() and after gguf_write_finish() */
    char *path, *part;
    uint64_t current, written; /* tensor being written, and its bytes so far */
};

struct gguf_writer *gguf_writer_new(void)
{
    struct gguf_writer *w = spw_calloc(1, sizeof *w);
    strbuf_init(&w->keys, HEADER_BYTES_MAX);
    strbuf_init(&w->table, HEADER_BYTES_MAX);
    return w;
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->file) {
        fclose(w->file);
        unlink(w->part);
    }
    strbuf_fini(&w->keys);
    strbuf_fini(&w->table);
    free(w->bytes);
    free(w->path);
    free(w->part);
    free(w);
}

/* Callers' vocabularies are bounded far below the maximum. */
static void put(struct strbuf *b, const void *data, size_t n)
{
    enum rc rc = strbuf_append(b, data, n);
    SPW_ASSERT(rc == RC_OK);
}

static void put_str(struct strbuf *b, const char *s, uint64_t n)
{
    put(b, &n, sizeof n);
    put(b, s, (size_t)n);
}

static void put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    put_str(&w->keys, key, strlen(key));
    put(&w->keys, &type, sizeof type);
    w->n_keys++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    put_key(w, key, GGUF_U32);
    put(&w->keys, &v, sizeof v);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
    put_key(w, key, GGUF_F32);
    put(&w->keys, &v, sizeof v);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    uint8_t byte = v;
    put_key(w, key, GGUF_BOOL);
    put(&w->keys, &byte, sizeof byte);
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *v)
{
    put_key(w, key, GGUF_STRING);
    put_str(&w->keys, v, strlen(v));
}

static void put_array(struct gguf_writer *w, const char *key, uint32_t type, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put(&w->keys, &type, sizeof type);
    put(&w->keys, &n, sizeof n);
}

void gguf_put_strs(struct gguf_writer *w, const char *key, const struct gguf_str *v, uint64_t n)
{
    put_array(w, key, GGUF_STRING, n);
    for (uint64_t i = 0; i < n; i++)
        put_str(&w->keys, v[i].s, v[i].n);
}

void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, uint64_t n)
{
    put_array(w, key, GGUF_I32, n);
    put(&w->keys, v, (size_t)n * sizeof *v);
}

static uint64_t align(uint64_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, const struct k_tensor *t)
{
    uint32_t n_dims = 4, type = t->type;
    uint64_t offset = align(w->data_end);
    while (n_dims > 1 && t->ne[n_dims - 1] == 1)
        n_dims--;
    put_str(&w->table, name, strlen(name));
    put(&w->table, &n_dims, sizeof n_dims);
    put(&w->table, t->ne, n_dims * sizeof t->ne[0]);
    put(&w->table, &type, sizeof type);
    put(&w->table, &offset, sizeof offset);
    w->bytes = spw_realloc(w->bytes, (size_t)(w->n_tensors + 1) * sizeof *w->bytes);
    w->bytes[w->n_tensors++] = gguf_tensor_bytes(t);
    w->data_end = offset + gguf_tensor_bytes(t);
}

static enum rc write_bytes(struct gguf_writer *w, const void *data, size_t n, struct error *e)
{
    if (n && fwrite(data, 1, n, w->file) != n)
        return error_set(e, RC_IO, "%s: %s", w->part, strerror(errno));
    return RC_OK;
}

static enum rc pad(struct gguf_writer *w, uint64_t position, struct error *e)
{
    static const uint8_t zeros[ALIGNMENT];
    return write_bytes(w, zeros, (size_t)(align(position) - position), e);
}

enum rc gguf_write_open(struct gguf_writer *w, const char *path, struct error *e)
{
    uint32_t head[2] = {0x46554747u /* "GGUF" */, 3};
    uint64_t counts[2] = {w->n_tensors, w->n_keys};
    w->path = spw_strdup(path);
    w->part = spw_asprintf("%s.part", path);
    w->file = fopen(w->part, "wb");
    if (!w->file)
        return error_set(e, RC_IO, "%s: %s", w->part, strerror(errno));
    enum rc rc = write_bytes(w, head, sizeof head, e);
    if (!rc)
        rc = write_bytes(w, counts, sizeof counts, e);
    if (!rc)
        rc = write_bytes(w, w->keys.data, w->keys.len, e);
    if (!rc)
        rc = write_bytes(w, w->table.data, w->table.len, e);
    if (!rc)
        rc = pad(w, sizeof head + sizeof counts + w->keys.len + w->table.len, e);
    return rc;
}

enum rc gguf_write_data(struct gguf_writer *w, const void *data, size_t bytes, struct error *e)
{
    SPW_ASSERT(w->file && w->current < w->n_tensors && bytes <= w->bytes[w->current] - w->written);
    enum rc rc = write_bytes(w, data, bytes, e);
    w->written += bytes;
    if (rc || w->written < w->bytes[w->current])
        return rc;
    rc = pad(w, w->written, e); /* offsets are aligned, so the tensor's own length decides */
    w->current++;
    w->written = 0;
    return rc;
}

enum rc gguf_write_finish(struct gguf_writer *w, struct error *e)
{
    SPW_ASSERT(w->file && w->current == w->n_tensors);
    FILE *f = w->file;
    w->file = NULL;
    if (fclose(f) != 0 || rename(w->part, w->path) != 0) {
        enum rc rc = error_set(e, RC_IO, "%s: %s", w->path, strerror(errno));
        unlink(w->part);
        return rc;
    }
    return RC_OK;
}
