/* Any bytes as a request, as an answer, and as a stream's chunk: nothing crashes; the canonical form of a canonical
 * form is itself and is JSON; what a request may be, answers may be, too, and both readers find the same places in it;
 * what replay_check() accepts can be replayed, and what the assembler makes of its stream says the same again.
 * links: spw_sched_cache */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/sse.h"
#include "scheduler/cache/assemble.h"
#include "scheduler/cache/cache.h"
#include "scheduler/cache/replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct tree scratch; /* kept, as on a loop */

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void same_place(struct bytes b, const char *p, size_t n)
{
    must(b.n == n && b.p == p);
}

static void same_tree(const struct tree *t, const struct tree_node *node, const cJSON *item)
{
    static const int types[] = {cJSON_Object, cJSON_Array, cJSON_String, cJSON_Number,
                                cJSON_True,   cJSON_False, cJSON_NULL};
    size_t n;
    must(item->type == types[node->type]);
    const char *p = json_doc_text(item, &n);
    same_place(tree_text(t, node), p, n);
    const struct tree_node *there = tree_first(t, node);
    for (const cJSON *m = item->child; m; m = m->next, there = tree_next(t, there)) {
        must(there != NULL);
        if (cJSON_IsObject(item)) {
            p = json_doc_name(item, m, &n);
            same_place((struct bytes){t->text + there->key, there->key_n}, p, n);
        }
        same_tree(t, there, m);
    }
    must(there == NULL);
}

static void as_both(const struct json_doc *d, const char *text, size_t n)
{
    struct tree t;
    tree_init(&t);
    must(tree_parse(&t, text, n) == RC_OK);
    same_tree(&t, tree_root(&t), d->root);
    tree_fini(&t);
}

/* The form of a request: of itself the same, and the same key. */
static void again(const struct strbuf *form, const struct cache_key *key, bool deterministic)
{
    struct json_doc d;
    struct strbuf twice;
    struct cache_key k;
    const struct cache_key_input in = {CACHE_CHAT, "t", "m"};
    strbuf_init(&twice, 2 * form->len + 64);
    must(json_doc_parse(&d, form->data, form->len, JSON_DEPTH_MAX, NULL) == RC_OK);
    must(canonical_write(d.root, &twice) == RC_OK);
    must(form->len == twice.len && memcmp(form->data, twice.data, twice.len) == 0);
    must(canonical_is_deterministic(d.root) == deterministic);
    must(canonical_key(d.root, &in, &twice, &k) == RC_OK);
    must(memcmp(&k, key, sizeof k) == 0);
    json_doc_fini(&d);
    strbuf_fini(&twice);
}

static void as_request(const char *text, size_t n)
{
    struct json_doc d;
    struct strbuf form, other;
    struct cache_key key;
    const struct cache_key_input in = {CACHE_CHAT, "t", "m"};
    if (json_doc_parse(&d, text, n, JSON_DEPTH_MAX, NULL) != RC_OK)
        return;
    as_both(&d, text, n);
    strbuf_init(&form, 4 * n + 64);
    strbuf_init(&other, 4 * n + 64);
    if (cJSON_IsObject(d.root) && canonical_write(d.root, &form) == RC_OK) {
        must(form.len <= 2 * n + 64);
        must(canonical_key(d.root, &in, &other, &key) == RC_OK);
        again(&form, &key, canonical_is_deterministic(d.root));
    }
    json_doc_fini(&d);
    strbuf_fini(&form);
    strbuf_fini(&other);
}

static enum rc on_frame(const struct sse_frame *f, void *arg)
{
    if (f->data_len == 6 && memcmp(f->data, "[DONE]", 6) == 0)
        return RC_OK;
    must(f->has_data);
    must(assembler_feed(arg, f->data, f->data_len) == RC_OK);
    return RC_OK;
}

/* Answer -> stream -> answer. Twice, as the first round drops what we do not know (stop_reason and the like). */
static void round_trip(const char *text, size_t n, const struct replay *how, struct strbuf *whole)
{
    struct token_counts counts = {.input = 1};
    struct strbuf stream;
    struct assembler a;
    struct sse *sse = sse_new(n + 65536);
    strbuf_init(&stream, 1000 * n + 65536);
    assembler_init(&a, 4 * n + 1024, &scratch);
    must(replay_stream(text, n, how, &stream, NULL) == RC_OK);
    must(sse_feed(sse, stream.data, stream.len, on_frame, &a) == RC_OK);
    must(sse_finish(sse, on_frame, &a) == RC_OK);
    must(assembler_finish(&a, &counts, whole) == RC_OK);
    must(replay_check(whole->data, whole->len) == RC_OK);
    assembler_fini(&a);
    sse_free(sse);
    strbuf_fini(&stream);
}

/* A list of embeddings is a body and nothing else. */
static bool has_choices(const char *text, size_t n)
{
    struct tree t;
    tree_init(&t);
    must(tree_parse(&t, text, n) == RC_OK);
    bool has = tree_find(&t, tree_root(&t), "choices") != NULL;
    tree_fini(&t);
    return has;
}

static void as_answer(const char *text, size_t n)
{
    struct replay how = {.id = "i", .created_s = 1, .model = "m", .usage_asked = n % 2, .piece_bytes = n % 7};
    struct strbuf body, once, twice;
    strbuf_init(&body, n + 4096);
    strbuf_init(&once, 4 * n + 65536);
    strbuf_init(&twice, 4 * n + 65536);
    if (replay_check(text, n) == RC_OK) {
        must(replay_body(text, n, &how, &body) == RC_OK);
        must(replay_check(body.data, body.len) == RC_OK);
    }
    if (replay_check(text, n) == RC_OK && !has_choices(text, n)) {
        must(replay_stream(text, n, &how, &once, NULL) == RC_UNSUPPORTED);
    } else if (replay_check(text, n) == RC_OK) {
        round_trip(text, n, &how, &once);
        round_trip(once.data, once.len, &how, &twice);
        if (how.usage_asked)
            must(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    }
    strbuf_fini(&body);
    strbuf_fini(&once);
    strbuf_fini(&twice);
}

/* Lines as chunks. */
static void as_chunks(const char *text, size_t n)
{
    struct token_counts counts = {.input = 1};
    struct assembler a;
    struct strbuf whole;
    const char *end = text + n;
    strbuf_init(&whole, 4 * n + 65536);
    assembler_init(&a, n / 2 + 16, &scratch);
    while (text < end && a.rc == RC_OK) {
        const char *line = memchr(text, '\n', (size_t)(end - text));
        line = line ? line : end;
        (void)assembler_feed(&a, text, (size_t)(line - text));
        text = line + (line < end);
    }
    if (assembler_finish(&a, &counts, &whole) == RC_OK) {
        enum rc rc = replay_check(whole.data, whole.len);
        must(rc == RC_OK || (rc == RC_UNSUPPORTED && a.n_tools > 0)); /* a tool without a name may still be refused */
    }
    assembler_fini(&a);
    strbuf_fini(&whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cache_ask ask;
    char *text = malloc(n + 1); /* an end of its own, so that one byte too far is seen */
    if (!text)
        return 0;
    memcpy(text, data, n);
    text[n] = '\0';
    (void)!cache_ask_parse(&ask, text, NULL, NULL);
    (void)!cache_ask_parse(&ask, NULL, text, NULL);
    free(text);
    text = malloc(n ? n : 1);
    if (!text)
        return 0;
    memcpy(text, data, n);
    as_request(text, n);
    as_answer(text, n);
    as_chunks(text, n);
    free(text);
    return 0;
}
