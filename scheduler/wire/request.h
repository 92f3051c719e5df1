/* One request's body: parsed strictly once, checked for what the scheduler needs to know, and spliced for a node. What
 * we do not know passes through untouched, byte for byte. Pure functions. */
#ifndef SCHEDULER_WIRE_REQUEST_H
#define SCHEDULER_WIRE_REQUEST_H

#include <stdint.h>

#include "base/json.h"
#include "scheduler/wire/scan.h"
#include "scheduler/wire/urgency.h"

#define REQUEST_MODEL_BYTES_MAX 256

enum request_kind {
    REQUEST_CHAT,
    REQUEST_COMPLETION,
    REQUEST_EMBEDDINGS,
    REQUEST_TOKENIZE,
    REQUEST_DETOKENIZE,
    REQUEST_KINDS
};

/* What the kinds differ in. */
struct request_traits {
    const char *path;      /* here and at every node */
    const char *operation; /* gen_ai.operation.name */
    const char *id;        /* what an answer's id begins with */
    const char *input;     /* the member that holds the prompt */
    const char *answers;   /* the member that no answer goes without; where something is computed an array */
    const char *wants;     /* of input, for people */
    bool speaks;   /* answers are text, token by token: they have a length, can be streamed, and go on elsewhere */
    bool computes; /* the model is put to work: tokens are counted and charged, and an answer may be kept */
};
const struct request_traits *request_traits(enum request_kind kind);

struct request_body {
    const char *text; /* borrowed, outlives this */
    size_t n;
    enum request_kind kind;
    char model[REQUEST_MODEL_BYTES_MAX + 1]; /* decoded */
    bool stream, usage_asked;                /* usage_asked: stream_options.include_usage */
    int64_t output_tokens_max;               /* -1: not given; 0 where nothing is said (request_traits.speaks) */
    int64_t bounds[2];                       /* the same of max_tokens and of max_completion_tokens */
    int64_t choices;                         /* answers that are asked for: n or best_of, for each prompt */
    enum service_tier tier;
    bool tier_asked; /* it says which; then the answer says which it was */
    bool resumable;  /* one choice of plain tokens: it may go on by its ids */
    bool prefixable; /* ... or by its text so far: no JSON, logprobs or message begun already */
    /* Where to cut. */
    struct span model_value, options_value, usage_value; /* n 0: not there */
    struct span stream_value, input_value;               /* input: request_traits.input */
    struct span bound_values[2];                         /* max_tokens, max_completion_tokens */
    struct span tools_value;
    const char *inside; /* behind the outer '{' */
};

/* RC_OK: *doc is the caller's to end, for whoever wants to know more of the body, which is read only once. RC_INVALID:
 * e says what is wrong; *param names the key (static text) or is NULL. */
enum rc request_parse(struct request_body *r, struct json_doc *doc, enum request_kind kind, struct span text,
                      const char **param, struct error *e) SPW_MUST_USE;

/* The text stands elsewhere now, byte for byte. */
void request_move(struct request_body *r, const char *text);

/* What one leg's request differs in from the client's. */
struct request_leg {
    const char *upstream_model; /* NULL: kept */
    bool stream;                /* asked of the node; true whenever the client streams */
    bool to_engine;             /* one of ours: the fields of docs/NODE_API.md are added */
    uint64_t seed;              /* below 2^53 */
    const char *salt;           /* to an engine: whose prefixes it may share, plain text; NULL: it is not told */
    bool bounded;               /* output_max holds, whatever the client allows */
    int64_t output_max;         /* tokens of each choice, over all legs; > said */
    const struct strbuf *ids;   /* to an engine: the answer's ids so far, or NULL */
    const struct strbuf *text;  /* to others: the answer's text so far, or NULL */
    int64_t said;               /* tokens of that text, taken off the client's max_tokens */
};
/* What goes to a node: the same body with only that changed, and for a stream with stream_options.include_usage set.
 * Appends to `out`; RC_FULL at its bound. */
enum rc request_splice(const struct request_body *r, const struct request_leg *leg, struct strbuf *out) SPW_MUST_USE;
/* No body of a leg is larger. */
size_t request_splice_bytes_max(const struct request_body *r, const struct request_leg *leg);

/* The prompt cannot have more tokens: none is shorter than a byte, and templates add little. (What stands behind the
 * address of a picture is not in it.) 0 where nothing is computed. */
int64_t request_input_max(const struct request_body *r);
/* Tokens before anybody has counted them; at least one, so that it has a size beside others. */
int64_t request_estimate_input(const struct request_body *r);
int64_t request_estimate_output(const struct request_body *r);

#endif
