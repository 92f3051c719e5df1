/* Any bytes as the body of a completion request: a checked struct or an error that names what is wrong; and whatever
 * was taken must be fit for use: in range, and accepted by the sampler and the stop matcher.
 *
 * links: spw_engine_serve */
#include <stdlib.h>
#include <string.h>

#include "engine/serve/api.h"

#define N_VOCAB 1000
#define N_CTX   128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct api_request *r)
{
    struct error e = {0};
    struct sampler *sampler;
    struct stop *stop;
    SPW_ASSERT(r->max_tokens >= 0 && r->n_stop <= STOP_STRINGS_MAX && r->n_prompt_ids < N_CTX);
    SPW_ASSERT(r->kind == API_CHAT ? r->messages != NULL : (r->prompt != NULL) != (r->prompt_ids != NULL));
    for (int32_t i = 0; i < r->n_prompt_ids; i++)
        SPW_ASSERT(r->prompt_ids[i] >= 0 && r->prompt_ids[i] < N_VOCAB);
    SPW_ASSERT(r->n_resume_ids >= 0 && r->n_resume_ids <= API_RESUME_IDS_MAX && (r->resumed || !r->n_resume_ids));
    for (int32_t i = 0; i < r->n_resume_ids; i++)
        SPW_ASSERT(r->resume_ids[i] >= 0 && r->resume_ids[i] < N_VOCAB);
    SPW_ASSERT(sampler_new(&r->sampling, N_VOCAB, &sampler, &e) == RC_OK);
    sampler_free(sampler);
    SPW_ASSERT(stop_new(r->stop, r->n_stop, &stop, &e) == RC_OK);
    stop_free(stop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct api_limits limits = {.n_vocab = N_VOCAB, .n_ctx = N_CTX};
    limits.caller = data[0] & 2 ? API_CALLER_SCHEDULER : API_CALLER_CLIENT; /* '{' and '\n' are set, ' ' and '\t' not */
    enum api_kind kind = data[0] & 1 ? API_COMPLETION : API_CHAT; /* '{' is odd, ' ' is even: both parse as a start */
    struct error e = {0};
    struct api_error fault = {0};
    struct api_request r;
    cJSON *root = NULL;
    char *text = spw_strndup((const char *)data, size);
    struct arena *arena = arena_new(1 << 20);
    if (json_parse(text, size, JSON_DEPTH_MAX, &root, &e) == RC_OK) {
        if (api_request_read(root, kind, &limits, arena, &r, &fault)) {
            SPW_ASSERT(limits.caller == API_CALLER_SCHEDULER || !r.resumed);
            use(&r);
        } else {
            struct strbuf b;
            strbuf_init(&b, 1 << 16);
            SPW_ASSERT(fault.status >= 400 && fault.message[0] && api_write_error(&b, &fault) == RC_OK);
            cJSON *copy = NULL;
            SPW_ASSERT(json_parse(b.data, b.len, JSON_DEPTH_MAX, &copy, &e) == RC_OK);
            cJSON_Delete(copy);
            strbuf_fini(&b);
        }
    }
    cJSON_Delete(root);
    arena_free(arena);
    free(text);
    return 0;
}
