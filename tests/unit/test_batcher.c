/* The batcher over an engine made of glass: what a sequence gets does not depend on its company, decoding never starves,
 * limits hold, the cancelled leave, and nobody is forgotten. The stand-in engine computes the next id from a hash of the
 * sequence's ids, so any id lost, doubled or mixed up between sequences changes everything after it.
 *
 * links: spw_engine_serve */
#include "engine/serve/batcher.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/serve/speculate.h"
#include "tests/unit/test.h"

#define N_VOCAB    259 /* <unk>, <s>, </s>, then one token per byte */
#define EOS        2
#define BYTE(c)    (3 + (unsigned char)(c))
#define N_CTX      512
#define SEQS_MAX   64
#define PAGE       K_PAGE_TOKENS
#define PATIENCE_S 20
#define OVERTAKEN  8 /* batcher.c's bound */

/* The stand-in engine. */

struct seq {
    struct engine *en;
    uint64_t hash[N_CTX + 1]; /* by length */
    int32_t len, room, pages;
};

static void seq_take(struct seq *s, int32_t id)
{
    s->hash[s->len + 1] = (s->hash[s->len] ^ (uint64_t)(id + 1)) * 1099511628211u;
    s->len++;
}

struct engine {
    pthread_mutex_t lock; /* guards everything: tests look in while the engine thread runs */
    pthread_cond_t changed;
    int permits; /* steps that may begin; -1: any number */
    int steps, seqs, fail_at;
    int32_t pages_total, pages_free;
    int32_t known;  /* tokens of every prompt */
    int salts;      /* first bytes of the salts seen, added up */
    int32_t eos_at; /* sequences say EOS at this length; 0: never */
    const char
        *script; /* when set: the answer, byte by byte, whatever the prompt (position counted from script_from) */
    int32_t script_from;
    /* Of the last step. */
    int32_t n_slices, n_ones, n_prompt_tokens;
    int32_t most_mixed;       /* most prompt tokens in a step that also had a slice of one token */
    int broken;               /* our law was broken: room overrun, same sequence twice */
    float (*logits)[N_VOCAB]; /* a row for each that a step can want */
};

static struct seq *fake_seq_new(struct engine *en)
{
    struct seq *s = calloc(1, sizeof *s);
    s->en = en;
    s->hash[0] = 1469598103934665603u;
    pthread_mutex_lock(&en->lock);
    en->seqs++;
    pthread_mutex_unlock(&en->lock);
    return s;
}

static void fake_seq_free(struct seq *s)
{
    pthread_mutex_lock(&s->en->lock);
    s->en->seqs--;
    s->en->pages_free += s->pages;
    pthread_mutex_unlock(&s->en->lock);
    free(s);
}

static enum rc fake_seq_reserve(struct seq *s, int32_t n, struct error *e)
{
    enum rc rc = RC_OK;
    pthread_mutex_lock(&s->en->lock);
    int32_t pages = (s->len + n + PAGE - 1) / PAGE - s->pages;
    if (pages <= 0) {
        s->room = s->len + n > s->room ? s->len + n : s->room;
    } else if (pages > s->en->pages_free) {
        rc = error_set(e, RC_FULL, "the pool has %d pages", (int)s->en->pages_total);
    } else {
        s->en->pages_free -= pages;
        s->pages += pages;
        s->room = s->pages * PAGE;
    }
    pthread_mutex_unlock(&s->en->lock);
    return rc;
}

/* One id stands out by a little, the rest is noise: greedy and seeded sampling both have something to do. */
static void fill_logits(const struct engine *en, const struct seq *s, float *out)
{
    uint64_t h = s->hash[s->len];
    for (int i = 0; i < N_VOCAB; i++)
        out[i] = -30.0f;
    for (int c = 'a'; c <= 'z'; c++) {
        h = h * 6364136223846793005u + 1442695040888963407u;
        out[BYTE(c)] = (float)(h >> 40) / (float)(1 << 23);
    }
    if (en->script && s->len >= en->script_from && s->len - en->script_from < (int32_t)strlen(en->script))
        out[BYTE(en->script[s->len - en->script_from])] = 50.0f;
    if (en->eos_at && s->len >= en->eos_at)
        out[EOS] = 100.0f;
}

static void step_slice(struct engine *en, struct step_slice *sl, int row)
{
    struct seq *s = sl->seq;
    sl->logits = en->logits[row];
    for (int32_t i = 0; i < sl->n; i++) {
        seq_take(s, sl->ids[i]);
        if (sl->all_logits || (sl->want_logits && i == sl->n - 1))
            fill_logits(en, s, en->logits[row + (sl->all_logits ? i : 0)]);
    }
    if (s->len > s->room)
        en->broken++;
}

static enum rc fake_step(struct engine *en, struct step_slice *slices, int32_t n, struct error *e)
{
    enum rc rc = RC_OK;
    pthread_mutex_lock(&en->lock);
    while (en->permits == 0)
        pthread_cond_wait(&en->changed, &en->lock);
    if (en->permits > 0)
        en->permits--;
    en->n_slices = n;
    en->n_ones = en->n_prompt_tokens = 0;
    for (int32_t i = 0; i < n; i++) {
        for (int32_t j = 0; j < i; j++)
            en->broken += slices[i].seq == slices[j].seq;
        if (slices[i].n == 1)
            en->n_ones++;
        else
            en->n_prompt_tokens += slices[i].n;
    }
    if (en->n_ones && en->n_prompt_tokens > en->most_mixed)
        en->most_mixed = en->n_prompt_tokens;
    if (++en->steps == en->fail_at)
        rc = error_set(e, RC_INTERNAL, "the device fell over");
    int row = 0;
    for (int32_t i = 0; i < n && !rc; i++)
        step_slice(en, &slices[i], row), row += slices[i].all_logits ? slices[i].n : 1;
    pthread_cond_broadcast(&en->changed);
    pthread_mutex_unlock(&en->lock);
    return rc;
}

