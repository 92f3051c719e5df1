/* Proves that chunks which are taken by their pattern come out as those which are read with care: the same bytes, the
 * same counts, the same trail, whatever their texts hold and wherever their shape changes, at every cut of the input;
 * and that the steady state of a stream allocates nothing.
 * links: spw_sched_front */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "scheduler/wire/stream.h"
#include "tests/unit/allocations.h"

#define CHUNK(text)                                                                                                    \
    "data: "                                                                                                           \
    "{\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"m\",\"choices\":[{\"index\":0,"    \
    "\"delta\":{\"content\":" text "},\"finish_reason\":null}]}\n\n"

static const char *const frames[] = {
    "data: "
    "{\"id\":\"c-1\",\"created\":7,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n",
    CHUNK("\"Hello\""),
    CHUNK("\" there\""),
    CHUNK("\"\""),
    CHUNK("\"say \\\"hi\\\" \\\\\""),
    CHUNK("\"\\\\\\\"\""),
    CHUNK("\"c-1\""),
    CHUNK("\"m\""),
    ": a comment\n\n",
    CHUNK("\"a}],\\\"choices\\\":[{\""),
    CHUNK("null"),
    CHUNK("\"x\",\"reasoning_content\":\"y\""),
    CHUNK("\"x\\\"\""),
    "data: "
    "{\"id\":\"c-1\",\"created\":8,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"later\"}}]}\n\n",
    "data: "
    "{\"id\":\"c-1\",\"created\":8,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"on\"}}]}\n\n",
    "data: {\"id\":\"c-1\",\"created\":8,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\ndata: "
    "\"two lines\"}}]}\n\n",
    CHUNK("\"\xc3\xa9\xe2\x82\xac\\u00e9\\n\""),
    CHUNK("\"with "
          "usage\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4},\"x\":[{\"y\":{"
          "\"z\":1"),
    CHUNK("\"ids\"},\"finish_reason\":null}],\"spillway_ids\":[1,2],\"x\":[{\"y\":{\"z\":1"),
    CHUNK("\"back again\""),
    CHUNK("\"and again\""),
    "data: {\"id\":\"c-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    CHUNK("\"after the finish\""),
    "data: [DONE]\n\n",
};
#define FRAMES (sizeof frames / sizeof frames[0])

struct run {
    struct stream s;
    struct trail trail;
    struct strbuf out, told;
    enum stream_status status;
};

static void tell(struct span chunk, struct span plain, void *arg)
{
    struct run *r = arg;
    CHECK(!plain.n || (plain.p > chunk.p && plain.p + plain.n < chunk.p + chunk.n && span_is_filled_string(plain)));
    CHECK(strbuf_append(&r->told, chunk.p, chunk.n) == RC_OK && strbuf_puts(&r->told, "\n") == RC_OK);
}

static void run_init(struct run *r, const char *model)
{
    trail_init(&r->trail, TRAIL_TEXT);
    stream_init(&r->s, model, false);
    stream_follow(&r->s, &r->trail, NULL);
    stream_tap(&r->s, tell, r);
    strbuf_init(&r->out, 1 << 20);
    strbuf_init(&r->told, 1 << 20);
    r->status = STREAM_MORE;
}

static void run_fini(struct run *r)
{
    stream_fini(&r->s);
    trail_fini(&r->trail);
    strbuf_fini(&r->out);
    strbuf_fini(&r->told);
}

static void feed(struct run *r, const char *text, size_t n, size_t step)
{
    for (size_t at = 0; at < n && r->status == STREAM_MORE; at += step)
        r->status = stream_feed(&r->s, text + at, n - at < step ? n - at : step, &r->out);
}

static void compare(const struct run *quick, const struct run *careful)
{
    CHECK_INT(quick->status, careful->status);
    CHECK_STR(quick->out.data ? quick->out.data : "", careful->out.data ? careful->out.data : "");
    CHECK_STR(quick->told.data ? quick->told.data : "", careful->told.data ? careful->told.data : "");
    CHECK_STR(quick->s.held.data ? quick->s.held.data : "", careful->s.held.data ? careful->s.held.data : "");
    CHECK_STR(quick->trail.text.data ? quick->trail.text.data : "",
              careful->trail.text.data ? careful->trail.text.data : "");
    CHECK_INT(quick->s.content_chunks, careful->s.content_chunks);
    CHECK_INT(quick->s.pieces, careful->s.pieces);
    CHECK_INT(quick->trail.chunks, careful->trail.chunks);
    CHECK_INT(quick->trail.text_known, careful->trail.text_known);
    CHECK_INT(quick->trail.ids_known, careful->trail.ids_known);
    CHECK_INT(quick->s.usage_known, careful->s.usage_known);
}

