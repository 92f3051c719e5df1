/* Reuse of prefixes: a prompt that begins like an earlier one gets its pages, and what it says is the same, bit for
 * bit, as if it had computed them; nobody gets the pages of another salt; pages come back when they are needed, those
 * let go longest ago first, to the host's memory where there is some, from where they come back as they were;
 * conversations by the hundred on a small pool against an engine that reuses nothing. With a number: so many
 * conversations (bar of the project: 1000).
 * full: 1000
 * links: spw_engine_model */
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/model/model.h"
#include "engine/model/synth.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define PAGE  K_PAGE_TOKENS
#define N_CTX 512

static const struct synth_shape dense = {.arch = "llama",
                                         .n_layer = 2,
                                         .n_embd = 128,
                                         .n_head = 2,
                                         .n_kv_head = 1,
                                         .n_ff = 128,
                                         .n_vocab = 320,
                                         .n_ctx = N_CTX};
static const struct synth_shape deepseek = {.arch = "deepseek2",
                                            .n_layer = 2,
                                            .n_embd = 128,
                                            .n_head = 2,
                                            .n_ff = 128,
                                            .n_vocab = 320,
                                            .n_ctx = N_CTX,
                                            .kv_lora = 64,
                                            .d_nope = 32,
                                            .d_rope = 16,
                                            .d_v = 32,
                                            .n_dense_lead = 1,
                                            .n_expert = 4,
                                            .n_used = 2,
                                            .n_shared = 1,
                                            .n_ff_exp = 64};

static char path[] = "/tmp/spillway-prefix-XXXXXX";
static struct model *model;
static size_t n_vocab;
static int n_conversations = 30;
static int32_t spill_pages; /* of engines from now on */
static const struct prefix_salt us = {{1}}, them = {{2}};

static struct engine *new_engine(int32_t max_seqs, int32_t kv_pages, int32_t kept)
{
    struct engine *en = NULL;
    struct error e = {0};
    const struct engine_options o = {.threads = 1,
                                     .n_ctx = N_CTX,
                                     .max_seqs = max_seqs,
                                     .kv_pages = kv_pages,
                                     .max_batch_tokens = N_CTX,
                                     .spill_pages = spill_pages,
                                     .kept_pages = kept};
    CHECK_INT(engine_new(&en, model, &o, &e), RC_OK);
    return en;
}

static void fill_ids(int32_t *ids, int32_t n, uint64_t seed)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(next_random(&seed) % 300);
}

/* A sequence takes in ids[len..n) and shares; the logits after the last. */
static const float *take_in(struct engine *en, struct seq *s, const struct prefix_salt *salt, const int32_t *ids,
                            int32_t n)
{
    struct error e = {0};
    struct step_slice sl = {.seq = s, .ids = ids + seq_len(s), .n = n - seq_len(s), .want_logits = true};
    CHECK_INT(seq_reserve(s, sl.n, &e), RC_OK);
    CHECK_INT(engine_step(en, &sl, 1, &e), RC_OK);
    seq_share(s, salt, ids);
    return sl.logits;
}

/* A whole life of one prompt: how much of it was known. */
static int32_t visit(struct engine *en, const struct prefix_salt *salt, const int32_t *ids, int32_t n)
{
    struct seq *s = seq_new(en);
    int32_t known = seq_attach(s, salt, ids, n);
    take_in(en, s, salt, ids, n);
    seq_free(s);
    return known;
}

static void what_is_known(void)
{
    int32_t ids[300], other[300];
    struct engine *en = new_engine(4, 0, -1);
    fill_ids(ids, 300, 1);
    memcpy(other, ids, sizeof ids);
    other[2 * PAGE + 5]++; /* parts with ids in the third page */
    CHECK_INT(visit(en, &us, ids, 200), 0);
    CHECK_INT(engine_pages_kept(en), 3);
    CHECK_INT(engine_pages_free(en), engine_pages_total(en));
    CHECK_INT(visit(en, &us, ids, 300), 3 * PAGE);
    CHECK_INT(visit(en, &us, other, 300), 2 * PAGE);
    CHECK_INT(visit(en, &us, other, 300), 4 * PAGE);
    CHECK_INT(visit(en, &us, ids, 4 * PAGE + 1), 4 * PAGE);
    CHECK_INT(visit(en, &us, ids, 4 * PAGE), 3 * PAGE); /* one token at least is computed */
    CHECK_INT(visit(en, &us, ids, PAGE), 0);
    CHECK_INT(visit(en, &us, ids + 1, 200), 0);
    CHECK_INT(visit(en, &them, ids, 300), 0); /* another's are none of ours */
    CHECK_INT(visit(en, &them, ids, 300), 4 * PAGE);
    CHECK_INT(engine_pages_kept(en),
              4 + 2 + 1 + 2 + 4); /* ids, the end of other, its first page again, shifted, theirs */
    engine_free(en);
}