static int32_t fake_pages_free(const struct engine *en)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&en->lock;
    pthread_mutex_lock(lock);
    int32_t n = en->pages_free;
    pthread_mutex_unlock(lock);
    return n;
}

static int32_t fake_pages_total(const struct engine *en)
{
    return en->pages_total;
}

/* As much of a prompt is known as the test says, whole pages of it, never all. */
static int32_t fake_seq_attach(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n)
{
    pthread_mutex_lock(&s->en->lock);
    int32_t known = s->en->known < n ? s->en->known : (n - 1) / PAGE * PAGE;
    for (int32_t i = 0; i < known; i++)
        seq_take(s, ids[i]);
    s->room = known;
    s->pages = known / PAGE;
    s->en->pages_free -= s->pages;
    s->en->salts += salt->bytes[0];
    pthread_mutex_unlock(&s->en->lock);
    return known;
}

/* What is shared must be what was computed. */
static void fake_seq_share(struct seq *s, const struct prefix_salt *salt, const int32_t *ids)
{
    uint64_t hash = 1469598103934665603u;
    (void)salt;
    pthread_mutex_lock(&s->en->lock);
    for (int32_t i = 0; i < s->len; i++)
        hash = (hash ^ (uint64_t)(ids[i] + 1)) * 1099511628211u;
    s->en->broken += hash != s->hash[s->len];
    pthread_mutex_unlock(&s->en->lock);
}

static void fake_seq_rewind(struct seq *s, int32_t len)
{
    pthread_mutex_lock(&s->en->lock);
    s->en->broken += len > s->len;
    s->len = len;
    pthread_mutex_unlock(&s->en->lock);
}

static int32_t fake_pages_kept(const struct engine *en)
{
    (void)en;
    return 0;
}

static uint64_t fake_pages_evicted(const struct engine *en)
{
    (void)en;
    return 0;
}

static const struct batch_engine_ops fake_ops = {
    .seq_new = fake_seq_new,
    .seq_free = fake_seq_free,
    .seq_attach = fake_seq_attach,
    .seq_share = fake_seq_share,
    .seq_rewind = fake_seq_rewind,
    .seq_reserve = fake_seq_reserve,
    .step = fake_step,
    .pages_free = fake_pages_free,
    .pages_total = fake_pages_total,
    .pages_kept = fake_pages_kept,
    .pages_evicted = fake_pages_evicted,
};

static void engine_init(struct engine *en)
{
    *en = (struct engine){.permits = -1, .pages_total = 1000, .pages_free = 1000};
    en->logits = calloc(SEQS_MAX * (SPECULATE_MAX + 1), sizeof *en->logits);
    pthread_mutex_init(&en->lock, NULL);
    pthread_cond_init(&en->changed, NULL);
}

static void engine_set_permits(struct engine *en, int permits)
{
    pthread_mutex_lock(&en->lock);
    en->permits = permits;
    pthread_cond_broadcast(&en->changed);
    pthread_mutex_unlock(&en->lock);
}

static int engine_get(struct engine *en, const int *what)
{
    pthread_mutex_lock(&en->lock);
    int v = *what;
    pthread_mutex_unlock(&en->lock);
    return v;
}

/* The vocabulary: SentencePiece with nothing but bytes. */
static struct vocab *make_vocab(void)
{
    static char names[256][8];
    struct text_span tokens[N_VOCAB] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}};
    float scores[N_VOCAB] = {0};
    int32_t types[N_VOCAB] = {TOKEN_TYPE_UNKNOWN, TOKEN_TYPE_CONTROL, TOKEN_TYPE_CONTROL};
    for (int i = 0; i < 256; i++) {
        snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)i);
        tokens[3 + i] = (struct text_span){names[i], strlen(names[i])};
        types[3 + i] = TOKEN_TYPE_BYTE;
    }
    struct vocab_source src;
    struct vocab *v = NULL;
    struct error e = {0};
    vocab_source_init(&src);
    src.model = (struct text_span){"llama", 5};
    src.n_tokens = src.n_scores = src.n_types = N_VOCAB;
    src.tokens = tokens;
    src.scores = scores;
    src.types = types;
    src.bos = 1;
    src.eos = EOS;
    src.unk = 0;
    if (vocab_new(&src, &v, &e)) {
        fprintf(stderr, "cannot make the test's vocabulary: %s\n", e.message);
        exit(1);
    }
    return v;
}

/* A clock that is a millisecond on whenever anybody looks: every step takes as long, whatever is in it. */
static struct mono ticking_now(void *state)
{
    int64_t *ms = state;
    return (struct mono){__atomic_add_fetch(ms, 1, __ATOMIC_RELAXED) * NS_PER_MS};
}
static const struct clock_ops ticking = {.now = ticking_now};

/* One bench for a test: engine, batcher, vocabulary. */
struct bench {
    int64_t ticks;
    struct clock clock;
    struct engine en;
    struct batcher *b;
    struct vocab *vocab;
};

