/* Proves that the GGUF reader takes what the format allows and refuses, with a text naming the place, what it does not:
 * every metadata type, arrays, several files as one, and each kind of damage. The files are written here, byte by byte.
 * links: spw_engine_model */
#include "engine/model/gguf.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/unit/folder_help.h"
#include "tests/unit/test.h"

static char dir[] = "/tmp/spillway-gguf-XXXXXX";

/* A file under construction. */
struct bytes {
    uint8_t data[4096];
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    memcpy(b->data + b->n, data, n);
    b->n += n;
}
static void put32(struct bytes *b, uint32_t v)
{
    put(b, &v, sizeof v);
}
static void put64(struct bytes *b, uint64_t v)
{
    put(b, &v, sizeof v);
}
static void put_str(struct bytes *b, const char *s)
{
    put64(b, strlen(s));
    put(b, s, strlen(s));
}
static void put_head(struct bytes *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    put(b, "GGUF", 4);
    put32(b, version);
    put64(b, tensors);
    put64(b, keys);
}
static void put_key(struct bytes *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put32(b, type);
}
static void put_key_u32(struct bytes *b, const char *key, uint32_t v)
{
    put_key(b, key, GGUF_U32);
    put32(b, v);
}
static void put_tensor(struct bytes *b, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put32(b, 2);
    put64(b, ne0);
    put64(b, ne1);
    put32(b, type);
    put64(b, offset);
}
/* Up to the data section, then n zero bytes of data. */
static void put_data(struct bytes *b, size_t n)
{
    b->n = (b->n + 31) / 32 * 32;
    b->n += n; /* the struct starts zeroed */
}

static const char *save(const struct bytes *b, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    SPW_ASSERT(f && fwrite(b->data, 1, b->n, f) == b->n);
    fclose(f);
    return path;
}

static struct gguf *open_bytes(const struct bytes *b, struct error *e)
{
    struct gguf *g = NULL;
    *e = (struct error){0};
    enum rc rc = gguf_open(&g, save(b, "m.gguf"), GGUF_MAP, e);
    return rc ? NULL : g;
}

/* The file is refused, and the text holds `part`. */
static void refused(const struct bytes *b, const char *part)
{
    struct error e;
    struct gguf *g = open_bytes(b, &e);
    CHECK(!g);
    if (!g && !strstr(e.message, part)) {
        CHECK_STR(e.message, part);
    }
    if (!g)
        CHECK(strstr(e.message, "m.gguf: ") != NULL);
    gguf_close(g);
}

static void every_type(void)
{
    struct bytes b = {0};
    struct error e;
    uint64_t u = 0;
    double f = 0;
    bool flag = false;
    struct gguf_str s = {0};
    put_head(&b, 3, 0, 12);
    put_key(&b, "u8", GGUF_U8);
    put(&b, &(uint8_t){200}, 1);
    put_key(&b, "i8", GGUF_I8);
    put(&b, &(int8_t){-3}, 1);
    put_key(&b, "u16", GGUF_U16);
    put(&b, &(uint16_t){60000}, 2);
    put_key(&b, "i16", GGUF_I16);
    put(&b, &(int16_t){300}, 2);
    put_key_u32(&b, "u32", 4000000000u);
    put_key(&b, "i32", GGUF_I32);
    put(&b, &(int32_t){-7}, 4);
    put_key(&b, "f32", GGUF_F32);
    put(&b, &(float){0.5f}, 4);
    put_key(&b, "bool", GGUF_BOOL);
    put(&b, &(uint8_t){1}, 1);
    put_key(&b, "str", GGUF_STRING);
    put_str(&b, "text");
    put_key(&b, "u64", GGUF_U64);
    put64(&b, UINT64_C(1) << 60);
    put_key(&b, "i64", GGUF_I64);
    put64(&b, 5);
    put_key(&b, "f64", GGUF_F64);
    put(&b, &(double){0.25}, 8);
    struct gguf *g = open_bytes(&b, &e);
    CHECK(g != NULL);
    if (!g)
        return;
    CHECK_INT(gguf_n_keys(g), 12);
    CHECK_INT(gguf_version(g), 3);
    CHECK(gguf_get_u64(g, "u8", &u, &e) == RC_OK && u == 200);
    CHECK(gguf_get_u64(g, "u16", &u, &e) == RC_OK && u == 60000);
    CHECK(gguf_get_u64(g, "i16", &u, &e) == RC_OK && u == 300);
    CHECK(gguf_get_u64(g, "u32", &u, &e) == RC_OK && u == 4000000000u);
    CHECK(gguf_get_u64(g, "u64", &u, &e) == RC_OK && u == UINT64_C(1) << 60);
    CHECK(gguf_get_u64(g, "i64", &u, &e) == RC_OK && u == 5);
    CHECK_INT(gguf_get_u64(g, "i32", &u, &e), RC_INVALID);
    CHECK(strstr(e.message, "i32") && strstr(e.message, "-7"));
    CHECK_INT(gguf_get_u64(g, "str", &u, &e), RC_INVALID);
    CHECK_INT(gguf_get_u64(g, "none", &u, &e), RC_NOT_FOUND);
    CHECK(gguf_get_f64(g, "f32", &f, &e) == RC_OK && f == 0.5);
    CHECK(gguf_get_f64(g, "f64", &f, &e) == RC_OK && f == 0.25);
    CHECK(gguf_get_f64(g, "i8", &f, &e) == RC_OK && f == -3.0);
    CHECK(gguf_get_bool(g, "bool", &flag, &e) == RC_OK && flag);
    CHECK(gguf_get_str(g, "str", &s, &e) == RC_OK && s.n == 4 && memcmp(s.s, "text", 4) == 0);
    gguf_close(g);
}

