/* Reads GGUF files. Nothing in a file is believed before it is checked:
 *
 *   1. every read goes through a cursor that knows the end of the mapping;
 *   2. a count is compared with the bytes that so many items need at the least before anything is allocated for it;
 *   3. sizes of tensors are computed with overflow checks and compared with the file;
 *   4. names are printable ASCII, so that they can stand in messages and be compared with C strings.
 *
 * One thing cannot be checked: a file that another process truncates while it is mapped raises SIGBUS at the next
 * access, as it does in every program that maps files. */
#include "engine/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/model/gguf_internal.h"

#define KEYS_MAX      65536u
#define TENSORS_MAX   (1u << 20)
#define STRINGS_MAX   (1u << 24) /* strings in one array: vocabularies have some 10^5 */
#define NAME_MAX_LEN  255u
#define SPLITS_MAX    999u
#define READ_PIECE    ((size_t)64 << 20)
#define ALIGNMENT_MAX 65536u

/* Where we read, and what to name when it goes wrong. */
struct cursor {
    const struct gguf_mapping *file;
    size_t pos;
    const char *what; /* "key" or "tensor" while inside one, else NULL */
    struct gguf_str name;
};

static enum rc bad(const struct cursor *c, struct error *e, const char *format, ...) SPW_PRINTF(3, 4);
static enum rc bad(const struct cursor *c, struct error *e, const char *format, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (c->what)
        return error_set(e, RC_INVALID, "%s: byte %zu: %s %.*s: %s", c->file->path, c->pos, c->what, (int)c->name.n,
                         c->name.s, text);
    return error_set(e, RC_INVALID, "%s: byte %zu: %s", c->file->path, c->pos, text);
}

static size_t left(const struct cursor *c)
{
    return c->file->bytes - c->pos;
}

static enum rc read_bytes(struct cursor *c, void *v, size_t n, const char *what, struct error *e)
{
    if (left(c) < n)
        return bad(c, e, "the file ends inside %s", what);
    memcpy(v, c->file->data + c->pos, n); /* GGUF and every machine we run on are little-endian */
    c->pos += n;
    return RC_OK;
}
static enum rc read_u32(struct cursor *c, uint32_t *v, const char *what, struct error *e)
{
    return read_bytes(c, v, sizeof *v, what, e);
}
static enum rc read_u64(struct cursor *c, uint64_t *v, const char *what, struct error *e)
{
    return read_bytes(c, v, sizeof *v, what, e);
}

static enum rc read_str(struct cursor *c, struct gguf_str *s, const char *what, struct error *e)
{
    uint64_t n = 0;
    enum rc rc = read_u64(c, &n, what, e);
    if (rc)
        return rc;
    if (n > left(c))
        return bad(c, e, "%s of %" PRIu64 " bytes, but the file has %zu left", what, n, left(c));
    *s = (struct gguf_str){.s = (const char *)c->file->data + c->pos, .n = (size_t)n};
    c->pos += (size_t)n;
    return RC_OK;
}

/* A key or a tensor's name. */
static enum rc read_name(struct cursor *c, struct gguf_str *s, const char *what, struct error *e)
{
    size_t start = c->pos;
    enum rc rc = read_str(c, s, what, e);
    if (rc)
        return rc;
    bool fine = s->n > 0 && s->n <= NAME_MAX_LEN;
    for (size_t i = 0; fine && i < s->n; i++)
        fine = s->s[i] > 32 && s->s[i] < 127;
    if (!fine) {
        c->pos = start;
        return bad(c, e, "%s is not 1 to %u printable ASCII characters", what, NAME_MAX_LEN);
    }
    return RC_OK;
}

/* ---- metadata ---- */

size_t gguf_value_bytes(enum gguf_value_type type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL: return 1;
    case GGUF_U16:
    case GGUF_I16: return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32: return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64: return 8;
    case GGUF_STRING:
    case GGUF_ARRAY: return 0;
    }
    return 0;
}