struct bench_options {
    int32_t max_seqs, step_tokens, prefill_tokens, waiting_max;
    bool speculate;
};

static void bench_init(struct bench *t, const struct bench_options *bo)
{
    struct error e = {0};
    t->vocab = make_vocab();
    t->ticks = 0;
    t->clock = (struct clock){&ticking, &t->ticks};
    const struct batcher_options o = {
        .ops = &fake_ops,
        .engine = &t->en,
        .clock = bo->speculate ? &t->clock : &clock_system,
        .n_vocab = N_VOCAB,
        .n_ctx = N_CTX,
        .max_seqs = bo->max_seqs,
        .step_tokens = bo->step_tokens ? bo->step_tokens : 128,
        .prefill_tokens = bo->prefill_tokens,
        .speculate = bo->speculate,
        .waiting_max = bo->waiting_max ? bo->waiting_max : 64,
    };
    CHECK_INT(batcher_new(&t->b, &o, &e), RC_OK);
}

static void bench_fini(struct bench *t)
{
    engine_set_permits(&t->en, -1);
    batcher_free(t->b);
    vocab_free(t->vocab);
    free(t->en.logits);
    CHECK_INT(t->en.seqs, 0);
    CHECK_INT(t->en.pages_free, t->en.pages_total);
    CHECK_INT(t->en.broken, 0);
    pthread_mutex_destroy(&t->en.lock);
    pthread_cond_destroy(&t->en.changed);
}

/* A job's answer as a client would hold it. */
struct client {
    struct batch_job *job; /* NULL once it has ended */
    char text[4096];
    size_t len;
    int n_ids, n_samples, calls;
    int32_t ids[256];
    size_t len_at[256]; /* text there was when so many ids were; SIZE_MAX: that many were never seen alone */
    enum batch_finish finish;
    char error[512];
    struct batch_usage usage;
    int *order, place; /* counts up as clients end */
};

struct ask {
    int n_prompt, salt; /* ids are made from these */
    int tenant;         /* 0 to 200 */
    int max_tokens;
    double temperature;
    uint64_t seed;
    const char *stop;
    bool ignore_eos, samples;
    const int32_t *resume; /* the answer so far */
    int n_resume;
};

static void on_output(struct batch_job *job, const struct batch_output *out, void *arg)
{
    struct client *c = arg;
    CHECK(job == c->job && c->finish == BATCH_RUNNING);
    c->calls++;
    for (int i = 0; i < out->n_ids && c->n_ids < 255; i++) {
        c->len_at[c->n_ids] = i ? SIZE_MAX : c->len_at[c->n_ids];
        c->ids[c->n_ids++] = out->ids[i];
    }
    c->n_samples += out->samples ? out->n_ids : 0;
    if (out->content.len && c->len + out->content.len < sizeof c->text) {
        memcpy(c->text + c->len, out->content.data, out->content.len);
        c->len += out->content.len;
    }
    c->len_at[c->n_ids] = c->len;
    c->usage = out->usage;
    c->finish = out->finish;
    if (out->finish != BATCH_RUNNING) {
        c->job = NULL;
        snprintf(c->error, sizeof c->error, "%s", out->error.message);
        if (c->order)
            c->place = ++*c->order;
    }
}

static const int32_t end_ids[] = {EOS};

static struct batch_job *make_job(struct bench *t, struct client *c, const struct ask *a)
{
    struct error e = {0};
    struct text_span stop = {a->stop, a->stop ? strlen(a->stop) : 0};
    const struct answer_options ao = {.vocab = t->vocab,
                                      .stop = &stop,
                                      .n_stop = a->stop != NULL,
                                      .end_ids = end_ids,
                                      .n_end_ids = 1,
                                      .ignore_end = a->ignore_eos,
                                      .reasoning = REASONING_OFF};
    struct sampler_params sp;
    sampler_params_init(&sp);
    sp.temperature = a->temperature;
    sp.seed = a->seed;
    sp.frequency_penalty = a->temperature > 0 ? 0.5 : 0;
    struct batch_job_options o = {.n_ids = a->n_prompt + a->n_resume,
                                  .n_resumed = a->n_resume,
                                  .max_tokens = a->max_tokens,
                                  .salt = {{(uint8_t)(7 + a->tenant)}},
                                  .want_samples = a->samples,
                                  .on_output = on_output,
                                  .arg = c};
    o.ids = calloc((size_t)o.n_ids, sizeof *o.ids);
    for (int i = 0; i < a->n_prompt; i++)
        o.ids[i] = BYTE('a' + (i * 7 + a->salt * 13) % 26);
    CHECK_INT(answer_new(&ao, &o.answer, &e), RC_OK);
    for (int i = 0; i < a->n_resume; i++) {
        o.ids[a->n_prompt + i] = a->resume[i];
        CHECK_INT(answer_push(o.answer, a->resume[i], &e), RC_OK);
    }
    strbuf_clear(&o.answer->content);
    CHECK_INT(sampler_new(&sp, N_VOCAB, &o.sampler, &e), RC_OK);
    return batch_job_new(&o);
}

static enum rc submit(struct bench *t, struct client *c, const struct ask *a)
{
    struct error e = {0};
    struct batch_job *j = make_job(t, c, a);
    enum rc rc = batcher_submit(t->b, j, &e);
    if (rc)
        batch_job_free(j);
    else
        c->job = j;
    return rc;
}