static void arrays(void)
{
    struct bytes b = {0};
    struct error e;
    struct gguf_array a;
    put_head(&b, 2, 0, 4);
    put_key(&b, "ints", GGUF_ARRAY);
    put32(&b, GGUF_I32);
    put64(&b, 3);
    put(&b, (int32_t[]){1, -2, 3}, 12);
    put_key(&b, "floats", GGUF_ARRAY);
    put32(&b, GGUF_F32);
    put64(&b, 1);
    put(&b, &(float){1.5f}, 4);
    put_key(&b, "strs", GGUF_ARRAY);
    put32(&b, GGUF_STRING);
    put64(&b, 2);
    put_str(&b, "a");
    put_str(&b, "");
    put_key(&b, "empty", GGUF_ARRAY);
    put32(&b, GGUF_U8);
    put64(&b, 0);
    struct gguf *g = open_bytes(&b, &e);
    CHECK(g != NULL);
    if (!g)
        return;
    CHECK(gguf_get_array(g, "ints", &a, &e) == RC_OK && a.n == 3 && gguf_array_i64(&a, 1) == -2);
    CHECK(gguf_get_array(g, "floats", &a, &e) == RC_OK && a.n == 1 && gguf_array_f64(&a, 0) == 1.5);
    CHECK(gguf_get_array(g, "strs", &a, &e) == RC_OK && a.n == 2 && a.strs[0].n == 1 && a.strs[1].n == 0);
    CHECK(gguf_get_array(g, "empty", &a, &e) == RC_OK && a.n == 0);
    gguf_close(g);
}

static void tensors(void)
{
    struct bytes b = {0};
    struct error e;
    struct gguf_str name;
    put_head(&b, 3, 2, 1);
    put_key_u32(&b, "general.alignment", 64);
    put_tensor(&b, "a.weight", 32, 2, K_Q8_0, 0);
    put_tensor(&b, "b.weight", 4, 3, K_F32, 128);
    b.n = (b.n + 63) / 64 * 64;
    size_t data = b.n;
    b.n += 128 + 48;
    struct gguf *g = open_bytes(&b, &e);
    CHECK(g != NULL);
    if (!g)
        return;
    CHECK_INT(gguf_n_tensors(g), 2);
    const struct k_tensor *t = gguf_find_tensor(g, "b.weight");
    CHECK(t && t->type == K_F32 && t->ne[0] == 4 && t->ne[1] == 3 && t->ne[2] == 1 && t->ne[3] == 1);
    CHECK_INT(gguf_tensor_bytes(gguf_find_tensor(g, "a.weight")), 68);
    CHECK_INT((const uint8_t *)t->data - (const uint8_t *)gguf_find_tensor(g, "a.weight")->data, 128);
    CHECK(gguf_tensor(g, 0, &name) && name.n == 8);
    CHECK(gguf_find_tensor(g, "c.weight") == NULL);
    size_t header;
    CHECK(gguf_header(g, 0, &header) != NULL && header <= data && header > data - 64);
    gguf_close(g);
}

