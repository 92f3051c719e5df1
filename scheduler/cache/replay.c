#include "scheduler/cache/replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "scheduler/cache/replay_internal.h"

#define PIECE_BYTES  96
#define AROUND_BYTES 16384 /* head and tail of every chunk */
#define CALLS_MAX    ASSEMBLE_TOOLS_MAX
#define ESCAPE_BYTES 6

const char *const answer_texts[ANSWER_N_TEXTS] = {"reasoning_content", "reasoning", "content", "refusal"};

/* ---- shared with assemble.c ------------------------------------------------------------------------------------- */

int answer_text_index(const struct tree *t, const struct tree_node *m)
{
    for (int i = 0; i < ANSWER_N_TEXTS; i++) {
        if (tree_key_is(t, m, answer_texts[i]))
            return i;
    }
    return -1;
}

bool answer_finish_ok(struct bytes inside)
{
    return bytes_are(inside, "stop") || bytes_are(inside, "length") || bytes_are(inside, "tool_calls") ||
           bytes_are(inside, "function_call");
}

static bool ours(const struct tree *t, const struct tree_node *m)
{
    return m->key_n >= 8 && memcmp(t->text + m->key, "spillway", 8) == 0;
}

bool answer_field_skip(const struct tree *t, const struct tree_node *m)
{
    return tree_is_empty(m) || ours(t, m);
}

bool answer_member_skip(const struct tree *t, const struct tree_node *m)
{
    return answer_field_skip(t, m) || (m->type != TREE_OBJECT && m->type != TREE_ARRAY);
}

enum rc answer_usage_write(const struct token_counts *c, struct strbuf *out)
{
    return strbuf_printf(out,
                         "{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
                         ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
                         c->input, c->output, c->input + c->output, c->cached_input);
}

enum rc answer_put_flat(struct bytes text, struct strbuf *out)
{
    size_t from = out->len;
    enum rc rc = strbuf_append(out, text.p, text.n);
    for (size_t i = from; rc == RC_OK && i < out->len; i++) {
        if (out->data[i] == '\n' || out->data[i] == '\r')
            out->data[i] = ' ';
    }
    return rc;
}

enum rc put_all(struct strbuf *out, const struct bytes *parts, int n)
{
    enum rc rc = RC_OK;
    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = strbuf_append(out, parts[i].p, parts[i].n);
    return rc;
}

/* ---- reading an answer ------------------------------------------------------------------------------------------ */

struct call { /* one tool call; insides of strings */
    struct bytes id, name, arguments;
};

struct answer {
    const struct tree *tree; /* borrowed */
    bool chat;
    bool vectors;                       /* a list of embeddings: of the rest only usage */
    struct bytes role, text, finish;    /* insides of strings; text: of a completion */
    struct bytes texts[ANSWER_N_TEXTS]; /* of a chat's message */
    struct bytes usage, fingerprint;    /* values as written; n 0: none */
    struct call calls[CALLS_MAX];
    int n_calls;
};

static bool read_function(const struct tree *t, const struct tree_node *f, struct call *call)
{
    if (!tree_is(f, TREE_OBJECT))
        return false;
    for (const struct tree_node *m = tree_first(t, f); m; m = tree_next(t, m)) {
        if (tree_key_is(t, m, "name"))
            call->name = tree_inside(t, m);
        else if (tree_key_is(t, m, "arguments"))
            call->arguments = tree_inside(t, m);
        else if (!answer_field_skip(t, m))
            return false;
    }
    return call->name.n > 0 && tree_is(tree_find(t, f, "arguments"), TREE_STRING);
}

static bool read_call(const struct tree *t, const struct tree_node *node, struct call *call)
{
    if (!tree_is(node, TREE_OBJECT))
        return false;
    for (const struct tree_node *m = tree_first(t, node); m; m = tree_next(t, m)) {
        if (tree_key_is(t, m, "id"))
            call->id = tree_inside(t, m);
        else if (tree_key_is(t, m, "type")
                     ? !bytes_are(tree_inside(t, m), "function")
                     : !tree_key_is(t, m, "function") && !tree_key_is(t, m, "index") && !answer_field_skip(t, m))
            return false;
    }
    return read_function(t, tree_find(t, node, "function"), call);
}