/* Run the "loop" until `until` holds or patience ends. */
static bool pump(struct bench *t, bool (*until)(void *arg), void *arg)
{
    struct mono start = clock_now(&clock_system);
    while (!until(arg)) {
        struct pollfd p = {.fd = batcher_fd(t->b), .events = POLLIN};
        poll(&p, 1, 2);
        batcher_dispatch(t->b);
        if (mono_since(&clock_system, start) > PATIENCE_S * NS_PER_S)
            return false;
    }
    return true;
}

static bool client_done(void *arg)
{
    return ((struct client *)arg)->finish != BATCH_RUNNING;
}

struct clients {
    struct client *items;
    int n;
};
static bool all_done(void *arg)
{
    struct clients *c = arg;
    for (int i = 0; i < c->n; i++)
        if (c->items[i].finish == BATCH_RUNNING)
            return false;
    return true;
}

static bool has_text(void *arg)
{
    return ((struct client *)arg)->len > 0;
}

static bool nothing_runs(void *arg)
{
    struct batcher_stats s;
    batcher_stats(((struct bench *)arg)->b, &s);
    return s.running == 0 && s.waiting == 0;
}

/* The tests. */

/* What is known of a prompt is not computed again, and nothing else changes: not the answer, not what the sampler has
 * seen of the prompt, not what is counted but for `cached`. */
static void known_beginnings(void)
{
    static const struct {
        int known, n_prompt, want;
    } cases[] = {{0, 200, 0}, {128, 200, 128}, {128, 130, 128}, {128, 128, 64}, {192, 100, 64}, {64, 64, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client got[2] = {0};
        for (int known = 0; known < 2; known++) {
            struct bench t;
            struct batcher_stats s;
            engine_init(&t.en);
            t.en.known = known ? cases[i].known : 0;
            bench_init(&t, &(struct bench_options){.max_seqs = 2});
            struct ask a = {.n_prompt = cases[i].n_prompt, .max_tokens = 90, .temperature = 1.0, .seed = 5};
            CHECK_INT(submit(&t, &got[known], &a), RC_OK);
            CHECK(pump(&t, client_done, &got[known]));
            CHECK_INT(got[known].usage.prompt, cases[i].n_prompt);
            CHECK_INT(got[known].usage.cached, known ? cases[i].want : 0);
            batcher_stats(t.b, &s);
            CHECK_INT(s.prompt_tokens, cases[i].n_prompt);
            CHECK_INT(s.cached_tokens, known ? cases[i].want : 0);
            CHECK_INT(s.prefill_tokens, cases[i].n_prompt - (known ? cases[i].want : 0));
            CHECK_INT(t.en.salts, 7);
            bench_fini(&t);
        }
        CHECK_INT(got[1].n_ids, got[0].n_ids);
        CHECK(memcmp(got[1].ids, got[0].ids, sizeof got[0].ids) == 0);
    }
}

/* Looking ahead changes how many steps an answer takes, and nothing else: not where it stops, whatever ends it, not its
 * samples, not what others in the batch get. */
static void looking_ahead(void)
{
    static const char text[] =
        "the cat sat on the mat, the cat sat on the mat, the cat sat on the hat, the cat sat on the mat";
    static const struct ask asks[] = {
        {.n_prompt = 3, .max_tokens = 94, .samples = true},
        {.n_prompt = 3, .max_tokens = 37},
        {.n_prompt = 3, .max_tokens = 94, .stop = "hat"},
        {.n_prompt = 3, .max_tokens = 94, .temperature = 0.7, .seed = 3},
        {.n_prompt = 90, .max_tokens = 60, .temperature = 1.0, .seed = 9},
    };
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        struct client got[2][3] = {0};
        struct batcher_stats stats[2];
        for (int ahead = 0; ahead < 2; ahead++) {
            struct bench t;
            engine_init(&t.en);
            t.en.script = i < 4 ? text : NULL;
            t.en.script_from = 3;
            bench_init(&t, &(struct bench_options){.max_seqs = 3, .speculate = ahead});
            for (int k = 0; k < 3; k++) {
                struct ask a = asks[i];
                a.seed += (uint64_t)k;
                CHECK_INT(submit(&t, &got[ahead][k], &a), RC_OK);
            }
            struct clients all = {got[ahead], 3};
            CHECK(pump(&t, all_done, &all));
            batcher_stats(t.b, &stats[ahead]);
            bench_fini(&t);
        }
        for (int k = 0; k < 3; k++) {
            struct client *plain = &got[0][k], *fast = &got[1][k];
            CHECK_INT(fast->n_ids, plain->n_ids);
            CHECK(memcmp(fast->ids, plain->ids, sizeof plain->ids) == 0);
            CHECK_STR(fast->text, plain->text);
            CHECK_INT(fast->finish, plain->finish);
            CHECK_INT(fast->n_samples, plain->n_samples);
            CHECK_INT(fast->usage.completion, plain->usage.completion);
        }
        CHECK_INT(stats[0].proposed_tokens, 0);
        CHECK_INT(stats[1].generated_tokens, stats[0].generated_tokens);
        CHECK(stats[1].accepted_tokens <= stats[1].proposed_tokens);
        CHECK_INT(stats[1].decode_tokens,
                  stats[1].generated_tokens - 3 + stats[1].proposed_tokens - stats[1].accepted_tokens);
        if (i == 0)
            CHECK(stats[1].steps < stats[0].steps && stats[1].accepted_tokens > 30);
    }
}