static void damage_in_the_head(void)
{
    struct bytes b = {0};
    put(&b, "GGML", 4);
    b.n = 64;
    refused(&b, "not a GGUF file");
    b = (struct bytes){0};
    put_head(&b, 1, 0, 0);
    refused(&b, "version 1");
    b = (struct bytes){0};
    put_head(&b, 0x03000000, 0, 0);
    refused(&b, "big-endian");
    b = (struct bytes){.n = 3};
    refused(&b, "too few");
    b = (struct bytes){0};
    put_head(&b, 3, UINT64_MAX, 0);
    refused(&b, "tensors");
    b = (struct bytes){0};
    put_head(&b, 3, 0, UINT64_MAX);
    refused(&b, "keys");
}

static void damage_in_keys(void)
{
    struct bytes b = {0};
    put_head(&b, 3, 0, 2);
    put_key_u32(&b, "twice", 1);
    put_key_u32(&b, "twice", 1);
    refused(&b, "key twice: stands twice");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "odd", 13);
    put64(&b, 0);
    refused(&b, "key odd: value type 13");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "nested", GGUF_ARRAY);
    put32(&b, GGUF_ARRAY);
    put64(&b, 1);
    refused(&b, "key nested: arrays inside arrays");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "long", GGUF_ARRAY);
    put32(&b, GGUF_F64);
    put64(&b, UINT64_MAX / 8 + 2); /* times 8 wraps to a small number */
    put64(&b, 0);
    refused(&b, "key long: array of");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "s", GGUF_STRING);
    put64(&b, UINT64_MAX - 3);
    refused(&b, "key s: a string of");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "flag", GGUF_BOOL);
    put(&b, &(uint8_t){2}, 1);
    refused(&b, "key flag: a bool is 2");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key_u32(&b, "general.alignment", 24);
    refused(&b, "key general.alignment: 24");

    b = (struct bytes){0};
    put_head(&b, 3, 0, 1);
    put_key_u32(&b, "new\nline", 1);
    refused(&b, "printable ASCII");
}

static void damaged_tensor(uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset, const char *part)
{
    struct bytes b = {0};
    put_head(&b, 3, 1, 0);
    put_tensor(&b, "t", ne0, ne1, type, offset);
    put_data(&b, 256);
    refused(&b, part);
}

static void damage_in_tensors(void)
{
    damaged_tensor(64, 1, K_F32, 32, "tensor t: 256 bytes at offset 32");
    damaged_tensor(65, 1, K_F32, 0, "reach past the end");
    damaged_tensor(4, 1, K_F32, UINT64_MAX - 31, "reach past the end");
    damaged_tensor(4, 1, K_F32, 8, "not a multiple of the alignment");
    damaged_tensor(0, 1, K_F32, 0, "dimension 0 is 0");
    damaged_tensor(UINT64_C(1) << 33, UINT64_C(1) << 33, K_F32, 0, "dimension 1");
    damaged_tensor(UINT64_MAX, 1, K_F32, 0, "dimension 0");
    damaged_tensor(33, 1, K_Q8_0, 0, "not a multiple of the 32");
    damaged_tensor(32, 1, 4, 0, "type 4");
    damaged_tensor(32, 1, 4000000000u, 0, "type 4000000000");

    struct bytes b = {0};
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "t", 4, 1, K_F32, 0);
    put_tensor(&b, "t", 4, 1, K_F32, 32);
    put_data(&b, 256);
    refused(&b, "tensor t: stands twice");
}

static void cut_anywhere(void)
{
    struct bytes b = {0};
    put_head(&b, 3, 1, 2);
    put_key(&b, "s", GGUF_STRING);
    put_str(&b, "text");
    put_key(&b, "a", GGUF_ARRAY);
    put32(&b, GGUF_STRING);
    put64(&b, 1);
    put_str(&b, "x");
    put_tensor(&b, "t", 4, 1, K_F32, 0);
    put_data(&b, 16);
    struct error e;
    struct gguf *g = open_bytes(&b, &e);
    CHECK(g != NULL);
    gguf_close(g);
    for (size_t n = 0; n < b.n; n++) {
        struct bytes cut = b;
        cut.n = n;
        refused(&cut, "m.gguf: ");
    }
}

