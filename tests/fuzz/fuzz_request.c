/* A request's body through parsing and splicing, and the same bytes as a node's stream and answer: nothing crashes,
 * what was valid stays valid JSON and says the same but for what was spliced.
 * links: spw_sched_front */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scheduler/wire/answer.h"
#include "scheduler/wire/request.h"
#include "scheduler/wire/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* Everything but the two members that may change is the same as before. */
static void check_same(const cJSON *before, const cJSON *after)
{
    for (const cJSON *m = before->child; m; m = m->next) {
        if (strcmp(m->string, "model") == 0 || strcmp(m->string, "stream_options") == 0)
            continue;
        must(cJSON_Compare(m, cJSON_GetObjectItemCaseSensitive(after, m->string), 1));
    }
}

static void splice(const struct request_body *r, const char *model, const char *text, size_t n)
{
    struct strbuf out;
    cJSON *before = NULL, *after = NULL;
    struct error e;
    strbuf_init(&out, n + 8192);
    must(request_splice(r, &(struct request_leg){.upstream_model = model, .stream = r->stream}, &out) == RC_OK);
    must(json_parse(text, n, JSON_DEPTH_MAX, &before, &e) == RC_OK);
    must(json_parse(out.data, out.len, JSON_DEPTH_MAX, &after, &e) == RC_OK);
    check_same(before, after);
    must(strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(after, "model")), model ? model : r->model) == 0);
    if (r->stream) {
        const cJSON *options = cJSON_GetObjectItemCaseSensitive(after, "stream_options");
        must(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(options, "include_usage")));
    }
    cJSON_Delete(before);
    cJSON_Delete(after);
    strbuf_fini(&out);
}

static void as_stream(const char *text, size_t n)
{
    struct stream s;
    struct strbuf out;
    struct token_counts counts = {.input = 1, .output = 1};
    enum stream_status status = STREAM_MORE;
    stream_init(&s, n % 2 ? "m" : NULL, n % 3 == 0);
    stream_say_tier(&s, n % 5 ? NULL : "priority");
    strbuf_init(&out, (size_t)64 << 20);
    for (size_t at = 0; at < n && status == STREAM_MORE; at += 37)
        status = stream_feed(&s, text + at, n - at < 37 ? n - at : 37, &out);
    if (status == STREAM_MORE)
        status = stream_eof(&s, &out);
    if (status == STREAM_DONE)
        must(stream_final(&s, &(struct stream_bill){.node = "node", .charge_usd = "0.01", .millijoules = 12345},
                          &counts, &out) == RC_OK);
    /* Only whole frames leave. */
    must(out.len == 0 ||
         (out.len > 8 && memcmp(out.data, "data: ", 6) == 0 && memcmp(out.data + out.len - 2, "\n\n", 2) == 0));
    strbuf_fini(&out);
    stream_fini(&s);
}

/* Later legs say more, and the body stays JSON. */
static void splice_later(const struct request_body *r)
{
    static char so_far[] = "a\\n\\ud83d\\ude00", known[] = "1,22,333";
    const struct strbuf text = {.data = so_far, .len = sizeof so_far - 1, .max = 64},
                        ids = {.data = known, .len = sizeof known - 1, .max = 64};
    const struct request_leg legs[] = {{.stream = true, .to_engine = true, .seed = 7, .ids = &ids},
                                       {.stream = true, .text = &text, .said = 2}};
    for (int i = 0; i < 2; i++) {
        struct strbuf out;
        cJSON *after = NULL;
        struct error e;
        if (!(i ? r->prefixable : r->resumable))
            continue;
        strbuf_init(&out, request_splice_bytes_max(r, &legs[i]));
        must(request_splice(r, &legs[i], &out) == RC_OK);
        must(json_parse(out.data, out.len, JSON_DEPTH_MAX, &after, &e) == RC_OK);
        must(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(after, "stream")));
        must(i || cJSON_GetObjectItemCaseSensitive(after, "spillway_resume"));
        cJSON_Delete(after);
        strbuf_fini(&out);
    }
}

/* The same bytes as two legs of one answer, streamed and gathered. */
static void as_legs(const char *text, size_t n)
{
    struct trail trail;
    struct whole whole;
    struct strbuf out;
    strbuf_init(&out, (size_t)64 << 20);
    for (int gather = 0; gather < 2; gather++) {
        trail_init(&trail, n % 2 ? TRAIL_TEXT : TRAIL_IDS);
        whole_init(&whole, n % 3 == 0);
        for (int leg = 0; leg < 2; leg++) {
            struct stream s;
            size_t from = leg ? n / 2 : 0, to = leg ? n : n / 2;
            stream_init(&s, NULL, true);
            stream_follow(&s, &trail, gather ? &whole : NULL);
            enum stream_status status = stream_feed(&s, text + from, to - from, &out);
            if (status == STREAM_DONE && gather && stream_gather_held(&s) == RC_OK)
                must(whole_write(&whole, &(struct whole_head){.like = {s.like.data, s.like.len}}, &out) == RC_OK);
            stream_fini(&s);
        }
        must(trail.ids_known || !trail.ids.len);
        trail_fini(&trail);
        whole_fini(&whole);
    }
    strbuf_fini(&out);
}

static void as_answer(const char *text, size_t n, enum request_kind kind)
{
    struct token_counts counts = {0};
    struct strbuf out;
    bool known;
    strbuf_init(&out, n + 8192);
    if (answer_read((struct span){text, n}, request_traits(kind)->answers, &counts, &known) == RC_OK)
        must(answer_write((struct span){text, n}, "m", n % 2 ? "flex" : NULL, &out) == RC_OK);
    strbuf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct request_body r;
    struct json_doc doc;
    const char *param;
    struct error e;
    char *text = malloc(n + 1); /* an end of its own, so that one byte too far is seen */
    memcpy(text, data, n);
    text[n] = '\0';
    for (int kind = REQUEST_CHAT; kind < REQUEST_KINDS; kind++) {
        if (request_parse(&r, &doc, (enum request_kind)kind, (struct span){text, n}, &param, &e) != RC_OK)
            continue;
        json_doc_fini(&doc);
        splice(&r, NULL, text, n);
        splice(&r, "other \"name\"", text, n);
        splice_later(&r);
    }
    as_stream(text, n);
    as_legs(text, n);
    as_answer(text, n, REQUEST_CHAT);
    as_answer(text, n, REQUEST_EMBEDDINGS);
    free(text);
    return 0;
}
