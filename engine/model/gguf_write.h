/* Write a GGUF v3 file as a stream: declare keys and tensors, open, append the data of each tensor in the order of
 * declaration, finish. The file appears under its name only when it is complete; before that it is NAME.part. */
#ifndef ENGINE_MODEL_GGUF_WRITE_H
#define ENGINE_MODEL_GGUF_WRITE_H

#include "engine/model/gguf.h"

struct gguf_writer;

struct gguf_writer *gguf_writer_new(void);
/* Also removes an unfinished file. NULL is fine. */
void gguf_writer_free(struct gguf_writer *w);

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *v);
void gguf_put_strs(struct gguf_writer *w, const char *key, const struct gguf_str *v, uint64_t n);
void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, uint64_t n);
/* data of `t` is ignored; ne[0] is a multiple of the type's block. */
void gguf_put_tensor(struct gguf_writer *w, const char *name, const struct k_tensor *t);

enum rc gguf_write_open(struct gguf_writer *w, const char *path, struct error *e) SPW_MUST_USE;
/* The next `bytes` of the present tensor; padding between tensors is added here. */
enum rc gguf_write_data(struct gguf_writer *w, const void *data, size_t bytes, struct error *e) SPW_MUST_USE;
/* Asserted: every tensor has all its bytes. */
enum rc gguf_write_finish(struct gguf_writer *w, struct error *e) SPW_MUST_USE;

#endif