static enum rc read_strings(struct cursor *c, struct gguf_kv *kv, struct error *e)
{
    uint64_t n = kv->array.n;
    if (n > left(c) / 8 || n > STRINGS_MAX)
        return bad(c, e, "array of %" PRIu64 " strings, but the file has %zu bytes left (at most %u strings)", n,
                   left(c), STRINGS_MAX);
    kv->strs_owned = spw_calloc(n ? (size_t)n : 1, sizeof *kv->strs_owned);
    kv->array.strs = kv->strs_owned;
    for (uint64_t i = 0; i < n; i++) {
        enum rc rc = read_str(c, &kv->strs_owned[i], "a string of an array", e);
        if (rc)
            return rc;
    }
    return RC_OK;
}

static enum rc read_array(struct cursor *c, struct gguf_kv *kv, struct error *e)
{
    uint32_t type = 0;
    enum rc rc = read_u32(c, &type, "an array's type", e);
    if (!rc)
        rc = read_u64(c, &kv->array.n, "an array's length", e);
    if (rc)
        return rc;
    if (type == GGUF_ARRAY)
        return bad(c, e, "arrays inside arrays are not supported");
    if (type > GGUF_F64)
        return bad(c, e, "element type %u is none of 0 to 12", type);
    kv->array.type = (enum gguf_value_type)type;
    if (type == GGUF_STRING)
        return read_strings(c, kv, e);
    size_t width = gguf_value_bytes(kv->array.type);
    if (kv->array.n > left(c) / width)
        return bad(c, e, "array of %" PRIu64 " elements of %zu bytes, but the file has %zu bytes left", kv->array.n,
                   width, left(c));
    kv->array.data = c->file->data + c->pos;
    c->pos += (size_t)kv->array.n * width;
    return RC_OK;
}

static enum rc read_scalar(struct cursor *c, struct gguf_kv *kv, struct error *e)
{
    union {
        uint8_t u8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } v;
    enum rc rc = read_bytes(c, &v, gguf_value_bytes(kv->type), "a value", e);
    if (rc)
        return rc;
    switch (kv->type) {
    case GGUF_BOOL:
        if (v.u8 > 1)
            return bad(c, e, "a bool is %u, not 0 or 1", v.u8);
        kv->u = v.u8;
        break;
    case GGUF_U8: kv->u = v.u8; break;
    case GGUF_I8: kv->i = v.u8 < 128 ? v.u8 : (int64_t)v.u8 - 256; break;
    case GGUF_U16: kv->u = v.u16; break;
    case GGUF_I16: kv->i = v.i16; break;
    case GGUF_U32: kv->u = v.u32; break;
    case GGUF_I32: kv->i = v.i32; break;
    case GGUF_U64: kv->u = v.u64; break;
    case GGUF_I64: kv->i = v.i64; break;
    case GGUF_F32: kv->f = (double)v.f32; break;
    case GGUF_F64: kv->f = v.f64; break;
    case GGUF_STRING:
    case GGUF_ARRAY: SPW_ASSERT(false); break;
    }
    return RC_OK;
}

static enum rc read_kv(struct cursor *c, struct gguf_kv *kv, struct error *e)
{
    uint32_t type = 0;
    enum rc rc = read_name(c, &kv->key, "a key", e);
    if (rc)
        return rc;
    c->what = "key";
    c->name = kv->key;
    rc = read_u32(c, &type, "a value's type", e);
    if (rc)
        return rc;
    if (type > GGUF_F64)
        return bad(c, e, "value type %u is none of 0 to 12", type);
    kv->type = (enum gguf_value_type)type;
    if (type == GGUF_STRING)
        rc = read_str(c, &kv->str, "a string", e);
    else if (type == GGUF_ARRAY)
        rc = read_array(c, kv, e);
    else
        rc = read_scalar(c, kv, e);
    c->what = NULL;
    return rc;
}

/* ---- sorted names ---- */

