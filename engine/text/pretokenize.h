/* Pre-tokenizers: cut a text into words that BPE merges stay inside of.
 *
 * Published as regular expressions in each model's tokenizer.json; written here as hand-made scanners, one or more
 * stages each. A stage cuts every piece of the stage before into matches and the gaps between them. */
#ifndef ENGINE_TEXT_PRETOKENIZE_H
#define ENGINE_TEXT_PRETOKENIZE_H

#include "base/error.h"
#include <stddef.h>
#include <stdint.h>

struct pretokenizer;
/* NULL when there is none of that name. */
const struct pretokenizer *pretokenizer_find(const char *name, size_t len);
const char *pretokenizer_name(const struct pretokenizer *p);
/* All names, separated by ", ". */
const char *pretokenizer_names(void);
/* Properties that go with the published tokenizer rather than with the file's metadata. */
bool pretokenizer_ignores_merges(const struct pretokenizer *p);
bool pretokenizer_adds_bos(const struct pretokenizer *p);

typedef enum rc (*pretokenize_word)(void *arg, const char *word, size_t len);
/* Call word() for each piece of text[0..n) in order; stops at its first failure and returns that. The pieces cover the
 * text. n < 2^32. */
enum rc pretokenize(const struct pretokenizer *p, const char *text, size_t n, pretokenize_word word,
                    void *arg) SPW_MUST_USE;

#endif
