#include "scheduler/cache/assemble.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/cache/replay_internal.h"

_Static_assert(sizeof((struct assembler *)0)->texts / sizeof(struct strbuf) == ANSWER_N_TEXTS, "a buffer per text");

static void each_of_tool(struct assembled_tool *tool, void (*call)(struct strbuf *b, size_t max), size_t max)
{
    call(&tool->id, max);
    call(&tool->type, max);
    call(&tool->name, max);
    call(&tool->arguments, max);
}

static void each_buffer(struct assembler *a, void (*call)(struct strbuf *b, size_t max), size_t max)
{
    struct strbuf *const own[] = {&a->id, &a->model, &a->fingerprint, &a->usage, &a->role, &a->finish};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        call(own[i], max);
    for (int i = 0; i < ANSWER_N_TEXTS; i++)
        call(&a->texts[i], max);
}

static void fini_buffer(struct strbuf *b, size_t max)
{
    (void)max;
    strbuf_fini(b);
}

void assembler_init(struct assembler *a, size_t bytes_max, struct tree *scratch)
{
    memset(a, 0, sizeof *a);
    a->bytes_max = bytes_max;
    a->chat = true;
    a->tree = scratch;
    each_buffer(a, strbuf_init, bytes_max);
}

static void free_tools(struct assembler *a)
{
    for (int i = 0; a->tools && i < ASSEMBLE_TOOLS_MAX; i++)
        each_of_tool(&a->tools[i], fini_buffer, 0);
    free(a->tools);
    a->tools = NULL;
    a->n_tools = 0;
}

void assembler_fini(struct assembler *a)
{
    free_tools(a);
    each_buffer(a, fini_buffer, 0);
}

#define SPARE_BYTES_MAX ((size_t)16 << 10) /* of one buffer that is kept for the next stream */

static void reset_buffer(struct strbuf *b, size_t max)
{
    (void)max;
    if (b->cap > SPARE_BYTES_MAX)
        strbuf_fini(b);
    else
        strbuf_clear(b);
}

void assembler_reset(struct assembler *a)
{
    free_tools(a); /* few streams have them, and they are many buffers */
    each_buffer(a, reset_buffer, 0);
    a->rc = RC_OK;
    a->bytes = 0;
    a->chat = true;
    a->begun = a->finished = false;
    a->created_s = 0;
}

static enum rc keep(struct assembler *a, struct strbuf *b, struct bytes text)
{
    if (text.n > a->bytes_max - a->bytes)
        return RC_FULL;
    a->bytes += text.n;
    return strbuf_append(b, text.p, text.n);
}

/* What says the same in every chunk that has it. */
static enum rc keep_once(struct assembler *a, struct strbuf *b, struct bytes text)
{
    if (!text.n || (b->len == text.n && memcmp(b->data, text.p, text.n) == 0))
        return RC_OK;
    return b->len ? RC_UNSUPPORTED : keep(a, b, text);
}

/* ---- tool calls: pieces of a call come under its index, and a new one is the next index ---- */

static struct assembled_tool *tool_at(struct assembler *a, const struct tree_node *index)
{
    struct bytes text = tree_text(a->tree, index);
    char number[8];
    int64_t i;
    if (!text.n || text.n >= sizeof number)
        return NULL;
    memcpy(number, text.p, text.n);
    number[text.n] = '\0';
    if (text_parse_int(number, 0, ASSEMBLE_TOOLS_MAX - 1, &i) != RC_OK || i > a->n_tools)
        return NULL;
    if (!a->tools) {
        a->tools = spw_calloc(ASSEMBLE_TOOLS_MAX, sizeof *a->tools);
        for (int k = 0; k < ASSEMBLE_TOOLS_MAX; k++)
            each_of_tool(&a->tools[k], strbuf_init, a->bytes_max);
    }
    if (i == a->n_tools)
        a->n_tools++;
    return &a->tools[i];
}