/* Two at once: the page is there once, and stays while one of them holds it. */
static void shared_while_used(void)
{
    int32_t ids[200];
    struct engine *en = new_engine(4, 8, -1);
    fill_ids(ids, 200, 2);
    struct seq *a = seq_new(en), *b = seq_new(en), *c = seq_new(en);
    take_in(en, a, &us, ids, 200); /* both compute it, as prompts that come together do */
    take_in(en, b, &us, ids, 200);
    CHECK_INT(engine_pages_free(en), 8 - 3 - 2);
    CHECK_INT(seq_attach(c, &us, ids, 200), 3 * PAGE);
    CHECK_INT(engine_pages_free(en), 8 - 3 - 2);
    CHECK_INT(engine_pages_kept(en), 0);
    seq_free(a);
    seq_free(b);
    CHECK_INT(engine_pages_kept(en), 0);
    seq_free(c);
    CHECK_INT(engine_pages_kept(en), 3);
    CHECK_INT(engine_pages_free(en), 8);
    engine_free(en);
}

/* Room is made by those let go longest ago, the ends of prompts before their beginnings. */
static void who_is_given_up(void)
{
    int32_t a[3 * PAGE + 1], b[3 * PAGE + 1], big[8 * PAGE];
    struct engine *en = new_engine(2, 8, 8);
    fill_ids(a, 3 * PAGE + 1, 3);
    fill_ids(b, 3 * PAGE + 1, 4);
    fill_ids(big, 8 * PAGE, 5);
    visit(en, &us, a, 3 * PAGE + 1);
    visit(en, &us, b, 3 * PAGE + 1);
    CHECK_INT(visit(en, &us, a, 3 * PAGE + 1), 3 * PAGE); /* a is the newer one now */
    CHECK_INT(engine_pages_kept(en), 6);
    visit(en, &us, big, 3 * PAGE + 1); /* needs 4, 2 are free */
    CHECK_INT(engine_pages_evicted(en), 2);
    CHECK_INT(visit(en, &us, b, 3 * PAGE + 1), PAGE);
    visit(en, &us, big, 8 * PAGE - 1); /* all of the pool */
    CHECK_INT(engine_pages_kept(en), 7);
    CHECK_INT(engine_pages_free(en), 8);
    engine_free(en);
}

static void the_bound(void)
{
    int32_t ids[300];
    struct engine *en = new_engine(2, 16, 2);
    fill_ids(ids, 300, 6);
    CHECK_INT(visit(en, &us, ids, 300), 0);
    CHECK_INT(engine_pages_kept(en), 2);
    CHECK_INT(visit(en, &us, ids, 300), 2 * PAGE); /* its beginning is what was kept */
    engine_free(en);
    en = new_engine(2, 16, 0);
    CHECK_INT(visit(en, &us, ids, 300), 0);
    CHECK_INT(visit(en, &us, ids, 300), 0);
    CHECK_INT(engine_pages_kept(en), 0);
    engine_free(en);
}

/* Four pages in the host's memory: what was let go last comes back, beginnings before ends, and only as much as there
 * is room for; what is computed beside it is not changed. */
static void pages_come_back(void)
{
    int32_t a[3 * PAGE + 1], b[3 * PAGE + 1], big[8 * PAGE];
    spill_pages = 4;
    struct engine *en = new_engine(2, 8, 8);
    spill_pages = 0;
    struct engine *plain = new_engine(1, 8, 0);
    fill_ids(a, 3 * PAGE + 1, 3);
    fill_ids(b, 3 * PAGE + 1, 4);
    fill_ids(big, 8 * PAGE, 5);
    visit(en, &us, a, 3 * PAGE + 1);
    visit(en, &us, b, 3 * PAGE + 1);
    visit(en, &us, big, 8 * PAGE - 1); /* all of the pool: of six pages two are forgotten, the ends of a */
    CHECK_INT(engine_pages_evicted(en), 2);
    CHECK_INT(engine_spill(en).pages, 4);
    CHECK_INT(engine_spill(en).out, 6);
    struct seq *s = seq_new(en), *p = seq_new(plain);
    CHECK_INT(seq_attach(s, &us, b, 3 * PAGE + 1), 3 * PAGE);
    CHECK_INT(engine_spill(en).in, 3);
    const float *got = take_in(en, s, &us, b, 3 * PAGE + 1);
    CHECK(memcmp(got, take_in(plain, p, &us, b, 3 * PAGE + 1), n_vocab * sizeof *got) == 0);
    struct seq *t = seq_new(en);
    CHECK_INT(seq_attach(t, &us, a, 3 * PAGE + 1), 0); /* s and it would soon take it away from each other */
    seq_free(t);
    seq_free(s);
    CHECK_INT(visit(en, &us, a, 3 * PAGE + 1), PAGE);
    CHECK_INT(engine_pages_free(en), 8);
    CHECK(engine_spill(en).pages <= 4);
    engine_free(en);
    engine_free(plain);
}

