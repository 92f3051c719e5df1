/* GGUF v2/v3 files: mapped, checked, and never trusted.
 *
 * Every offset, count, length and type in the file is checked against the file's size before use; a bad file gives an
 * error naming the file, the byte offset or key, and what would be right. Split files (-00001-of-00003.gguf) open as
 * one. Strings are views into the mapping and are not NUL-terminated. Keys and tensor names are printable ASCII; the
 * contents of string values are whatever the file holds. Arrays inside arrays are refused: no known key needs them.
 * A file that is truncated by someone else while it is mapped raises SIGBUS at the next access: replace model files
 * by rename, never in place. Specification: GGUF (ggml docs/gguf.md). */
#ifndef ENGINE_MODEL_GGUF_H
#define ENGINE_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/ops.h"

enum gguf_value_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};
struct gguf_str {
    const char *s;
    size_t n;
};

struct gguf; /* opaque */

enum gguf_open_mode {
    GGUF_MAP = 0,  /* mmap and read ahead */
    GGUF_MAP_LAZY, /* pages at first use */
    GGUF_READ, /* read into memory of its own before anything else: nothing that happens to the file later matters */
};
enum rc gguf_open(struct gguf **g, const char *path, enum gguf_open_mode mode, struct error *e) SPW_MUST_USE;
void gguf_close(struct gguf *g);

/* Typed look-ups of metadata. Any integer width is accepted where it fits, integers also as f64. Missing: RC_NOT_FOUND
 * (no error text set); another type: RC_INVALID with text. */
enum rc gguf_get_u64(const struct gguf *g, const char *key, uint64_t *v, struct error *e) SPW_MUST_USE;
enum rc gguf_get_f64(const struct gguf *g, const char *key, double *v, struct error *e) SPW_MUST_USE;
enum rc gguf_get_bool(const struct gguf *g, const char *key, bool *v, struct error *e) SPW_MUST_USE;
enum rc gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *v, struct error *e) SPW_MUST_USE;

/* Arrays. Element access is bounds-checked by assertion: i < n. */
struct gguf_array {
    enum gguf_value_type type;
    uint64_t n;
    const uint8_t *data;         /* unaligned, for fixed-size elements; use gguf_array_* */
    const struct gguf_str *strs; /* for GGUF_STRING */
};
enum rc gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *a, struct error *e) SPW_MUST_USE;
int64_t gguf_array_i64(const struct gguf_array *a, uint64_t i); /* integer and bool element types */
double gguf_array_f64(const struct gguf_array *a, uint64_t i);

/* Tensors. k_tensor.data points into the mapping. */
uint64_t gguf_n_tensors(const struct gguf *g);
const struct k_tensor *gguf_tensor(const struct gguf *g, uint64_t i, struct gguf_str *name);
const struct k_tensor *gguf_find_tensor(const struct gguf *g, const char *name); /* NULL when missing */
uint64_t gguf_tensor_bytes(const struct k_tensor *t);

/* Iterate metadata for `info`. */
uint64_t gguf_n_keys(const struct gguf *g);
struct gguf_str gguf_key(const struct gguf *g, uint64_t i, enum gguf_value_type *type);
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* all splits together */
uint32_t gguf_n_files(const struct gguf *g);
/* The metadata and tensor table of one file: what identifies a model without reading its weights. */
const uint8_t *gguf_header(const struct gguf *g, uint32_t file, size_t *bytes);

#endif
