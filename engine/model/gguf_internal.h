/* What the reader of GGUF files (gguf.c) shares with the look-ups in it (gguf_get.c). */
#ifndef ENGINE_MODEL_GGUF_INTERNAL_H
#define ENGINE_MODEL_GGUF_INTERNAL_H

#include "engine/model/gguf.h"
#include "engine/model/prefault.h"

struct gguf_kv {
    struct gguf_str key;
    enum gguf_value_type type;
    union {
        uint64_t u; /* unsigned integers and bool */
        int64_t i;  /* signed integers */
        double f;
        struct gguf_str str;
        struct gguf_array array;
    };
    struct gguf_str *strs_owned; /* array.strs, or NULL */
};

/* A sorted list of names: duplicates stand side by side, look-ups are binary searches. */
struct gguf_name {
    struct gguf_str name;
    uint64_t index;
};

struct gguf_mapping {
    char *path; /* owned */
    const uint8_t *data;
    size_t bytes, header_bytes;
};

struct gguf_tensor {
    struct k_tensor t;
    struct gguf_str name;
};

struct gguf {
    uint32_t version;
    struct gguf_mapping *files; /* owned, n_files of them */
    uint32_t n_files;
    struct gguf_kv *kv; /* of the first file */
    uint64_t n_kv;
    struct gguf_tensor *tensors; /* of all files */
    uint64_t n_tensors, tensors_cap;
    struct gguf_name *kv_names, *tensor_names; /* sorted; n_kv and n_tensors of them */
    struct prefault *prefault;                 /* owned; NULL: none */
};

int gguf_str_cmp(struct gguf_str a, struct gguf_str b);
/* Bytes of one value of a fixed-size type; 0 for strings and arrays. */
size_t gguf_value_bytes(enum gguf_value_type type);
/* Index of `name` in a sorted list of n, or n. */
uint64_t gguf_name_find(const struct gguf_name *names, uint64_t n, struct gguf_str name);

#endif