/* Both compute what a slot has, too: one of them puts it into a page again. */
static void computed_again(void)
{
    int32_t a[3 * PAGE + 1], big[8 * PAGE];
    spill_pages = 8;
    struct engine *en = new_engine(2, 8, 0);
    spill_pages = 0;
    fill_ids(a, 3 * PAGE + 1, 3);
    fill_ids(big, 8 * PAGE, 5);
    visit(en, &us, a, 3 * PAGE + 1); /* nothing is kept in pages */
    CHECK_INT(engine_spill(en).pages, 3);
    CHECK_INT(engine_pages_kept(en), 0);
    struct seq *s = seq_new(en);
    take_in(en, s, &us, a, 3 * PAGE + 1); /* without looking */
    CHECK_INT(engine_spill(en).pages, 0);
    CHECK_INT(engine_spill(en).in, 0);
    seq_free(s);
    CHECK_INT(visit(en, &us, a, 3 * PAGE + 1), 3 * PAGE);
    visit(en, &us, big, 8 * PAGE);
    CHECK_INT(engine_spill(en).pages, 8);
    CHECK_INT(visit(en, &us, big, 8 * PAGE), 7 * PAGE);
    engine_free(en);
}

/* Cut into a known page: written to again only where nobody else has it. */
static void cut_back(void)
{
    int32_t ids[200], other[200];
    struct engine *en = new_engine(3, 0, -1), *plain = new_engine(1, 0, 0);
    fill_ids(ids, 200, 7);
    memcpy(other, ids, sizeof ids);
    for (int32_t i = 100; i < 200; i++)
        other[i]++;
    struct seq *s = seq_new(en), *t = seq_new(en), *p = seq_new(plain);
    take_in(en, s, &us, ids, 200);
    CHECK_INT(seq_truncate(s, 130), 130);
    CHECK_INT(seq_truncate(s, 100), 100); /* its own page: known no more */
    const float *got = take_in(en, s, &us, other, 200);
    CHECK(memcmp(got, take_in(plain, p, &us, other, 200), n_vocab * sizeof *got) == 0);
    CHECK_INT(seq_attach(t, &us, other, 200), 3 * PAGE);
    CHECK_INT(seq_truncate(t, 100), PAGE); /* shared: to the page's beginning */
    got = take_in(en, t, &us, ids, 200);
    seq_truncate(p, 0);
    CHECK(memcmp(got, take_in(plain, p, &us, ids, 200), n_vocab * sizeof *got) == 0);
    seq_free(s);
    seq_free(t);
    CHECK_INT(engine_pages_free(en), engine_pages_total(en));
    CHECK_INT(visit(en, &us, other, 200), 3 * PAGE); /* s's is intact */
    engine_free(en);
    engine_free(plain);
}

/* ---- conversations ------------------------------------------------------------------------------------------------- */

#define LIVE 4 /* conversations at once */

struct talk {
    struct seq *s; /* NULL: between turns */
    int32_t ids[N_CTX], n;
    int32_t turns, decode; /* left */
    const struct prefix_salt *salt;
};

/* Every conversation begins with one of a few prompts, then goes its own way. */
static void talk_begin(struct talk *t, uint64_t *random)
{
    int32_t common = (int32_t)(next_random(random) % 3);
    *t = (struct talk){.n = 70 + 60 * common, .salt = next_random(random) % 2 ? &us : &them};
    t->turns = 1 + (int32_t)(next_random(random) % 3);
    fill_ids(t->ids, t->n, 100 + (uint64_t)common);
}

/* A user says something: what is to be computed is the conversation so far. */
static void talk_turn(struct talk *t, struct engine *en, uint64_t *random, uint64_t *known)
{
    int32_t more = 1 + (int32_t)(next_random(random) % 60);
    fill_ids(t->ids + t->n, more, next_random(random) % 4); /* a few do say the same */
    t->n += more;
    t->decode = 1 + (int32_t)(next_random(random) % 20);
    t->turns--;
    t->s = seq_new(en);
    *known += (uint64_t)seq_attach(t->s, t->salt, t->ids, t->n);
}