static enum rc take_function(struct assembler *a, struct assembled_tool *tool, const struct tree_node *f)
{
    const struct tree *t = a->tree;
    enum rc rc = RC_OK;
    for (const struct tree_node *m = tree_first(t, f); m && rc == RC_OK; m = tree_next(t, m)) {
        if (tree_key_is(t, m, "name"))
            rc = keep_once(a, &tool->name, tree_inside(t, m));
        else if (tree_key_is(t, m, "arguments"))
            rc = keep(a, &tool->arguments, tree_inside(t, m));
        else if (!answer_field_skip(t, m))
            rc = RC_UNSUPPORTED;
    }
    return rc;
}

static enum rc take_tool(struct assembler *a, const struct tree_node *node)
{
    const struct tree *t = a->tree;
    struct assembled_tool *tool = tool_at(a, tree_find(t, node, "index"));
    enum rc rc = tool ? RC_OK : RC_UNSUPPORTED;
    for (const struct tree_node *m = tree_first(t, node); m && rc == RC_OK; m = tree_next(t, m)) {
        if (tree_key_is(t, m, "id"))
            rc = keep_once(a, &tool->id, tree_inside(t, m));
        else if (tree_key_is(t, m, "type"))
            rc = keep_once(a, &tool->type, tree_inside(t, m));
        else if (tree_key_is(t, m, "function"))
            rc = take_function(a, tool, m);
        else if (!tree_key_is(t, m, "index") && !answer_field_skip(t, m))
            rc = RC_UNSUPPORTED;
    }
    return rc;
}

static enum rc take_tools(struct assembler *a, const struct tree_node *list)
{
    enum rc rc = tree_is_empty(list) || tree_is(list, TREE_ARRAY) ? RC_OK : RC_UNSUPPORTED;
    for (const struct tree_node *m = tree_first(a->tree, list); m && rc == RC_OK; m = tree_next(a->tree, m))
        rc = take_tool(a, m);
    return rc;
}

/* ---- chunks ----------------------------------------------------------------------------------------------------- */

static enum rc take_delta(struct assembler *a, const struct tree_node *delta)
{
    const struct tree *t = a->tree;
    enum rc rc = RC_OK;
    for (const struct tree_node *m = tree_first(t, delta); m && rc == RC_OK; m = tree_next(t, m)) {
        int i = answer_text_index(t, m);
        if (i >= 0 || tree_key_is(t, m, "role")) {
            if (!tree_is(m, TREE_STRING) && !tree_is(m, TREE_NULL))
                return RC_UNSUPPORTED;
            rc = i >= 0 ? keep(a, &a->texts[i], tree_inside(t, m)) : keep_once(a, &a->role, tree_inside(t, m));
        } else if (tree_key_is(t, m, "tool_calls")) {
            rc = take_tools(a, m);
        } else if (!answer_field_skip(t, m)) {
            rc = RC_UNSUPPORTED;
        }
    }
    return rc;
}

static enum rc take_finish(struct assembler *a, const struct tree_node *m)
{
    if (tree_is(m, TREE_NULL))
        return RC_OK;
    if (!answer_finish_ok(tree_inside(a->tree, m)))
        return RC_UNSUPPORTED;
    a->finished = true;
    return keep_once(a, &a->finish, tree_text(a->tree, m));
}

static enum rc take_choice(struct assembler *a, const struct tree_node *choice)
{
    const struct tree *t = a->tree;
    const struct tree_node *delta = tree_find(t, choice, "delta"), *text = tree_find(t, choice, "text");
    enum rc rc = RC_OK;
    bool chat = tree_is(delta, TREE_OBJECT);
    if (chat == tree_is(text, TREE_STRING) || (a->begun && chat != a->chat))
        return RC_UNSUPPORTED;
    a->begun = true;
    a->chat = chat;
    for (const struct tree_node *m = tree_first(t, choice); m && rc == RC_OK; m = tree_next(t, m)) {
        if (m == delta)
            rc = take_delta(a, m);
        else if (m == text)
            rc = keep(a, &a->texts[ANSWER_CONTENT], tree_inside(t, m));
        else if (tree_key_is(t, m, "finish_reason"))
            rc = take_finish(a, m);
        else if (tree_key_is(t, m, "index") ? !bytes_are(tree_text(t, m), "0") : !answer_member_skip(t, m))
            rc = RC_UNSUPPORTED;
    }
    return rc;
}