/* A stream that goes on here: of what is known only the prompt's part is the client's `cached`. */
static void known_beginning_of_a_resumed_answer(void)
{
    struct bench t;
    struct client c = {0};
    int32_t said[100];
    for (int i = 0; i < 100; i++)
        said[i] = BYTE('a' + i % 26);
    engine_init(&t.en);
    t.en.known = 192;
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    struct ask a = {.n_prompt = 100, .max_tokens = 110, .resume = said, .n_resume = 100};
    CHECK_INT(submit(&t, &c, &a), RC_OK);
    CHECK(pump(&t, client_done, &c));
    CHECK_INT(c.usage.prompt, 100);
    CHECK_INT(c.usage.cached, 100);
    CHECK_INT(c.usage.completion, 110);
    bench_fini(&t);
}

#define COMPANY 12

static void ask_of(int i, struct ask *a)
{
    *a = (struct ask){.n_prompt = 1 + i * 17 % 150, .salt = i, .max_tokens = 5 + i * 11 % 60, .seed = (uint64_t)i};
    a->temperature = i % 3 ? 1.0 : 0;
}

static void run_company(const struct bench_options *bo, struct client *out)
{
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, bo);
    for (int i = 0; i < COMPANY; i++) {
        struct ask a;
        ask_of(i, &a);
        CHECK_INT(submit(&t, &out[i], &a), RC_OK);
    }
    struct clients all = {out, COMPANY};
    CHECK(pump(&t, all_done, &all));
    bench_fini(&t);
}

/* The same twelve requests at batch sizes 1, 3, 8 and 12, prompts cut into slices of 1, 7 and 64: the same answers. */
static void company_changes_nothing(void)
{
    static struct client alone[COMPANY], together[COMPANY];
    memset(alone, 0, sizeof alone);
    run_company(&(struct bench_options){.max_seqs = 1}, alone);
    const int32_t seqs[] = {1, 3, 8, 12}, slices[] = {1, 7, 64};
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 3; k++) {
            memset(together, 0, sizeof together);
            run_company(&(struct bench_options){.max_seqs = seqs[i], .step_tokens = 64, .prefill_tokens = slices[k]},
                        together);
            for (int c = 0; c < COMPANY; c++) {
                CHECK_STR(together[c].text, alone[c].text);
                CHECK_INT(together[c].usage.completion, alone[c].usage.completion);
            }
        }
    }
    CHECK(strcmp(alone[1].text, alone[2].text) != 0);
}

static void usage_is_exact(void)
{
    static struct client c;
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    c = (struct client){0};
    CHECK_INT(submit(&t, &c, &(struct ask){.n_prompt = 33, .max_tokens = 20, .samples = true}), RC_OK);
    CHECK(pump(&t, client_done, &c));
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.prompt, 33);
    CHECK_INT(c.usage.completion, 20);
    CHECK_INT(c.len, 20);
    CHECK_INT(c.n_ids, 20);
    CHECK_INT(c.n_samples, 20);
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.prefill_tokens, 33);
    CHECK_INT(s.decode_tokens, 19); /* the first token comes from the prompt's last step */
    CHECK_INT(s.gap.count, 19);
    CHECK_INT(s.generated_tokens, 20);
    bench_fini(&t);
}

/* While a prompt of 400 tokens prefills, the running sequence gets a token in every step, beside at most 16 others. */
static void decode_never_starves(void)
{
    static struct client runner, newcomer;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 4, .prefill_tokens = 16});
    runner = newcomer = (struct client){0};
    CHECK_INT(submit(&t, &runner, &(struct ask){.n_prompt = 8, .max_tokens = 200}), RC_OK);
    engine_set_permits(&t.en, 3);
    CHECK(pump(&t, has_text, &runner));
    CHECK_INT(submit(&t, &newcomer, &(struct ask){.n_prompt = 400, .max_tokens = 4, .salt = 1}), RC_OK);
    int steps = t.en.steps;
    engine_set_permits(&t.en, -1);
    CHECK(pump(&t, has_text, &newcomer));
    CHECK(engine_get(&t.en, &t.en.steps) - steps >= 400 / 16);
    CHECK_INT(t.en.most_mixed, 16);
    CHECK(runner.n_ids >= 400 / 16);
    bench_fini(&t);
}

static void waiting_room_is_bounded_and_fair(void)
{
    static struct client c[5];
    struct bench t;
    int order = 0;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1, .waiting_max = 3});
    memset(c, 0, sizeof c);
    for (int i = 0; i < 5; i++) {
        c[i].order = &order;
        struct ask a = {.n_prompt = 4, .max_tokens = 3, .salt = i};
        CHECK_INT(submit(&t, &c[i], &a), i < 4 ? RC_OK : RC_FULL);
    }
    c[4].finish = BATCH_FAILED;
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.refused, 1);
    engine_set_permits(&t.en, -1);
    struct clients all = {c, 5};
    CHECK(pump(&t, all_done, &all));
    for (int i = 0; i < 4; i++)
        CHECK_INT(c[i].place, i + 1);
    bench_fini(&t);
}

/* A cancelled job is gone after the step that runs: the next step already belongs to the one that waited. */
static void cancel_frees_the_slot(void)
{
    static struct client gone, next;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 4;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    gone = next = (struct client){0};
    CHECK_INT(submit(&t, &gone, &(struct ask){.n_prompt = 4, .max_tokens = 400}), RC_OK);
    CHECK_INT(submit(&t, &next, &(struct ask){.n_prompt = 4, .max_tokens = 2, .salt = 1}), RC_OK);
    CHECK(pump(&t, has_text, &gone));
    batcher_cancel(t.b, gone.job);
    int calls = gone.calls;
    engine_set_permits(&t.en, 4); /* at most one more for the cancelled (its step may have begun), two for the other */
    CHECK(pump(&t, client_done, &next));
    CHECK_INT(gone.calls, calls);
    CHECK_INT(next.usage.completion, 2);
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.cancelled, 1);
    bench_fini(&t);
}