static int32_t greedy(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < (int32_t)n_vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* One step of all that are in a turn; each one's logits beside those of an engine that knows nothing. */
static bool talks_step(struct talk *talks, struct engine *en, struct engine *plain, uint64_t *random)
{
    struct step_slice sl[LIVE];
    struct talk *of[LIVE];
    struct error e = {0};
    bool same = true;
    int32_t n = 0;
    for (int i = 0; i < LIVE; i++) {
        struct talk *t = &talks[i];
        int32_t left = t->s ? t->n - seq_len(t->s) : 0, cut = 1 + (int32_t)(next_random(random) % 90);
        if (left == 0)
            continue;
        sl[n] = (struct step_slice){.seq = t->s, .ids = t->ids + seq_len(t->s), .n = left < cut ? left : cut};
        sl[n].want_logits = sl[n].n == left;
        CHECK_INT(seq_reserve(t->s, sl[n].n, &e), RC_OK);
        of[n++] = t;
    }
    CHECK_INT(engine_step(en, sl, n, &e), RC_OK);
    for (int32_t i = 0; i < n; i++) {
        struct talk *t = of[i];
        seq_share(t->s, t->salt, t->ids);
        if (!sl[i].want_logits)
            continue;
        struct seq *p = seq_new(plain);
        const float *want = take_in(plain, p, t->salt, t->ids, t->n);
        same = same && memcmp(sl[i].logits, want, n_vocab * sizeof *want) == 0;
        seq_free(p);
        t->ids[t->n++] = greedy(sl[i].logits);
        if (--t->decode == 0) {
            seq_free(t->s);
            t->s = NULL;
        }
    }
    return same;
}

static void conversations(void)
{
    struct engine *en = new_engine(LIVE, spill_pages ? 32 : 40, spill_pages ? 8 : -1), *plain = new_engine(1, 0, 0);
    struct talk talks[LIVE] = {0};
    uint64_t random = 9, known = 0;
    bool same = true;
    int begun = 0, live = 0;
    do {
        live = 0;
        for (int i = 0; i < LIVE; i++) {
            struct talk *t = &talks[i];
            if (!t->s && t->turns == 0 && begun < n_conversations) {
                talk_begin(t, &random);
                begun++;
            }
            if (!t->s && t->turns > 0)
                talk_turn(t, en, &random, &known);
            live += t->s != NULL;
        }
        same = same && (live == 0 || talks_step(talks, en, plain, &random));
    } while (live > 0);
    CHECK(same);
    CHECK(known > 0);
    CHECK(engine_pages_evicted(en) > 0 || begun < 16); /* so few fit */
    CHECK_INT(engine_pages_free(en), engine_pages_total(en));
    CHECK((engine_spill(en).in > 0) == (engine_spill(en).pages_max > 0) || begun < 16);
    printf("%d conversations, %llu tokens known already, %llu pages given up, %llu brought back\n", begun,
           (unsigned long long)known, (unsigned long long)engine_pages_evicted(en),
           (unsigned long long)engine_spill(en).in);
    engine_free(en);
    engine_free(plain);
}

static void conversations_that_spill(void)
{
    spill_pages = 12;
    conversations();
    spill_pages = 0;
}

static void with_model(const struct synth_shape *shape, enum synth_type type)
{
    struct error e = {0};
    CHECK_INT(synth_write(shape, type, 7, path, &e), RC_OK);
    CHECK_INT(model_open(&model, path, GGUF_MAP, &e), RC_OK);
    n_vocab = (size_t)model_info(model)->n_vocab;
    TEST(what_is_known);
    TEST(shared_while_used);
    TEST(who_is_given_up);
    TEST(pages_come_back);
    TEST(computed_again);
    TEST(the_bound);
    TEST(cut_back);
    TEST(conversations);
    TEST(conversations_that_spill);
    model_close(model);
}

int main(int argc, char **argv)
{
    if (TEST_SANITIZED)
        n_conversations = 3;
    if (argc > 1)
        n_conversations = (int)strtol(argv[1], NULL, 10);
    int fd = mkstemp(path);
    SPW_ASSERT(fd >= 0);
    close(fd);
    with_model(&dense, SYNTH_Q8_0);
    with_model(&deepseek, SYNTH_Q4_0);
    unlink(path);
    return TEST_RESULT();
}
