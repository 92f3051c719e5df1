/* What the verbs share: ending with a message, parsing lists, opening a model with an engine, and feeding a prompt. */
#ifndef ENGINE_CLI_CLI_H
#define ENGINE_CLI_CLI_H

#include "base/args.h"
#include "engine/cli/commands.h"
#include "engine/cli/device.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"

/* "spillway-engine VERB: MESSAGE" on stderr; ARGS_EXIT_FAILED. */
int cli_fail(const char *verb, const struct error *e);
/* "1,2,3" -> ids. Values 0..2^31-1; at least one. */
enum rc cli_parse_ids(const char *text, struct tokens *ids, struct error *e) SPW_MUST_USE;

/* What serve has at once without --max-batch, and the most tokens of one step with it. */
#define CLI_MAX_BATCH 8
int32_t cli_step_tokens(int64_t max_batch);
/* The words of --kv-type, and what they stand for: NULL (not given) is engine_options' default. */
extern const char *const cli_kv_types[];
enum k_type cli_kv_type(const char *word);
/* The words of --activations, its help, and what they stand for together with --precise, which contradicts "bf16".
 * NULL: not given, "fast". */
#define CLI_ACTIVATIONS_META "fast|bf16"
#define CLI_ACTIVATIONS_HELP                                                                                           \
    "how activations meet weights in bf16: as they are, or rounded to bf16, which CPUs with AVX512-BF16 multiply "     \
    "faster; answers of the one are not continued by the other"
extern const char *const cli_activations[];
enum rc cli_precision(enum k_precision *p, const char *word, bool precise, struct error *e) SPW_MUST_USE;

struct cli_engine {
    struct model *model;
    struct engine *engine;
};
enum rc cli_engine_open(struct cli_engine *ce, const char *path, enum gguf_open_mode mode,
                        const struct engine_options *o, struct error *e) SPW_MUST_USE;
void cli_engine_close(struct cli_engine *ce);

/* Append ids to the sequence in slices of at most `chunk` tokens. *logits: of the last one, borrowed until the next
 * step. */
enum rc cli_feed(struct engine *en, struct seq *s, const int32_t *ids, size_t n, int32_t chunk, const float **logits,
                 struct error *e) SPW_MUST_USE;

#endif
