/* The OpenAI surface of one engine: request JSON -> a checked struct, and outputs -> JSON. No I/O, no threads, no
 * model: plain data in, plain data out, so that it can be fuzzed and tested alone.
 *
 * Reading is strict about what it knows (type and range of every parameter, named in the error) and silent about keys
 * it does not know, as OpenAI clients expect. What we cannot do (tools, response_format) is refused in
 * words, never ignored. */
#ifndef ENGINE_SERVE_API_H
#define ENGINE_SERVE_API_H

#include "base/json.h"
#include "engine/serve/batcher.h"
#include "engine/text/sampler.h"
#include "engine/text/vocab.h"

#define API_BODY_BYTES_MAX      ((size_t)64 << 20) /* of one answer's JSON */
#define API_COMPLETION_TOKENS   16                 /* max_tokens of /v1/completions when none is given */
#define API_COMPLETION_TOP_MAX  5                  /* logprobs of /v1/completions */
#define API_RETRY_SECONDS       1                  /* Retry-After of 503s */
#define API_REQUEST_ARENA_BYTES ((size_t)64 << 20)
#define API_RESUME_IDS_MAX      131072 /* ids of spillway_resume */
#define API_SALT_BYTES_MAX      64
#define API_CHOICES_MAX         128

/* An OpenAI error object and the status it travels with. param and code may be empty: null in JSON. */
struct api_error {
    int status;
    char type[32], param[64], code[40];
    char message[512];
};
/* Fill *e; returns false so that `return api_fail(...)` reads well. NULL param or code: null. */
bool api_fail(struct api_error *e, int status, const char *param, const char *code, const char *format, ...)
    SPW_PRINTF(5, 6);

enum api_kind { API_CHAT, API_COMPLETION };

/* Who asks: anybody, or a scheduler that has shown the node key. Only the latter may send fields that begin with
 * "spillway_", and only it gets any (docs/NODE_API.md). */
enum api_caller { API_CALLER_CLIENT, API_CALLER_SCHEDULER };

struct api_request {
    enum api_kind kind;
    const char *model; /* NULL: not given */
    /* What to answer: borrowed from the JSON tree. */
    const cJSON *messages;     /* chat */
    const char *prompt;        /* completion: a text ... */
    const int32_t *prompt_ids; /* ... or ids (arena) */
    int32_t n_prompt_ids;
    /* How. */
    int n; /* answers to give, at most API_CHOICES_MAX; 1 where resumed */
    bool stream, include_usage;
    bool ignore_eos, thinking_off;
    bool echo;      /* completion: the prompt before the answer */
    bool no_answer; /* with echo, max_tokens 0: the prompt alone */
    bool bare;      /* of a prompt that is a text: without what the vocabulary puts around every text */
    bool logprobs;
    bool has_seed;             /* else sampling.seed is for the caller to choose */
    bool resumed;              /* goes on after resume_ids, of which there may be none */
    const int32_t *resume_ids; /* the answer so far (arena) */
    int32_t n_resume_ids;
    const char *salt;                        /* NULL: none; whose prefixes it shares */
    int32_t max_tokens;                      /* 0: to the end of the context, but see no_answer */
    struct text_span stop[STOP_STRINGS_MAX]; /* borrowed from the tree */
    size_t n_stop;
    struct sampler_params sampling; /* bias: arena. end_ids and banned are the caller's to fill */
};

struct api_limits {
    int32_t n_vocab, n_ctx;
    enum api_caller caller;
};

/* root outlives the request; arrays are allocated in arena. False: *e says what is wrong with which parameter. */
bool api_request_read(const cJSON *root, enum api_kind kind, const struct api_limits *limits, struct arena *arena,
                      struct api_request *r, struct api_error *e) SPW_MUST_USE;

/* The fields of a scheduler alone, into r; the rest of r is untouched. */
bool api_request_node_fields(const cJSON *root, const struct api_limits *limits, struct arena *arena,
                             struct api_request *r, struct api_error *e) SPW_MUST_USE;

/* Writing. Every function appends to *b. RC_FULL: the buffer is, and what it holds is not whole; that takes answers (or
 * a vocabulary) of absurd size, so the caller fails the request. */

/* What all objects of one answer share. */
struct api_answer {
    enum api_kind kind;
    const char *id; /* "chatcmpl-..." */
    const char *model, *fingerprint;
    int64_t created; /* seconds since 1970 */
    bool include_usage, logprobs;
    int32_t n_top;
    int index; /* of the choice that is written */
    const struct vocab *vocab;
    enum api_caller caller; /* the scheduler's chunks carry ids */
};

enum rc api_write_error(struct strbuf *b, const struct api_error *e);
/* An SSE frame to a scheduler: in so many ms at most this node will have cut the stream. */
enum rc api_write_leaving(struct strbuf *b, int64_t ms);
/* SSE frames "data: {...}\n\n" for new output, possibly none: one with the role when it is a chat's first, one with
 * text (or logprobs), one with finish_reason when out->finish is final. *text_offset: characters of the tokens that
 * went before; moved on. To a scheduler out's ids go with the text, all of them in one frame, or in the last frame when
 * they made none: whoever cuts the stream between two frames then has the text of exactly the ids it has. */
enum api_chunk_place { API_CHUNK_FIRST, API_CHUNK_LATER };
enum rc api_write_chunk(struct strbuf *b, const struct api_answer *a, const struct batch_output *out,
                        enum api_chunk_place place, size_t *text_offset);
/* Characters of these tokens, and of a text: where text_offset of what follows them begins. */
size_t api_text_offset(const struct vocab *v, const int32_t *ids, int32_t n);
size_t api_characters(const char *text, size_t n);
/* The extra chunk with usage and no choices, and "[DONE]". */
enum rc api_write_usage_chunk(struct strbuf *b, const struct api_answer *a, const struct batch_usage *u);
enum rc api_write_done(struct strbuf *b);
/* The whole body of an answer that is not streamed: its beginning, its choices in the order of a->index, its end. out
 * holds all of a choice. */
enum rc api_write_body_begin(struct strbuf *b, const struct api_answer *a);
enum rc api_write_body_choice(struct strbuf *b, const struct api_answer *a, const struct batch_output *out);
enum rc api_write_body_end(struct strbuf *b, const struct batch_usage *u);
/* What steps were for it, as the text of API_USE_HEADER: for an answer that has no usage chunk (docs/NODE_API.md). */
#define API_USE_HEADER "x-spillway-use"
#define API_USE_BYTES  (BATCH_USES * 66 + 3) /* its end included */
void api_write_use(char text[API_USE_BYTES], const struct batch_usage *u);

struct api_model_card {
    const char *id;
    int64_t created;
    int32_t n_ctx;
    enum api_caller caller; /* the scheduler also gets what follows */
    const char *numerics;   /* the class, 32 hex digits */
    int32_t n_slots;
    int64_t kv_tokens; /* that all sequences together may hold; 0: not known yet */
};
enum rc api_write_model(struct strbuf *b, const struct api_model_card *m);
enum rc api_write_models(struct strbuf *b, const struct api_model_card *m);

#endif