int gguf_str_cmp(struct gguf_str a, struct gguf_str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int d = n ? memcmp(a.s, b.s, n) : 0;
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

static int name_cmp(const void *a, const void *b)
{
    return gguf_str_cmp(((const struct gguf_name *)a)->name, ((const struct gguf_name *)b)->name);
}

uint64_t gguf_name_find(const struct gguf_name *names, uint64_t n, struct gguf_str name)
{
    struct gguf_name want = {.name = name};
    const struct gguf_name *hit = n ? bsearch(&want, names, (size_t)n, sizeof *names, name_cmp) : NULL;
    return hit ? hit->index : n;
}

/* Sort in place; a name that stands twice is an error. */
static enum rc sort_names(const struct gguf_mapping *file, struct gguf_name *names, uint64_t n, const char *what,
                          struct error *e)
{
    if (n)
        qsort(names, (size_t)n, sizeof *names, name_cmp);
    for (uint64_t i = 1; i < n; i++) {
        struct gguf_str s = names[i].name;
        if (gguf_str_cmp(names[i - 1].name, s) == 0)
            return error_set(
                e, RC_INVALID, "%s: byte %zu: %s %.*s: stands twice in the model", file->path,
                (size_t)((const uint8_t *)s.s >= file->data && (const uint8_t *)s.s < file->data + file->bytes
                             ? (const uint8_t *)s.s - file->data
                             : 0),
                what, (int)s.n, s.s);
    }
    return RC_OK;
}

/* ---- tensors ---- */

/* Bytes of a tensor whose shape has been checked: cannot overflow. */
uint64_t gguf_tensor_bytes(const struct k_tensor *t)
{
    const struct k_type_info *info = k_type_info(t->type);
    return (uint64_t)(t->ne[0] / info->block_elems) * info->block_bytes * (uint64_t)(t->ne[1] * t->ne[2] * t->ne[3]);
}

static enum rc read_shape(struct cursor *c, struct k_tensor *t, struct error *e)
{
    uint32_t n_dims = 0;
    int64_t total = 1;
    enum rc rc = read_u32(c, &n_dims, "a number of dimensions", e);
    if (rc)
        return rc;
    if (n_dims < 1 || n_dims > 4)
        return bad(c, e, "%u dimensions, not 1 to 4", n_dims);
    for (uint32_t d = 0; d < 4; d++) {
        uint64_t v = 1;
        if (d < n_dims)
            rc = read_u64(c, &v, "a dimension", e);
        if (rc)
            return rc;
        /* 2^56 elements are more than any file holds, and leave room for up to 64 bits each below. */
        if (v < 1 || v > INT64_MAX || __builtin_mul_overflow(total, (int64_t)v, &total) || total > INT64_C(1) << 56)
            return bad(c, e, "dimension %u is %" PRIu64 ": not 1 or more, or the tensor is larger than any file", d, v);
        t->ne[d] = (int64_t)v;
    }
    return RC_OK;
}

static enum rc read_type(struct cursor *c, struct k_tensor *t, struct error *e)
{
    uint32_t type = 0;
    enum rc rc = read_u32(c, &type, "a tensor's type", e);
    if (rc)
        return rc;
    const struct k_type_info *info = k_type_info(type);
    if (!info || !info->name || info->block_elems == 0 || type >= K_TYPE_COUNT)
        return bad(c, e, "type %u is not known", type);
    if (t->ne[0] % info->block_elems)
        return bad(c, e, "rows of %" PRId64 " elements are not a multiple of the %u in a block of %s", t->ne[0],
                   info->block_elems, info->name);
    t->type = (enum k_type)type;
    return RC_OK;
}

/* The tensor's data field holds its offset until the place of the data section is known. */
static enum rc read_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset, uint64_t alignment,
                           struct error *e)
{
    enum rc rc = read_name(c, &t->name, "a tensor's name", e);
    if (rc)
        return rc;
    c->what = "tensor";
    c->name = t->name;
    rc = read_shape(c, &t->t, e);
    if (!rc)
        rc = read_type(c, &t->t, e);
    if (!rc)
        rc = read_u64(c, offset, "an offset", e);
    if (!rc && *offset % alignment)
        rc = bad(c, e, "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64, *offset, alignment);
    c->what = NULL;
    return rc;
}

static enum rc read_tensors(struct gguf *g, struct cursor *c, uint64_t n, uint64_t alignment, struct error *e)
{
    /* 33 bytes at the least: name of 1, one dimension, type, offset. */
    if (n > left(c) / 33 || n > TENSORS_MAX - g->n_tensors)
        return bad(c, e, "%" PRIu64 " tensors, but the file has %zu bytes left (at most %u tensors)", n, left(c),
                   TENSORS_MAX);
    uint64_t first = g->n_tensors;
    uint64_t *offsets = spw_calloc(n ? (size_t)n : 1, sizeof *offsets);
    g->tensors = spw_realloc(g->tensors, (size_t)(first + n + 1) * sizeof *g->tensors);
    memset(g->tensors + first, 0, (size_t)n * sizeof *g->tensors);
    enum rc rc = RC_OK;
    for (uint64_t i = 0; i < n && !rc; i++)
        rc = read_tensor(c, &g->tensors[first + i], &offsets[i], alignment, e);
    uint64_t data = (c->pos + alignment - 1) / alignment * alignment;
    c->what = "tensor";
    for (uint64_t i = 0; i < n && !rc; i++) {
        struct gguf_tensor *t = &g->tensors[first + i];
        uint64_t bytes = gguf_tensor_bytes(&t->t);
        c->name = t->name;
        if (data > c->file->bytes || offsets[i] > c->file->bytes - data || bytes > c->file->bytes - data - offsets[i])
            rc = bad(c, e,
                     "%" PRIu64 " bytes at offset %" PRIu64 " of the data reach past the end of the file (%zu bytes)",
                     bytes, offsets[i], c->file->bytes);
        else
            t->t.data = c->file->data + data + offsets[i];
    }
    c->what = NULL;
    free(offsets);
    if (!rc)
        g->n_tensors += n;
    return rc;
}

/* ---- one file ---- */

static enum rc read_magic(struct cursor *c, uint32_t *version, struct error *e)
{
    uint8_t magic[4] = {0};
    enum rc rc = read_bytes(c, magic, sizeof magic, "the magic number", e);
    if (rc)
        return rc;
    if (memcmp(magic, "GGUF", 4) != 0) {
        c->pos = 0;
        return bad(c, e, "is not a GGUF file: it starts with %02x %02x %02x %02x, not \"GGUF\"", magic[0], magic[1],
                   magic[2], magic[3]);
    }
    rc = read_u32(c, version, "the version", e);
    if (rc)
        return rc;
    c->pos = 4;
    if (*version == 0x02000000 || *version == 0x03000000)
        return bad(c, e, "is a big-endian GGUF file: convert it to little-endian");
    if (*version != 2 && *version != 3)
        return bad(c, e, "GGUF version %u: 2 and 3 are supported", *version);
    c->pos = 8;
    return RC_OK;
}

struct kv_list {
    struct gguf_kv *kv;
    struct gguf_name *names;
    uint64_t n;
};

static void kv_list_fini(struct kv_list *l)
{
    for (uint64_t i = 0; l->kv && i < l->n; i++)
        free(l->kv[i].strs_owned);
    free(l->kv);
    free(l->names);
}

static enum rc read_kvs(struct cursor *c, uint64_t n, struct kv_list *l, struct error *e)
{
    if (n > left(c) / 14 || n > KEYS_MAX) /* 14 bytes: key of 1, type, value of 1 */
        return bad(c, e, "%" PRIu64 " keys, but the file has %zu bytes left (at most %u keys)", n, left(c), KEYS_MAX);
    l->n = n;
    l->kv = spw_calloc(n ? (size_t)n : 1, sizeof *l->kv);
    l->names = spw_calloc(n ? (size_t)n : 1, sizeof *l->names);
    for (uint64_t i = 0; i < n; i++) {
        enum rc rc = read_kv(c, &l->kv[i], e);
        if (rc)
            return rc;
        l->names[i] = (struct gguf_name){.name = l->kv[i].key, .index = i};
    }
    return sort_names(c->file, l->names, n, "key", e);
}

/* An unsigned integer of a list; `missing` when the key is absent. */
static enum rc list_u64(const struct kv_list *l, const struct gguf_mapping *file, const char *key, uint64_t missing,
                        uint64_t *v, struct error *e)
{
    struct gguf view = {.kv = l->kv, .n_kv = l->n, .kv_names = l->names};
    *v = missing;
    enum rc rc = gguf_get_u64(&view, key, v, e);
    if (rc == RC_INVALID)
        return error_prefix(e, "%s", file->path);
    return RC_OK;
}

struct split {
    uint64_t no, count;
};

/* Read file `f`. The first one's metadata becomes the model's; the others' only say which part they are. */
static enum rc read_file(struct gguf *g, uint32_t f, struct split *split, struct error *e)
{
    struct gguf_mapping *file = &g->files[f];
    struct cursor c = {.file = file};
    struct kv_list l = {0};
    uint64_t n_tensors = 0, n_kv = 0, alignment = 0;
    uint32_t version = 0;
    enum rc rc = read_magic(&c, &version, e);
    if (!rc)
        rc = read_u64(&c, &n_tensors, "the number of tensors", e);
    if (!rc)
        rc = read_u64(&c, &n_kv, "the number of keys", e);
    if (!rc)
        rc = read_kvs(&c, n_kv, &l, e);
    if (!rc)
        rc = list_u64(&l, file, "general.alignment", 32, &alignment, e);
    if (!rc && (alignment < 8 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)) != 0))
        rc = error_set(e, RC_INVALID, "%s: key general.alignment: %" PRIu64 " is not a power of two from 8 to %u",
                       file->path, alignment, ALIGNMENT_MAX);
    if (!rc)
        rc = list_u64(&l, file, "split.no", 0, &split->no, e);
    if (!rc)
        rc = list_u64(&l, file, "split.count", 1, &split->count, e);
    if (!rc)
        rc = read_tensors(g, &c, n_tensors, alignment, e);
    file->header_bytes = c.pos;
    if (f > 0) {
        kv_list_fini(&l);
        return rc;
    }
    g->version = rc ? 0 : version;
    g->kv = l.kv;
    g->kv_names = l.names;
    g->n_kv = l.n;
    return rc;
}