static void both_ways(const char *text, size_t n, size_t step, const char *model)
{
    struct run quick, careful;
    run_init(&quick, model);
    run_init(&careful, model);
    careful.s.pattern.misses = PATTERN_MISSES_MAX; /* it never learns */
    feed(&quick, text, n, step);
    feed(&careful, text, n, step);
    CHECK(!careful.s.pattern.known);
    compare(&quick, &careful);
    run_fini(&quick);
    run_fini(&careful);
}

static void in_their_order(void)
{
    struct strbuf all;
    strbuf_init(&all, 1 << 20);
    for (size_t i = 0; i < FRAMES; i++)
        CHECK_INT(strbuf_puts(&all, frames[i]), RC_OK);
    for (size_t step = 1; step < 400; step += step < 40 ? 1 : 37) {
        both_ways(all.data, all.len, step, NULL);
        both_ways(all.data, all.len, step, "another/name");
    }
    both_ways(all.data, all.len, all.len, "m");
    strbuf_fini(&all);
}

/* Any order, any of them left out or twice; the seed is printed when something differs. */
static void in_any_order(void)
{
    for (unsigned seed = 1; seed <= 400; seed++) {
        unsigned state = seed;
        struct strbuf all;
        strbuf_init(&all, 1 << 20);
        for (int i = 0; i < 30; i++)
            CHECK_INT(strbuf_puts(&all, frames[(unsigned)rand_r(&state) % (i < 20 ? FRAMES - 3 : FRAMES)]), RC_OK);
        both_ways(all.data, all.len, 1 + (unsigned)rand_r(&state) % 300, seed % 2 ? "another" : NULL);
        strbuf_fini(&all);
    }
}

/* Calls of the allocator from the tenth chunk to the thousandth. `chunk` has one %03d. */
static long allocations_of(const char *chunk, enum trail_keep keep, bool later)
{
    struct run r;
    char text[512];
    long before = 0;
    trail_init(&r.trail, keep);
    if (later) { /* its id is another answer's */
        const struct trail_chunk first = {.id = {"\"c-0\"", 5}, .created = {"6", 1}, .ids = {"[1]", 3}, .contents = 1};
        trail_take(&r.trail, &first);
    }
    stream_init(&r.s, "another", false);
    stream_follow(&r.s, &r.trail, NULL);
    strbuf_init(&r.out, 1 << 20);
    strbuf_init(&r.told, 16);
    r.status = STREAM_MORE;
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(text, sizeof text, chunk, i);
        if (i == 10)
            before = allocations;
        strbuf_clear(&r.out);
        feed(&r, text, (size_t)n, (size_t)n);
    }
    const long calls = allocations - before;
    CHECK_INT(r.s.content_chunks, 1000);
    CHECK(strstr(r.out.data, "\"model\":\"another\"") && strstr(r.out.data, later ? "c-0" : "c-1"));
    run_fini(&r);
    return calls;
}

#define ENGINE_CHUNK CHUNK("\"word %03d\"},\"finish_reason\":null}],\"spillway_ids\":[7],\"x\":[{\"y\":{\"z\":1")
#define DOUBLINGS    10 /* of the ids that are kept, in so many chunks: they grow, and are no chunk's */

static void the_steady_state_allocates_nothing(void)
{
    CHECK_INT(allocations_of(CHUNK("\"word %03d\""), TRAIL_IDS, false), 0);
    CHECK(allocations_of(ENGINE_CHUNK, TRAIL_IDS, false) <= DOUBLINGS);
    CHECK(allocations_of(ENGINE_CHUNK, TRAIL_IDS, true) <= DOUBLINGS);
}

int main(void)
{
    TEST(in_their_order);
    TEST(in_any_order);
    TEST(the_steady_state_allocates_nothing);
    return TEST_RESULT();
}