static enum rc take_choices(struct assembler *a, const struct tree_node *list)
{
    if (tree_is_empty(list))
        return RC_OK;
    if (!tree_is(list, TREE_ARRAY) || list->count != 1)
        return RC_UNSUPPORTED;
    const struct tree_node *choice = tree_first(a->tree, list);
    return tree_is(choice, TREE_OBJECT) ? take_choice(a, choice) : RC_INVALID;
}

static void take_created(struct assembler *a, const struct tree_node *m)
{
    struct bytes text = tree_text(a->tree, m);
    char number[24];
    if (a->created_s || !tree_is(m, TREE_NUMBER) || text.n >= sizeof number)
        return;
    memcpy(number, text.p, text.n);
    number[text.n] = '\0';
    if (text_parse_int(number, 0, INT64_MAX, &a->created_s) != RC_OK)
        a->created_s = 0; /* it is replaced at every replay anyhow */
}

/* The first chunk that has it decides; some servers leave it empty later on. */
static enum rc keep_first(struct assembler *a, struct strbuf *b, const struct tree_node *m)
{
    return b->len || !tree_is(m, TREE_STRING) ? RC_OK : keep(a, b, tree_text(a->tree, m));
}

/* Running counts: the last ones are right. */
static enum rc keep_usage(struct assembler *a, struct bytes object)
{
    a->bytes -= a->usage.len;
    strbuf_clear(&a->usage);
    return keep(a, &a->usage, object);
}

static enum rc take_chunk(struct assembler *a, const struct tree_node *root)
{
    const struct tree *t = a->tree;
    enum rc rc = RC_OK;
    for (const struct tree_node *m = tree_first(t, root); m && rc == RC_OK; m = tree_next(t, m)) {
        if (tree_key_is(t, m, "choices")) {
            rc = take_choices(a, m);
        } else if (tree_key_is(t, m, "usage") && tree_is(m, TREE_OBJECT)) {
            rc = keep_usage(a, tree_text(t, m));
        } else if (tree_key_is(t, m, "id")) {
            rc = keep_first(a, &a->id, m);
        } else if (tree_key_is(t, m, "model")) {
            rc = keep_first(a, &a->model, m);
        } else if (tree_key_is(t, m, "system_fingerprint")) {
            rc = keep_first(a, &a->fingerprint, m);
        } else if (tree_key_is(t, m, "created")) {
            take_created(a, m);
        } else if (tree_key_is(t, m, "error") && !tree_is(m, TREE_NULL)) {
            rc = RC_UNSUPPORTED;
        }
    }
    return rc;
}

static enum rc fail_once(struct assembler *a, enum rc rc)
{
    a->rc = rc;
    if (rc != RC_OK)
        assembler_fini(a);
    return rc;
}

enum rc assembler_feed(struct assembler *a, const char *chunk, size_t n)
{
    if (a->rc != RC_OK)
        return a->rc;
    enum rc rc = tree_parse(a->tree, chunk, n);
    if (rc == RC_OK)
        rc = tree_is(tree_root(a->tree), TREE_OBJECT) ? take_chunk(a, tree_root(a->tree)) : RC_INVALID;
    return fail_once(a, rc);
}

enum rc assembler_text(struct assembler *a, struct bytes inside)
{
    if (a->rc != RC_OK)
        return a->rc;
    return fail_once(a, a->begun ? keep(a, &a->texts[ANSWER_CONTENT], inside) : RC_INVALID);
}