/* ---- mapping ---- */

/* Read-only pages with what the file holds, or MAP_FAILED with errno; ENODATA: it got shorter under way. */
static void *read_pages(int fd, size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return p;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    ssize_t n = 1;
    for (size_t at = 0; at < bytes && n > 0; at += n > 0 ? (size_t)n : 0) {
        size_t left = bytes - at;
        do
            n = pread(fd, p + at, left < READ_PIECE ? left : READ_PIECE, (off_t)at);
        while (n < 0 && errno == EINTR);
    }
    if (n > 0 && mprotect(p, bytes, PROT_READ) == 0)
        return p;
    int why = n == 0 ? ENODATA : errno;
    munmap(p, bytes);
    errno = why;
    return MAP_FAILED;
}

static enum rc map_file(struct gguf_mapping *file, const char *path, enum gguf_open_mode mode, struct error *e)
{
    struct stat st;
    enum rc rc = RC_OK;
    file->path = spw_strdup(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = error_set(e, RC_INVALID, "%s: is not a regular file", path);
    else if (st.st_size < 24)
        rc =
            error_set(e, RC_INVALID, "%s: byte 0: %lld bytes are too few for a GGUF file", path, (long long)st.st_size);
    if (!rc) {
        void *p = mode == GGUF_READ ? read_pages(fd, (size_t)st.st_size)
                                    : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            rc = error_set(e, RC_IO, "%s: cannot be %s: %s", path, mode == GGUF_READ ? "read" : "mapped",
                           strerror(errno));
        else {
            file->data = p;
            file->bytes = (size_t)st.st_size;
            /* Advice only: a kernel that cannot take it reads the same bytes a little later. */
            if (mode != GGUF_READ)
                (void)madvise(p, file->bytes, mode == GGUF_MAP_LAZY ? MADV_RANDOM : MADV_WILLNEED);
        }
    }
    close(fd);
    return rc;
}

/* "dir/name-00001-of-00003.gguf" with another number. NULL when the name is not of that form. Caller frees. */
static char *split_path(const char *first, uint64_t no, uint64_t count)
{
    char tail[32];
    size_t n = strlen(first);
    int t = snprintf(tail, sizeof tail, "-%05" PRIu64 "-of-%05" PRIu64 ".gguf", (uint64_t)1, count);
    if (t <= 0 || n < (size_t)t || strcmp(first + n - (size_t)t, tail) != 0)
        return NULL;
    return spw_asprintf("%.*s-%05" PRIu64 "-of-%05" PRIu64 ".gguf", (int)(n - (size_t)t), first, no + 1, count);
}

static enum rc open_splits(struct gguf *g, uint64_t count, enum gguf_open_mode mode, struct error *e)
{
    const char *first = g->files[0].path;
    if (count > SPLITS_MAX)
        return error_set(e, RC_INVALID, "%s: key split.count: %" PRIu64 " is more than %u files", first, count,
                         SPLITS_MAX);
    g->files = spw_realloc(g->files, (size_t)count * sizeof *g->files);
    memset(g->files + 1, 0, (size_t)(count - 1) * sizeof *g->files);
    for (uint32_t f = 1; f < count; f++) {
        struct split split = {0};
        char *path = split_path(first, f, count);
        if (!path)
            return error_set(e, RC_INVALID,
                             "%s: is the first of %" PRIu64 " files, so its name has to end in -00001-of-%05" PRIu64
                             ".gguf",
                             first, count, count);
        g->n_files = f + 1;
        enum rc rc = map_file(&g->files[f], path, mode, e);
        free(path);
        if (!rc)
            rc = read_file(g, f, &split, e);
        if (!rc && (split.no != f || split.count != count))
            rc =
                error_set(e, RC_INVALID, "%s: says that it is part %" PRIu64 " of %" PRIu64 ", not part %u of %" PRIu64,
                          g->files[f].path, split.no, split.count, f, count);
        if (rc)
            return rc;
    }
    return RC_OK;
}

static enum rc index_tensors(struct gguf *g, struct error *e)
{
    g->tensor_names = spw_calloc(g->n_tensors ? (size_t)g->n_tensors : 1, sizeof *g->tensor_names);
    for (uint64_t i = 0; i < g->n_tensors; i++)
        g->tensor_names[i] = (struct gguf_name){.name = g->tensors[i].name, .index = i};
    return sort_names(&g->files[0], g->tensor_names, g->n_tensors, "tensor", e);
}

static void prefault_files(struct gguf *g)
{
    struct prefault_span *spans = spw_calloc(g->n_files, sizeof *spans);
    for (uint32_t f = 0; f < g->n_files; f++)
        spans[f] = (struct prefault_span){.data = g->files[f].data, .bytes = g->files[f].bytes};
    g->prefault = prefault_start(spans, g->n_files);
    free(spans);
}

enum rc gguf_open(struct gguf **out, const char *path, enum gguf_open_mode mode, struct error *e)
{
    struct split split = {0};
    uint64_t total = 0;
    struct gguf *g = spw_calloc(1, sizeof *g);
    g->files = spw_calloc(1, sizeof *g->files);
    g->n_files = 1;
    enum rc rc = map_file(&g->files[0], path, mode, e);
    if (!rc)
        rc = read_file(g, 0, &split, e);
    if (!rc && split.no != 0)
        rc = error_set(e, RC_INVALID, "%s: is part %" PRIu64 " of %" PRIu64 ": open the first part instead", path,
                       split.no + 1, split.count);
    if (!rc && split.count > 1)
        rc = open_splits(g, split.count, mode, e);
    if (!rc)
        rc = index_tensors(g, e);
    if (!rc) {
        struct kv_list l = {.kv = g->kv, .names = g->kv_names, .n = g->n_kv};
        rc = list_u64(&l, &g->files[0], "split.tensors.count", g->n_tensors, &total, e);
    }
    if (!rc && split.count > 1 && total != g->n_tensors)
        rc = error_set(e, RC_INVALID, "%s: key split.tensors.count: says %" PRIu64 ", but the %u files hold %" PRIu64,
                       path, total, g->n_files, g->n_tensors);
    if (rc) {
        gguf_close(g);
        return rc;
    }
    if (mode == GGUF_MAP)
        prefault_files(g);
    *out = g;
    return RC_OK;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    prefault_stop(g->prefault);
    struct kv_list l = {.kv = g->kv, .names = g->kv_names, .n = g->n_kv};
    kv_list_fini(&l);
    free(g->tensors);
    free(g->tensor_names);
    for (uint32_t f = 0; f < g->n_files; f++) {
        if (g->files[f].data)
            munmap((void *)(uintptr_t)g->files[f].data, g->files[f].bytes);
        free(g->files[f].path);
    }
    free(g->files);
    free(g);
}
