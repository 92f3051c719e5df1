/* The vocabulary and the chat template that a model file brings along. */
#ifndef ENGINE_CLI_VOCAB_GGUF_H
#define ENGINE_CLI_VOCAB_GGUF_H

#include "engine/model/gguf.h"
#include "engine/text/chat_template.h"
#include "engine/text/vocab.h"

/* RC_INVALID and RC_UNSUPPORTED as vocab_new(); keys that are missing or of another type are named. On RC_OK *v is the
 * caller's until vocab_free(); it does not need the file any more. */
enum rc vocab_from_gguf(struct vocab **v, const struct gguf *g, struct error *e) SPW_MUST_USE;
/* By name, or (NULL) as the file's own template text tells. */
enum rc chat_template_from_gguf(const struct chat_template **t, const struct gguf *g, const char *name,
                                struct error *e) SPW_MUST_USE;

#endif