enum rc assembler_usage(struct assembler *a, struct bytes object)
{
    return a->rc == RC_OK ? fail_once(a, keep_usage(a, object)) : a->rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static enum rc write_calls(const struct assembler *a, struct strbuf *out)
{
    enum rc rc = PUT(out, LITERAL(",\"tool_calls\":["));
    for (int i = 0; i < a->n_tools && rc == RC_OK; i++) {
        const struct assembled_tool *tool = &a->tools[i];
        rc = PUT(out, i ? LITERAL(",{\"id\":\"") : LITERAL("{\"id\":\""), BYTES_OF(tool->id), LITERAL("\",\"type\":\""),
                 tool->type.len ? BYTES_OF(tool->type) : LITERAL("function"), LITERAL("\",\"function\":{\"name\":\""),
                 BYTES_OF(tool->name), LITERAL("\",\"arguments\":\""), BYTES_OF(tool->arguments), LITERAL("\"}}"));
    }
    return rc == RC_OK ? PUT(out, LITERAL("]")) : rc;
}

static enum rc write_message(const struct assembler *a, struct strbuf *out)
{
    bool null_content = a->n_tools && !a->texts[ANSWER_CONTENT].len;
    enum rc rc = PUT(out, LITERAL("\"message\":{\"role\":\""), a->role.len ? BYTES_OF(a->role) : LITERAL("assistant"),
                     LITERAL("\",\"content\":"));
    if (rc == RC_OK)
        rc = null_content ? PUT(out, LITERAL("null"))
                          : PUT(out, LITERAL("\""), BYTES_OF(a->texts[ANSWER_CONTENT]), LITERAL("\""));
    for (int i = 0; i < ANSWER_N_TEXTS && rc == RC_OK; i++) {
        if (i != ANSWER_CONTENT && a->texts[i].len)
            rc = PUT(out, LITERAL(",\""), (struct bytes){answer_texts[i], strlen(answer_texts[i])}, LITERAL("\":\""),
                     BYTES_OF(a->texts[i]), LITERAL("\""));
    }
    if (rc == RC_OK && a->n_tools)
        rc = write_calls(a, out);
    return rc == RC_OK ? PUT(out, LITERAL("}")) : rc;
}

static enum rc write_text(const struct assembler *a, struct strbuf *out)
{
    return PUT(out, LITERAL("\"text\":\""), BYTES_OF(a->texts[ANSWER_CONTENT]), LITERAL("\""));
}

static enum rc write_outer(const struct assembler *a, struct strbuf *out)
{
    enum rc rc = PUT(out, LITERAL("{\"id\":"), a->id.len ? BYTES_OF(a->id) : LITERAL("\"\""), LITERAL(",\"object\":"),
                     a->chat ? LITERAL("\"chat.completion\"") : LITERAL("\"text_completion\""));
    if (rc == RC_OK)
        rc = PUT(out, LITERAL(",\"created\":"));
    if (rc == RC_OK)
        rc = strbuf_int(out, a->created_s);
    if (rc == RC_OK)
        rc = PUT(out, LITERAL(",\"model\":"));
    if (rc == RC_OK)
        rc = PUT(out, a->model.len ? BYTES_OF(a->model) : LITERAL("\"\""));
    if (rc == RC_OK && a->fingerprint.len)
        rc = PUT(out, LITERAL(",\"system_fingerprint\":"), BYTES_OF(a->fingerprint));
    return rc == RC_OK ? PUT(out, LITERAL(",\"choices\":[{\"index\":0,")) : rc;
}

enum rc assembler_finish(const struct assembler *a, const struct token_counts *counts, struct strbuf *out)
{
    if (a->rc != RC_OK)
        return a->rc;
    if (!a->finished)
        return RC_AGAIN;
    enum rc rc = write_outer(a, out);
    if (rc == RC_OK)
        rc = a->chat ? write_message(a, out) : write_text(a, out);
    if (rc == RC_OK)
        rc = PUT(out, LITERAL(",\"logprobs\":null,\"finish_reason\":"), BYTES_OF(a->finish), LITERAL("}],\"usage\":"));
    if (rc == RC_OK)
        rc = a->usage.len ? PUT(out, BYTES_OF(a->usage)) : answer_usage_write(counts, out);
    return rc == RC_OK ? PUT(out, LITERAL("}")) : rc;
}