static void cancel_while_waiting(void)
{
    static struct client runs, waits;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    runs = waits = (struct client){0};
    CHECK_INT(submit(&t, &runs, &(struct ask){.n_prompt = 4, .max_tokens = 3}), RC_OK);
    CHECK_INT(submit(&t, &waits, &(struct ask){.n_prompt = 4, .max_tokens = 3}), RC_OK);
    batcher_cancel(t.b, waits.job);
    engine_set_permits(&t.en, -1);
    CHECK(pump(&t, client_done, &runs));
    CHECK(pump(&t, nothing_runs, &t));
    CHECK_INT(waits.calls, 0);
    bench_fini(&t);
}

/* Pages for one request at a time: the second waits for them; one that can never fit is refused in words. */
static void pages_gate_admission(void)
{
    static struct client c[3];
    struct bench t;
    engine_init(&t.en);
    t.en.pages_total = t.en.pages_free = 2;
    bench_init(&t, &(struct bench_options){.max_seqs = 4});
    memset(c, 0, sizeof c);
    CHECK_INT(submit(&t, &c[0], &(struct ask){.n_prompt = 60, .max_tokens = 60}), RC_OK);
    CHECK_INT(submit(&t, &c[1], &(struct ask){.n_prompt = 60, .max_tokens = 60, .salt = 1}), RC_OK);
    CHECK_INT(submit(&t, &c[2], &(struct ask){.n_prompt = 130, .max_tokens = 300, .salt = 2}), RC_OK);
    struct clients all = {c, 3};
    CHECK(pump(&t, all_done, &all));
    CHECK_INT(c[0].finish, BATCH_LENGTH);
    CHECK_INT(c[1].finish, BATCH_LENGTH);
    CHECK_INT(c[2].finish, BATCH_FAILED);
    CHECK_STR(c[2].error, "the pool has 2 pages");
    bench_fini(&t);
}

/* A pool for one long answer and a half: the young give way to the old, and in the end everybody has said what he would
 * have said with room for all. */
static void the_young_give_way(void)
{
    static struct client got[2][6];
    memset(got, 0, sizeof got);
    for (int tight = 0; tight < 2; tight++) {
        struct bench t;
        struct batcher_stats s;
        int order = 0;
        engine_init(&t.en);
        if (tight)
            t.en.pages_total = t.en.pages_free = 12; /* N_CTX is 8 */
        t.en.permits = 0;                            /* until all are there */
        bench_init(&t, &(struct bench_options){.max_seqs = 6, .speculate = tight});
        for (int i = 0; i < 6; i++) {
            struct ask a = {.n_prompt = 30 + 9 * i,
                            .salt = i,
                            .max_tokens = 200,
                            .temperature = i % 2,
                            .seed = 5,
                            .samples = i == 3};
            got[tight][i].order = &order;
            CHECK_INT(submit(&t, &got[tight][i], &a), RC_OK);
        }
        engine_set_permits(&t.en, -1);
        struct clients all = {got[tight], 6};
        CHECK(pump(&t, all_done, &all));
        batcher_stats(t.b, &s);
        CHECK(tight ? s.preemptions > 0 : s.preemptions == 0);
        CHECK_INT(s.finished_length, 6);
        CHECK_INT(s.generated_tokens, 6 * 200);
        CHECK_INT(s.prompt_tokens, 6 * 30 + 9 * 15); /* each once */
        bench_fini(&t);
    }
    CHECK_INT(got[1][0].place, 1); /* the oldest was never displaced */
    for (int i = 0; i < 6; i++) {
        CHECK_INT(got[1][i].n_ids, got[0][i].n_ids);
        CHECK(memcmp(got[1][i].ids, got[0][i].ids, sizeof got[0][i].ids) == 0);
        CHECK_INT(got[1][i].usage.prompt, 30 + 9 * i);
        CHECK_INT(got[1][i].n_samples, got[0][i].n_samples);
    }
}

/* Of two slots the flood gets one, whoever came first; and what the flood has waiting is served, too. */
static void a_flood_is_not_everything(void)
{
    enum { FLOOD = 20, FEW = 4, AFTER = 30 };
    static struct client c[FLOOD + FEW + AFTER];
    struct bench t;
    int order = 0, last_of_few = 0, last_of_flood = 0;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 2, .waiting_max = 100});
    for (int i = 0; i < FLOOD + FEW + AFTER; i++) {
        struct ask a = {.n_prompt = 5,
                        .salt = i,
                        .max_tokens = 10,
                        .tenant = i < FLOOD         ? 1
                                  : i < FLOOD + FEW ? 2
                                                    : 3 + i};
        c[i].order = &order;
        CHECK_INT(submit(&t, &c[i], &a), RC_OK);
    }
    engine_set_permits(&t.en, -1);
    struct clients all = {c, FLOOD + FEW + AFTER};
    CHECK(pump(&t, all_done, &all));
    for (int i = 0; i < FLOOD + FEW; i++) {
        int *last = i < FLOOD ? &last_of_flood : &last_of_few;
        *last = c[i].place > *last ? c[i].place : *last;
    }
    CHECK(last_of_few <= 2 * FEW + 4);
    CHECK(c[FLOOD - 1].place < FLOOD + FEW + AFTER); /* thirty newcomers with a tenant each don't starve it... */
    CHECK(c[2].place <= OVERTAKEN + 6);              /* ...for nobody lets more than eight pass */
    bench_fini(&t);
}

