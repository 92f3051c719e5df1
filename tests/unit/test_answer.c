/* The law that lets a stream go on elsewhere: the text that has left after ids 0..n depends on those ids alone. For
 * thousands of random answers (characters cut between tokens, tags of reasoning and stop strings that come whole, cut,
 * or to nothing, ends of text) and every index n: an answer that replays ids 0..n in silence sends exactly what the
 * first had not sent yet, counts the same tokens, and ends at the same id.
 *
 * links: spw_engine_serve */
#include "engine/serve/answer.h"

#include <stdlib.h>

#include "tests/unit/test.h"
#include "tests/unit/text_vocab.h"

#define N_IDS  40
#define ROUNDS TEST_FEWER(4000)

static const char *const pieces[] = {
    "<think>",  "</think>", "<th", "ink>", "</",       "think>",       "think>\n\n",
    "\n",       "\n\n",     "<",   "STOP", "ST",       "OP",           "O",
    "xSTO",     "a",        "b",   "ab",   "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\x8a",
    "a\xc3\xa9"};
static const char *const stops[] = {"STOP", "TOx", "\xc3\xa9\xe2\x82\xac", "abab", "</think>\n\na", "\357\277\275a"};
#define N_PIECES (sizeof pieces / sizeof *pieces)
#define N_STOPS  (sizeof stops / sizeof *stops)

static struct vocab *vocab;
static int32_t first_piece, end_id, hidden_id;
static uint64_t state = 1;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* One answer's parameters and ids. */
struct plan {
    struct text_span stop[3];
    size_t n_stop;
    enum reasoning_start reasoning;
    bool ignore_end;
    int32_t min_tokens;
    int32_t ids[N_IDS];
    int n;                     /* ids until the answer ends */
    size_t sent[N_IDS + 1][2]; /* content and reasoning after n ids */
    int32_t thinking[N_IDS + 1];
};