static bool read_calls(struct answer *a, const struct tree_node *list)
{
    if (tree_is_empty(list))
        return true;
    if (!tree_is(list, TREE_ARRAY) || list->count > CALLS_MAX)
        return false;
    for (const struct tree_node *m = tree_first(a->tree, list); m; m = tree_next(a->tree, m)) {
        if (!read_call(a->tree, m, &a->calls[a->n_calls++]))
            return false;
    }
    return true;
}

static bool read_message(struct answer *a, const struct tree_node *message)
{
    const struct tree *t = a->tree;
    for (const struct tree_node *m = tree_first(t, message); m; m = tree_next(t, m)) {
        int i = answer_text_index(t, m);
        if (i >= 0 || tree_key_is(t, m, "role")) {
            if (!tree_is(m, TREE_STRING) && !tree_is(m, TREE_NULL))
                return false;
            *(i >= 0 ? &a->texts[i] : &a->role) = tree_inside(t, m);
        } else if (tree_key_is(t, m, "tool_calls") ? !read_calls(a, m) : !answer_field_skip(t, m)) {
            return false;
        }
    }
    return true;
}

static bool index_is_zero(const struct tree *t, const struct tree_node *choice)
{
    const struct tree_node *index = tree_find(t, choice, "index");
    return !index || bytes_are(tree_text(t, index), "0");
}

static enum rc read_choice(struct answer *a, const struct tree_node *choice)
{
    const struct tree *t = a->tree;
    const struct tree_node *message = tree_find(t, choice, "message"), *text = tree_find(t, choice, "text");
    a->chat = tree_is(message, TREE_OBJECT);
    if (!a->chat && !tree_is(text, TREE_STRING))
        return RC_INVALID;
    a->text = tree_inside(t, text);
    a->finish = tree_inside(t, tree_find(t, choice, "finish_reason"));
    if (!index_is_zero(t, choice) || !answer_finish_ok(a->finish) || (a->chat && text))
        return RC_UNSUPPORTED;
    for (const struct tree_node *m = tree_first(t, choice); m; m = tree_next(t, m)) {
        if (m != message && m != text && !answer_member_skip(t, m))
            return RC_UNSUPPORTED;
    }
    return !a->chat || read_message(a, message) ? RC_OK : RC_UNSUPPORTED;
}

static enum rc read_answer(struct answer *a, const struct tree *t)
{
    memset(a, 0, sizeof *a);
    a->tree = t;
    const struct tree_node *root = tree_root(t), *choices = tree_find(t, root, "choices");
    const struct tree_node *list = choices ? choices : tree_find(t, root, "data");
    if (!tree_is(list, TREE_ARRAY) || !list->count)
        return RC_INVALID;
    a->vectors = !choices;
    if (choices && choices->count != 1)
        return RC_UNSUPPORTED;
    const struct tree_node *usage = tree_find(t, root, "usage"), *print = tree_find(t, root, "system_fingerprint");
    if (tree_is(usage, TREE_OBJECT))
        a->usage = tree_text(t, usage);
    if (tree_is(print, TREE_STRING))
        a->fingerprint = tree_text(t, print);
    return a->vectors ? RC_OK : read_choice(a, tree_first(t, choices));
}

static enum rc parse(struct tree *t, const char *body, size_t n)
{
    tree_init(t);
    enum rc rc = tree_parse(t, body, n);
    return rc == RC_FULL ? RC_UNSUPPORTED : rc;
}

enum rc replay_check_tree(const struct tree *t)
{
    struct answer a;
    return read_answer(&a, t);
}

enum rc replay_check(const char *body, size_t n)
{
    struct tree t;
    enum rc rc = parse(&t, body, n);
    if (rc == RC_OK)
        rc = replay_check_tree(&t);
    tree_fini(&t);
    return rc;
}