static void pause_and_resume(void)
{
    static struct client slow, quick;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 2;
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    slow = quick = (struct client){0};
    CHECK_INT(submit(&t, &slow, &(struct ask){.n_prompt = 4, .max_tokens = 30}), RC_OK);
    CHECK(pump(&t, has_text, &slow));
    batcher_set_flow(t.b, slow.job, BATCH_PAUSE);
    engine_set_permits(&t.en, -1);
    CHECK_INT(submit(&t, &quick, &(struct ask){.n_prompt = 4, .max_tokens = 100, .salt = 1}), RC_OK);
    CHECK(pump(&t, client_done, &quick));
    CHECK(slow.n_ids <= 4); /* what had begun before the pause was heard */
    CHECK_INT(slow.finish, BATCH_RUNNING);
    batcher_set_flow(t.b, slow.job, BATCH_FLOW);
    CHECK(pump(&t, client_done, &slow));
    CHECK_INT(slow.usage.completion, 30);
    bench_fini(&t);
}

static void failed_step_ends_its_jobs_only(void)
{
    static struct client first, second;
    struct bench t;
    engine_init(&t.en);
    t.en.fail_at = 5;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    first = second = (struct client){0};
    CHECK_INT(submit(&t, &first, &(struct ask){.n_prompt = 4, .max_tokens = 50}), RC_OK);
    CHECK_INT(submit(&t, &second, &(struct ask){.n_prompt = 4, .max_tokens = 6}), RC_OK);
    CHECK(pump(&t, client_done, &second));
    CHECK_INT(first.finish, BATCH_FAILED);
    CHECK_STR(first.error, "the device fell over");
    CHECK_INT(first.n_ids, 4);
    CHECK_INT(second.finish, BATCH_LENGTH);
    bench_fini(&t);
}

static void run_one(struct engine *en, const struct ask *a, struct client *c)
{
    struct bench t;
    engine_init(&t.en);
    t.en.eos_at = en->eos_at;
    t.en.script = en->script;
    t.en.script_from = en->script_from;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    *c = (struct client){0};
    CHECK_INT(submit(&t, c, a), RC_OK);
    CHECK(pump(&t, client_done, c));
    bench_fini(&t);
}

static void endings(void)
{
    static struct client c;
    struct engine *en = calloc(1, sizeof *en);
    en->eos_at = 20;
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100}, &c);
    CHECK_INT(c.finish, BATCH_STOP);
    CHECK_INT(c.usage.completion, 11); /* ten, and the end token */
    CHECK_INT(c.len, 10);
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100, .ignore_eos = true}, &c);
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.completion, 100);
    CHECK_INT(c.len, 10); /* end tokens are no text */
    en->eos_at = 0;
    en->script = "one two STOP three";
    en->script_from = 10;
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100, .stop = "STOP"}, &c);
    CHECK_INT(c.finish, BATCH_STOP);
    CHECK_STR(c.text, "one two ");
    CHECK_INT(c.usage.completion, 12);
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 10, .stop = "STOP"}, &c); /* held back, then let go */
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_STR(c.text, "one two ST");
    en->script = "\xe2\x82\xac\xe2\x82"; /* a euro sign, and two thirds of another */
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 5}, &c);
    CHECK_STR(c.text, "\xe2\x82\xac\xef\xbf\xbd");
    run_one(en, &(struct ask){.n_prompt = N_CTX - 3, .max_tokens = 100}, &c);
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.completion, 3);
    free(en);
}

/* The first, the middle and the last of those that wait leave; who runs stays, who is left is served in order. */
static void withdrawn_while_waiting(void)
{
    static struct client c[5];
    struct bench t;
    int order = 0;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    for (int i = 0; i < 5; i++) {
        struct ask a = {.n_prompt = 3, .salt = i, .max_tokens = 4};
        c[i].order = &order;
        CHECK_INT(submit(&t, &c[i], &a), RC_OK);
    }
    struct mono start = clock_now(&clock_system);
    struct batcher_stats s = {0};
    while (s.running == 0 && mono_since(&clock_system, start) < PATIENCE_S * NS_PER_S)
        batcher_stats(t.b, &s);
    CHECK(!batcher_withdraw(t.b, c[0].job));
    const int leaves[] = {2, 1, 4};
    for (int k = 0; k < 3; k++) {
        struct client *who = &c[leaves[k]];
        CHECK(batcher_withdraw(t.b, who->job));
        batch_job_free(who->job);
        who->finish = BATCH_STOP;
    }
    struct ask a = {.n_prompt = 3, .salt = 9, .max_tokens = 4};
    c[4] = (struct client){.order = &order};
    CHECK_INT(submit(&t, &c[4], &a), RC_OK); /* the tail is where it should be */
    engine_set_permits(&t.en, -1);
    struct clients all = {c, 5};
    CHECK(pump(&t, all_done, &all));
    CHECK(c[0].place == 1 && c[3].place == 2 && c[4].place == 3);
    batcher_stats(t.b, &s);
    CHECK_INT(s.withdrawn, 3);
    CHECK_INT(s.waiting, 0);
    bench_fini(&t);
}