static struct answer *fresh(const struct plan *p)
{
    struct error e = {0};
    struct answer *a = NULL;
    const struct answer_options o = {.vocab = vocab,
                                     .stop = p->stop,
                                     .n_stop = p->n_stop,
                                     .end_ids = &end_id,
                                     .n_end_ids = 1,
                                     .ignore_end = p->ignore_end,
                                     .min_tokens = p->min_tokens,
                                     .reasoning = p->reasoning};
    if (answer_new(&o, &a, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return a;
}

/* As the batcher does: the limit lets go of what is held back together with the last id. */
static void push(struct answer *a, const struct plan *p, int i)
{
    struct error e = {0};
    CHECK_INT(answer_push(a, p->ids[i], &e), RC_OK);
    if (i == N_IDS - 1)
        CHECK_INT(answer_finish(a, &e), RC_OK);
}

static int32_t random_id(void)
{
    switch (below(16)) {
    case 0: return 3 + (int32_t)below(256); /* a byte: most are broken UTF-8 */
    case 1: return 3 + 0xe2;                /* the beginning of a euro sign ... */
    case 2: return 3 + 0x82;                /* ... and more of it */
    case 3: return 3 + 0xac;
    case 4: return hidden_id;
    case 5: return below(4) ? first_piece : end_id;
    default: return first_piece + (int32_t)below(N_PIECES);
    }
}

static void make_plan(struct plan *p)
{
    *p = (struct plan){.n_stop = below(4), .reasoning = (enum reasoning_start)below(3), .ignore_end = below(3) == 0};
    p->min_tokens = below(3) ? 0 : (int32_t)below(N_IDS);
    for (size_t i = 0; i < p->n_stop; i++) {
        const char *s = stops[below(N_STOPS)];
        p->stop[i] = (struct text_span){s, strlen(s)};
    }
    for (int i = 0; i < N_IDS; i++)
        p->ids[i] = random_id();
}

/* The undisturbed run. Nothing is taken away from the answer's buffers: they hold the whole text. */
static struct answer *run_whole(struct plan *p)
{
    struct answer *a = fresh(p);
    for (p->n = 0; p->n < N_IDS && a->state == ANSWER_OPEN;) {
        push(a, p, p->n++);
        p->sent[p->n][0] = a->content.len;
        p->sent[p->n][1] = a->reasoning.len;
        p->thinking[p->n] = a->n_reasoning;
    }
    return a;
}

static bool rest_is(const struct strbuf *whole, size_t from, const struct strbuf *rest)
{
    return whole->len - from == rest->len && (rest->len == 0 || memcmp(whole->data + from, rest->data, rest->len) == 0);
}

static void replay_from(const struct plan *p, const struct answer *whole, int at)
{
    struct answer *a = fresh(p);
    for (int i = 0; i < at; i++) {
        CHECK_INT(a->state, ANSWER_OPEN);
        push(a, p, i);
        strbuf_clear(&a->content);
        strbuf_clear(&a->reasoning);
    }
    CHECK_INT(a->n_tokens, at);
    CHECK_INT(a->n_reasoning, p->thinking[at]);
    for (int i = at; i < p->n; i++) {
        CHECK_INT(a->state, ANSWER_OPEN);
        push(a, p, i);
    }
    CHECK_INT(a->state, ANSWER_ENDED);
    CHECK(rest_is(&whole->content, p->sent[at][0], &a->content));
    CHECK(rest_is(&whole->reasoning, p->sent[at][1], &a->reasoning));
    CHECK_INT(a->n_reasoning, whole->n_reasoning);
    answer_free(a);
}

static int held_back, by_stop, by_limit, thought;

static void every_index_continues(void)
{
    for (int round = 0; round < ROUNDS && !test_run_.group_failed; round++) {
        struct plan p;
        make_plan(&p);
        struct answer *whole = run_whole(&p);
        for (int at = 0; at <= p.n; at++)
            replay_from(&p, whole, at);
        by_limit += p.n == N_IDS;
        by_stop += p.n < N_IDS;
        thought += whole->reasoning.len > 0 && whole->content.len > 0;
        for (int i = 1; i <= p.n; i++)
            held_back += p.sent[i][0] == p.sent[i - 1][0] && p.sent[i][1] == p.sent[i - 1][1];
        if (test_run_.group_failed)
            fprintf(stderr, "... in round %d\n", round);
        answer_free(whole);
    }
}

/* The random answers above are worth something only if they do all of this. */
static void the_rounds_were_varied(void)
{
    CHECK(held_back > ROUNDS);
    CHECK(by_stop > ROUNDS / 10);
    CHECK(by_limit > ROUNDS / 10);
    CHECK(thought > ROUNDS / 10);
}

/* An end id that lets out what a stop string and half a character held: all of it belongs to that id. */
static void the_end_lets_go(void)
{
    struct plan p = {.stop = {{"STOP", 4}}, .n_stop = 1};
    struct error e = {0};
    struct answer *a = fresh(&p);
    CHECK_INT(answer_push(a, first_piece + 11, &e), RC_OK); /* ST */
    CHECK_INT(a->content.len, 0);
    CHECK_INT(answer_push(a, 3 + 0xe2, &e), RC_OK);
    CHECK_INT(a->content.len, 0);
    CHECK_INT(answer_push(a, end_id, &e), RC_OK);
    CHECK_INT(a->state, ANSWER_ENDED);
    CHECK_STR(a->content.data, "ST\xef\xbf\xbd");
    CHECK_INT(answer_finish(a, &e), RC_OK);
    CHECK_INT(a->content.len, 5); /* nothing comes twice */
    answer_free(a);
}

/* A stop string within the first tokens is text; the next one ends the answer. */
static void no_stop_before_its_time(void)
{
    struct plan p = {.stop = {{"STOP", 4}}, .n_stop = 1, .min_tokens = 3};
    struct error e = {0};
    struct answer *a = fresh(&p);
    const int32_t whole = first_piece + 10, other = first_piece + 15; /* STOP, a */
    const int32_t ids[] = {whole, other, whole, other, whole};
    for (int i = 0; i < 5; i++) {
        CHECK_INT(a->state, ANSWER_OPEN);
        CHECK_INT(answer_push(a, ids[i], &e), RC_OK);
    }
    CHECK_INT(a->state, ANSWER_ENDED);
    CHECK_STR(a->content.data, "STOPaSTOPa");
    answer_free(a);
}

int main(void)
{
    static struct tiny t;
    tiny_spm(&t);
    first_piece = (int32_t)t.src.n_tokens;
    for (size_t i = 0; i < N_PIECES; i++)
        tiny_add(&t, pieces[i], TOKEN_TYPE_NORMAL, 0);
    end_id = 2;
    hidden_id = 1;
    vocab = tiny_vocab(&t);
    TEST(every_index_continues);
    TEST(the_rounds_were_varied);
    TEST(the_end_lets_go);
    TEST(no_stop_before_its_time);
    vocab_free(vocab);
    return TEST_RESULT();
}