/* ---- as a body -------------------------------------------------------------------------------------------------- */

enum own { OWN_ID, OWN_CREATED, OWN_MODEL, OWN_TIER, OWN_SPILLWAY, OWN_USAGE, N_OWN };
static const char *const own_names[N_OWN] = {"id", "created", "model", "service_tier", "spillway", "usage"};

/* The value that replaces the stored one; false: the stored one stays. */
static bool write_own(enum own which, const struct replay *r, const struct answer *a, struct strbuf *out, enum rc *rc)
{
    switch (which) {
    case OWN_ID: *rc = json_append_string(out, r->id, strlen(r->id)); return true;
    case OWN_CREATED: *rc = strbuf_printf(out, "%" PRId64, r->created_s); return true;
    case OWN_MODEL: *rc = json_append_string(out, r->model, strlen(r->model)); return true;
    case OWN_TIER: *rc = r->tier ? strbuf_printf(out, "\"%s\"", r->tier) : strbuf_puts(out, "null"); return true;
    case OWN_SPILLWAY: *rc = strbuf_puts(out, r->spillway ? r->spillway : "null"); return true;
    case OWN_USAGE:
    default: break;
    }
    if (a->usage.n || !r->counts)
        return false;
    *rc = answer_usage_write(r->counts, out);
    return true;
}

static int own_index(const struct tree *t, const struct tree_node *m)
{
    for (int i = 0; i < N_OWN; i++) {
        if (tree_key_is(t, m, own_names[i]))
            return i;
    }
    return -1;
}

static enum rc write_member(const struct answer *a, const struct tree_node *m, const struct replay *r, bool *seen,
                            struct strbuf *out)
{
    const struct tree *t = a->tree;
    int own = own_index(t, m);
    enum rc rc = PUT(out, LITERAL("\""), (struct bytes){t->text + m->key, m->key_n}, LITERAL("\":"));
    if (own >= 0)
        seen[own] = true;
    if (rc == RC_OK && (own < 0 || !write_own((enum own)own, r, a, out, &rc)))
        rc = PUT(out, tree_text(t, m));
    return rc;
}

static enum rc write_missing(const struct answer *a, const struct replay *r, const bool *seen, struct strbuf *out)
{
    enum rc rc = RC_OK;
    for (int i = 0; i < N_OWN && rc == RC_OK; i++) {
        bool unwanted = (i == OWN_SPILLWAY && !r->spillway) || (i == OWN_TIER && !r->tier) ||
                        (i == OWN_USAGE && !r->counts) || (a->vectors && (i == OWN_ID || i == OWN_CREATED));
        if (seen[i] || unwanted)
            continue;
        rc = strbuf_printf(out, ",\"%s\":", own_names[i]);
        if (rc == RC_OK)
            (void)write_own((enum own)i, r, a, out, &rc);
    }
    return rc;
}

enum rc replay_body(const char *body, size_t n, const struct replay *r, struct strbuf *out)
{
    struct answer a;
    struct tree t;
    bool seen[N_OWN] = {false};
    enum rc rc = parse(&t, body, n);
    if (rc == RC_OK)
        rc = read_answer(&a, &t);
    const struct tree_node *first = rc == RC_OK ? tree_first(&t, tree_root(&t)) : NULL;
    for (const struct tree_node *m = first; m && rc == RC_OK; m = tree_next(&t, m)) {
        rc = strbuf_puts(out, m == first ? "{" : ",");
        if (rc == RC_OK)
            rc = write_member(&a, m, r, seen, out);
    }
    if (rc == RC_OK)
        rc = write_missing(&a, r, seen, out);
    tree_fini(&t);
    return rc == RC_OK ? strbuf_puts(out, "}") : rc;
}

/* ---- as a stream ------------------------------------------------------------------------------------------------ */

struct chunks {
    const struct answer *a;
    const struct replay *r;
    struct strbuf head, tail; /* of every chunk with a delta, around what stands in it */
    struct strbuf *out;
    size_t piece;
};