/* Read into memory, the model is what it was, whatever happens to the file afterwards. */
static void read_whole(void)
{
    struct bytes b = {0};
    struct gguf *g = NULL;
    struct error e = {0};
    put_head(&b, 3, 1, 0);
    put_tensor(&b, "t", 64, 1, K_F32, 0);
    put_data(&b, 256);
    b.data[b.n - 1] = 0x5a;
    const char *path = save(&b, "whole.gguf");
    CHECK_INT(gguf_open(&g, path, GGUF_READ, &e), RC_OK);
    CHECK(truncate(path, 0) == 0);
    const struct k_tensor *t = g ? gguf_find_tensor(g, "t") : NULL;
    CHECK(t && ((const uint8_t *)t->data)[255] == 0x5a);
    gguf_close(g);
    g = NULL;
    CHECK_INT(gguf_open(&g, path, GGUF_READ, &e), RC_INVALID); /* nothing to read is said, not read */
}

static void put_part(struct bytes *b, uint32_t no, uint32_t count, uint32_t total, const char *tensor)
{
    put_head(b, 3, 1, no == 0 ? 4 : 3);
    put_key_u32(b, "split.no", no);
    put_key_u32(b, "split.count", count);
    put_key_u32(b, "split.tensors.count", total);
    if (no == 0)
        put_key_u32(b, "only.first", 9);
    put_tensor(b, tensor, 4, 1, K_F32, 0);
    put_data(b, 16);
}

static void several_files(void)
{
    struct bytes one = {0}, two = {0}, bad = {0};
    struct error e = {0};
    struct gguf *g = NULL;
    uint64_t v = 0;
    char first[256];
    put_part(&one, 0, 2, 2, "a");
    put_part(&two, 1, 2, 2, "b");
    put_part(&bad, 1, 2, 2, "a");
    snprintf(first, sizeof first, "%s", save(&one, "m-00001-of-00002.gguf"));
    CHECK_INT(gguf_open(&g, first, GGUF_MAP, &e), RC_NOT_FOUND); /* the second is not there */
    CHECK(strstr(e.message, "m-00002-of-00002.gguf") != NULL);
    save(&two, "m-00002-of-00002.gguf");
    CHECK_INT(gguf_open(&g, first, GGUF_MAP_LAZY, &e), RC_OK);
    if (g) {
        CHECK_INT(gguf_n_tensors(g), 2);
        CHECK_INT(gguf_n_files(g), 2);
        CHECK(gguf_find_tensor(g, "a") && gguf_find_tensor(g, "b"));
        CHECK(gguf_get_u64(g, "only.first", &v, &e) == RC_OK && v == 9);
        CHECK_INT(gguf_file_bytes(g), one.n + two.n);
        gguf_close(g);
    }
    g = NULL;
    char second[256];
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", dir);
    CHECK_INT(gguf_open(&g, second, GGUF_MAP, &e), RC_INVALID);
    CHECK(strstr(e.message, "open the first part") != NULL);
    save(&bad, "m-00002-of-00002.gguf");
    CHECK_INT(gguf_open(&g, first, GGUF_MAP, &e), RC_INVALID);
    CHECK(strstr(e.message, "stands twice") != NULL);
    save(&one, "m-00002-of-00002.gguf");
    CHECK_INT(gguf_open(&g, first, GGUF_MAP, &e), RC_INVALID);
    CHECK_INT(gguf_open(&g, save(&one, "other.gguf"), GGUF_MAP, &e), RC_INVALID);
    CHECK(strstr(e.message, "-00001-of-00002.gguf") != NULL);
}

static void not_files(void)
{
    struct error e = {0};
    struct gguf *g = NULL;
    CHECK_INT(gguf_open(&g, "/nonexistent/m.gguf", GGUF_MAP, &e), RC_NOT_FOUND);
    CHECK_INT(gguf_open(&g, dir, GGUF_MAP, &e), RC_INVALID);
    CHECK(strstr(e.message, "regular file") != NULL);
}

int main(void)
{
    SPW_ASSERT(mkdtemp(dir));
    TEST(every_type);
    TEST(arrays);
    TEST(tensors);
    TEST(damage_in_the_head);
    TEST(damage_in_keys);
    TEST(damage_in_tensors);
    TEST(cut_anywhere);
    TEST(read_whole);
    TEST(several_files);
    TEST(not_files);
    help_remove_folder(dir);
    return TEST_RESULT();
}