/* Freed with jobs waiting, running, and ended but not fetched: nothing leaks (the sanitizer looks on), nobody is called. */
static void free_in_the_middle(void)
{
    static struct client c[8];
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 3});
    memset(c, 0, sizeof c);
    for (int i = 0; i < 8; i++)
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 4, .max_tokens = i < 2 ? 1 : 500, .salt = i}), RC_OK);
    struct pollfd p = {.fd = batcher_fd(t.b), .events = POLLIN};
    CHECK_INT(poll(&p, 1, PATIENCE_S * 1000), 1);
    bench_fini(&t);
    for (int i = 0; i < 8; i++)
        CHECK_INT(c[i].calls, 0);
}

/* Hundreds of jobs, cancelled at random moments: all others end, and every page comes back. */
static void churn(void)
{
    enum { N = 400 };
    static struct client c[N];
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 8, .waiting_max = N});
    memset(c, 0, sizeof c);
    unsigned rng = 1;
    for (int i = 0; i < N; i++) {
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 1 + i % 70, .max_tokens = 1 + i % 40, .salt = i}), RC_OK);
        batcher_dispatch(t.b);
        rng = rng * 1103515245u + 12345u;
        int victim = (int)(rng >> 16) % (i + 1);
        if (i % 3 == 0 && c[victim].job) {
            batcher_cancel(t.b, c[victim].job);
            c[victim].job = NULL;
            c[victim].finish = BATCH_STOP;
        }
    }
    struct clients all = {c, N};
    CHECK(pump(&t, all_done, &all));
    CHECK(pump(&t, nothing_runs, &t));
    int steps = engine_get(&t.en, &t.en.steps);
    poll(NULL, 0, 30);
    CHECK_INT(engine_get(&t.en, &t.en.steps), steps); /* idle is idle */
    bench_fini(&t);
}

/* An answer that is handed over after any of its ids goes on as if nothing had happened: ids, text from where the first
 * leg's ended, usage. However many steps one call of on_output took in, the text it brought is that of the ids it brought.
 */
static void resumed_goes_on(void)
{
    static struct client whole, rest;
    static const struct ask asks[] = {
        {.n_prompt = 90, .salt = 1, .max_tokens = 40},
        {.n_prompt = 3, .salt = 2, .max_tokens = 70, .temperature = 1, .seed = 5, .stop = "never"},
        {.n_prompt = 1, .salt = 3, .max_tokens = 200, .temperature = 1.3, .seed = 6, .ignore_eos = true},
        {.n_prompt = 70, .salt = 4, .max_tokens = 90, .temperature = 1, .seed = 7, .samples = true},
    };
    for (size_t k = 0; k < sizeof asks / sizeof *asks; k++) {
        struct bench t;
        struct ask a = asks[k];
        engine_init(&t.en);
        t.en.eos_at = k == 3 ? 120 : 0;
        bench_init(&t, &(struct bench_options){.max_seqs = 2});
        memset(&whole, 0, sizeof whole);
        CHECK_INT(submit(&t, &whole, &a), RC_OK);
        CHECK(pump(&t, client_done, &whole));
        a.resume = whole.ids;
        for (a.n_resume = 0; a.n_resume < whole.n_ids; a.n_resume += 3) {
            size_t from = whole.len_at[a.n_resume];
            memset(&rest, 0, sizeof rest);
            CHECK_INT(submit(&t, &rest, &a), RC_OK);
            CHECK(pump(&t, client_done, &rest));
            CHECK_INT(rest.n_ids, whole.n_ids - a.n_resume);
            CHECK(memcmp(rest.ids, whole.ids + a.n_resume, (size_t)rest.n_ids * sizeof *rest.ids) == 0);
            CHECK(from == SIZE_MAX ||
                  (rest.len == whole.len - from && memcmp(rest.text, whole.text + from, rest.len) == 0));
            CHECK_INT(rest.n_samples, a.samples ? rest.n_ids : 0);
            CHECK(memcmp(&rest.usage, &whole.usage, sizeof rest.usage) == 0 && rest.finish == whole.finish);
        }
        bench_fini(&t);
    }
}

static void refuses_impossible_steps(void)
{
    struct error e = {0};
    struct batcher *b;
    const struct batcher_options o = {.ops = &fake_ops, .max_seqs = 8, .step_tokens = 4, .n_vocab = N_VOCAB};
    CHECK_INT(batcher_new(&b, &o, &e), RC_INVALID);
    CHECK_STR(e.message, "8 sequences do not fit into a step of 4 tokens; the step must hold one of each");
}

int main(void)
{
    TEST(known_beginnings);
    TEST(looking_ahead);
    TEST(known_beginning_of_a_resumed_answer);
    TEST(company_changes_nothing);
    TEST(usage_is_exact);
    TEST(decode_never_starves);
    TEST(waiting_room_is_bounded_and_fair);
    TEST(cancel_frees_the_slot);
    TEST(cancel_while_waiting);
    TEST(withdrawn_while_waiting);
    TEST(pages_gate_admission);
    TEST(the_young_give_way);
    TEST(a_flood_is_not_everything);
    TEST(pause_and_resume);
    TEST(failed_step_ends_its_jobs_only);
    TEST(endings);
    TEST(free_in_the_middle);
    TEST(churn);
    TEST(resumed_goes_on);
    TEST(refuses_impossible_steps);
    return TEST_RESULT();
}