static enum rc write_head(struct chunks *c)
{
    const char *object = c->a->chat ? "chat.completion.chunk" : "text_completion";
    enum rc rc = PUT(&c->head, LITERAL("data: {\"id\":"));
    if (rc == RC_OK)
        rc = json_append_string(&c->head, c->r->id, strlen(c->r->id));
    if (rc == RC_OK)
        rc = strbuf_printf(&c->head, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", object, c->r->created_s);
    if (rc == RC_OK)
        rc = json_append_string(&c->head, c->r->model, strlen(c->r->model));
    if (rc == RC_OK && c->r->tier)
        rc = strbuf_printf(&c->head, ",\"service_tier\":\"%s\"", c->r->tier);
    if (rc == RC_OK && c->a->fingerprint.n)
        rc = PUT(&c->head, LITERAL(",\"system_fingerprint\":"), c->a->fingerprint);
    return rc;
}

static enum rc write_around(struct chunks *c)
{
    enum rc rc = write_head(c);
    if (rc == RC_OK)
        rc = PUT(&c->tail, c->r->usage_asked ? LITERAL("}],\"usage\":null}\n\n") : LITERAL("}]}\n\n"));
    return rc;
}

/* One chunk: `inside` stands in the delta, or is the text. */
static enum rc write_chunk(const struct chunks *c, struct bytes inside, struct bytes finish)
{
    bool chat = c->a->chat;
    return PUT(c->out, BYTES_OF(c->head), LITERAL(",\"choices\":[{\"index\":0,"),
               chat ? LITERAL("\"delta\":{") : LITERAL("\"text\":\""), inside, chat ? LITERAL("}") : LITERAL("\""),
               LITERAL(",\"logprobs\":null,\"finish_reason\":"), finish, BYTES_OF(c->tail));
}

static size_t escape_bytes(const char *p, const char *end)
{
    bool high = p[1] == 'u' && (p[2] == 'd' || p[2] == 'D') && strchr("89abAB", p[3]);
    if (p[1] != 'u')
        return 2;
    bool pair = high && end - p >= 2 * ESCAPE_BYTES && p[ESCAPE_BYTES] == '\\' && p[ESCAPE_BYTES + 1] == 'u';
    return pair ? 2 * ESCAPE_BYTES : ESCAPE_BYTES;
}

/* The next piece of a string's inside: about `want` bytes, never within an escape or a character. */
static size_t piece_bytes(const char *p, const char *end, size_t want)
{
    const char *at = p;
    while (at < end && (size_t)(at - p) < want) {
        at += *at == '\\' ? escape_bytes(at, end) : 1;
        while (at < end && ((unsigned char)*at & 0xC0) == 0x80)
            at++;
    }
    return (size_t)((at < end ? at : end) - p);
}

/* A text in chunks that read before PIECE after. */
static enum rc write_pieces(const struct chunks *c, struct bytes text, struct bytes before, struct bytes after)
{
    struct strbuf inside;
    enum rc rc = RC_OK;
    strbuf_init(&inside, text.n + AROUND_BYTES);
    while (text.n && rc == RC_OK) {
        const char *p = text.p;
        size_t n = piece_bytes(p, p + text.n, c->piece);
        strbuf_clear(&inside);
        rc = PUT(&inside, before, (struct bytes){p, n}, after);
        if (rc == RC_OK)
            rc = write_chunk(c, BYTES_OF(inside), LITERAL("null"));
        text = (struct bytes){p + n, text.n - n};
    }
    strbuf_fini(&inside);
    return rc;
}

static enum rc write_texts(const struct chunks *c)
{
    char before[64];
    enum rc rc = RC_OK;
    for (int i = 0; i < ANSWER_N_TEXTS && rc == RC_OK; i++) {
        int n = snprintf(before, sizeof before, "\"%s\":\"", answer_texts[i]);
        rc = write_pieces(c, c->a->texts[i], (struct bytes){before, (size_t)n}, LITERAL("\""));
    }
    return rc;
}

static enum rc write_call(const struct chunks *c, int index)
{
    const struct call *call = &c->a->calls[index];
    struct strbuf inside;
    char before[80];
    strbuf_init(&inside, call->id.n + call->name.n + AROUND_BYTES);
    enum rc rc = strbuf_printf(&inside, "\"tool_calls\":[{\"index\":%d,\"id\":\"", index);
    if (rc == RC_OK)
        rc = PUT(&inside, call->id, LITERAL("\",\"type\":\"function\",\"function\":{\"name\":\""), call->name,
                 LITERAL("\",\"arguments\":\"\"}}]"));
    if (rc == RC_OK)
        rc = write_chunk(c, BYTES_OF(inside), LITERAL("null"));
    strbuf_fini(&inside);
    int n = snprintf(before, sizeof before, "\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":\"", index);
    return rc == RC_OK ? write_pieces(c, call->arguments, (struct bytes){before, (size_t)n}, LITERAL("\"}}]")) : rc;
}

static enum rc write_role(const struct chunks *c)
{
    struct strbuf inside;
    strbuf_init(&inside, c->a->role.n + AROUND_BYTES);
    enum rc rc = PUT(&inside, LITERAL("\"role\":\""), c->a->role.n ? c->a->role : LITERAL("assistant"),
                     LITERAL("\",\"content\":\"\""));
    if (rc == RC_OK)
        rc = write_chunk(c, BYTES_OF(inside), LITERAL("null"));
    strbuf_fini(&inside);
    return rc;
}

static enum rc write_answer(const struct chunks *c)
{
    if (!c->a->chat)
        return write_pieces(c, c->a->text, LITERAL(""), LITERAL(""));
    enum rc rc = write_role(c);
    if (rc == RC_OK)
        rc = write_texts(c);
    for (int i = 0; i < c->a->n_calls && rc == RC_OK; i++)
        rc = write_call(c, i);
    return rc;
}

static enum rc write_finish(const struct chunks *c)
{
    struct bytes quoted = {c->a->finish.p - 1, c->a->finish.n + 2}; /* with the quotes that stand around it */
    return write_chunk(c, LITERAL(""), quoted);
}

static enum rc write_usage(const struct chunks *c)
{
    enum rc rc = PUT(c->out, BYTES_OF(c->head), LITERAL(",\"choices\":[],\"usage\":"));
    if (rc == RC_OK && c->a->usage.n)
        rc = answer_put_flat(c->a->usage, c->out);
    else if (rc == RC_OK)
        rc = c->r->counts ? answer_usage_write(c->r->counts, c->out) : strbuf_puts(c->out, "null");
    if (rc == RC_OK && c->r->spillway)
        rc = PUT(c->out, LITERAL(",\"spillway\":"), (struct bytes){c->r->spillway, strlen(c->r->spillway)});
    return rc == RC_OK ? PUT(c->out, LITERAL("}\n\n")) : rc;
}

enum rc replay_stream(const char *body, size_t n, const struct replay *r, struct strbuf *out, size_t *tail)
{
    struct answer a;
    struct tree t;
    struct chunks c = {.a = &a, .r = r, .out = out, .piece = r->piece_bytes ? r->piece_bytes : PIECE_BYTES};
    strbuf_init(&c.head, AROUND_BYTES);
    strbuf_init(&c.tail, AROUND_BYTES);
    enum rc rc = parse(&t, body, n);
    if (rc == RC_OK)
        rc = read_answer(&a, &t);
    if (rc == RC_OK && a.vectors)
        rc = RC_UNSUPPORTED;
    if (rc == RC_OK)
        rc = write_around(&c);
    if (rc == RC_OK)
        rc = write_answer(&c);
    if (tail)
        *tail = out->len;
    if (rc == RC_OK)
        rc = write_finish(&c);
    if (rc == RC_OK && r->usage_asked)
        rc = write_usage(&c);
    if (rc == RC_OK)
        rc = PUT(out, LITERAL("data: [DONE]\n\n"));
    strbuf_fini(&c.head);
    strbuf_fini(&c.tail);
    tree_fini(&t);
    return rc;
}
