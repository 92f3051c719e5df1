/* The batcher's tests run it over an engine made of glass: it computes the next id from a hash of the sequence's ids,
 * so any id lost, doubled or mixed up between sequences changes everything after it. Included by test_batcher*.c
 * alone. */
#ifndef TESTS_UNIT_BATCHER_GLASS_H
#define TESTS_UNIT_BATCHER_GLASS_H

#include "engine/serve/batcher.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/serve/speculate.h"
#include "engine/text/softmax.h"
#include "tests/unit/test.h"

#define N_VOCAB    259            /* <unk>, <s>, </s>, then one token per byte */
#define N_ROW      (N_VOCAB + 13) /* a model may have more logits than there are tokens */
#define EOS        2
#define BYTE(c)    (3 + (unsigned char)(c))
#define N_CTX      2048
#define SEQS_MAX   64
#define PAGE       K_PAGE_TOKENS
#define PATIENCE_S 20
#define STALL_NS   (100 * NS_PER_MS)
#define OVERTAKEN  8 /* batcher.c's bound */

/* The stand-in engine. */

struct seq {
    struct engine *en;
    uint64_t hash[N_CTX + 1]; /* by length */
    int32_t len, room, pages;
};

static inline void seq_take(struct seq *s, int32_t id)
{
    s->hash[s->len + 1] = (s->hash[s->len] ^ (uint64_t)(id + 1)) * 1099511628211u;
    s->len++;
}

struct engine {
    pthread_mutex_t lock; /* guards everything: tests look in while the engine thread runs */
    pthread_cond_t changed;
    bool chooses; /* as a device does, where it is asked to */
    int choices;
    bool overlaps;                               /* steps can be begun before the one before is read */
    int forgets;                                 /* every so many choices of such a step are none; 0: all are there */
    int begun, most_begun, ahead;                /* steps now, at once, and that were begun while another was */
    struct k_sampled begun_choices[2][SEQS_MAX]; /* of the last two that were begun */
    int permits;                                 /* steps that may begin; -1: any number */
    int steps, seqs, fail_at;
    bool lost; /* at fail_at the device goes, and does not come back */
    int32_t pages_total, pages_free;
    int32_t known;  /* tokens of every prompt */
    int32_t shared; /* most tokens of a sequence that were made known */
    int salts;      /* first bytes of the salts seen, added up */
    int32_t eos_at; /* sequences say EOS at this length; 0: never */
    const char
        *script; /* when set: the answer, byte by byte, whatever the prompt (position counted from script_from) */
    int32_t script_from;
    /* Of the last step. */
    int32_t n_slices, n_ones, n_prompt_tokens;
    int32_t most_mixed;     /* most prompt tokens in a step that also had a slice of one token */
    int broken;             /* our law was broken: room overrun, same sequence twice */
    float (*logits)[N_ROW]; /* a row for each that a step can want */
};

static inline struct seq *fake_seq_new(struct engine *en)
{
    struct seq *s = calloc(1, sizeof *s);
    s->en = en;
    s->hash[0] = 1469598103934665603u;
    pthread_mutex_lock(&en->lock);
    en->seqs++;
    pthread_mutex_unlock(&en->lock);
    return s;
}

static inline void fake_seq_free(struct seq *s)
{
    pthread_mutex_lock(&s->en->lock);
    s->en->seqs--;
    s->en->pages_free += s->pages;
    pthread_mutex_unlock(&s->en->lock);
    free(s);
}

static inline enum rc fake_seq_reserve(struct seq *s, int32_t n, struct error *e)
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
static inline void fill_logits(const struct engine *en, const struct seq *s, float *out)
{
    uint64_t h = s->hash[s->len];
    for (int i = 0; i < N_ROW; i++)
        out[i] = i < N_VOCAB ? -30.0f : 99.0f; /* whoever takes a row from the wrong place will see */
    for (int c = 'a'; c <= 'z'; c++) {
        h = h * 6364136223846793005u + 1442695040888963407u;
        out[BYTE(c)] = (float)(h >> 40) / (float)(1 << 23);
    }
    if (en->script && s->len >= en->script_from && s->len - en->script_from < (int32_t)strlen(en->script))
        out[BYTE(en->script[s->len - en->script_from])] = 50.0f;
    if (en->eos_at && s->len >= en->eos_at)
        out[EOS] = 100.0f;
}

/* No filters: the tests ask for none. */
static inline void choose_as_device(struct engine *en, struct step_slice *sl)
{
    const struct k_sample *p = sl->sample;
    const float *logits = sl->logits;
    float weights[N_VOCAB];
    uint64_t total = 0, sum = 0;
    int32_t best = softmax_best(logits, N_VOCAB), id = 0;
    softmax_weights(logits, N_VOCAB, logits[best], p->scale, weights);
    for (int i = 0; i < N_VOCAB; i++)
        total += (uint64_t)(weights[i] * K_SAMPLE_UNITS);
    for (; id < N_VOCAB; id++)
        if ((sum += (uint64_t)(weights[id] * K_SAMPLE_UNITS)) > (uint64_t)((unsigned __int128)p->u53 * total >> 53))
            break;
    id = p->scale > 0 ? id : best;
    sl->chosen = (struct k_sampled){.id = id, .top = logits[best], .logit = logits[id], .total = 1};
    sl->is_chosen = true;
    sl->logits = NULL;
    en->choices++;
}

static inline void step_slice(struct engine *en, struct step_slice *sl, int row)
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
    if (en->chooses && sl->sample)
        choose_as_device(en, sl);
}

static inline enum rc fake_step(struct engine *en, struct step_slice *slices, int32_t n, struct error *e)
{
    enum rc rc = RC_OK;
    pthread_mutex_lock(&en->lock);
    while (en->permits == 0)
        pthread_cond_wait(&en->changed, &en->lock);
    if (en->permits > 0)
        en->permits--;
    en->broken += en->begun > 1;
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
    if (++en->steps == en->fail_at || (en->lost && en->steps > en->fail_at))
        rc = error_set(e, en->lost ? RC_IO : RC_INTERNAL, "the device fell over");
    int row = 0;
    for (int32_t i = 0; i < n && !rc; i++)
        step_slice(en, &slices[i], row), row += slices[i].all_logits ? slices[i].n : 1;
    pthread_cond_broadcast(&en->changed);
    pthread_mutex_unlock(&en->lock);
    return rc;
}

static inline int32_t fake_overlap_max(const struct engine *en)
{
    return en->overlaps ? SEQS_MAX : 0;
}

static inline bool fake_forgot(const struct engine *en, const struct k_sampled *chosen)
{
    return en->forgets && chosen->id % en->forgets == 0;
}

/* What the device will have chosen is computed now and told later; what it could not choose goes on as id 0. */
static inline enum rc fake_step_start(struct engine *en, struct step_slice *slices, int32_t n, struct error *e)
{
    struct k_sampled *before = en->begun_choices[0], *now = en->begun_choices[1];
    struct step_slice own[SEQS_MAX];
    int32_t ids[SEQS_MAX];
    memcpy(before, now, sizeof en->begun_choices[0]);
    for (int32_t i = 0; i < n; i++) {
        own[i] = slices[i];
        en->broken += slices[i].n != 1 || !slices[i].sample || (!slices[i].ids && en->begun != 1);
        ids[i] = slices[i].ids                                 ? slices[i].ids[0]
                 : fake_forgot(en, &before[slices[i].follows]) ? 0
                                                               : before[slices[i].follows].id;
        own[i].ids = &ids[i];
        slices[i].is_chosen = false;
        slices[i].logits = NULL;
    }
    enum rc rc = fake_step(en, own, n, e);
    for (int32_t i = 0; i < n && !rc; i++)
        now[i] = own[i].chosen;
    if (!rc)
        en->ahead += en->begun++;
    en->most_begun = en->begun > en->most_begun ? en->begun : en->most_begun;
    return rc;
}

static inline enum rc fake_step_finish(struct engine *en, struct step_slice *slices, int32_t n, struct error *e)
{
    (void)e;
    en->broken += en->begun < 1 || en->begun > 2;
    const struct k_sampled *chosen = en->begun_choices[en->begun == 2 ? 0 : 1];
    en->begun--;
    for (int32_t i = 0; i < n; i++) {
        slices[i].chosen = chosen[i];
        slices[i].is_chosen = !fake_forgot(en, &chosen[i]);
    }
    return RC_OK;
}

static inline int32_t fake_pages_free(const struct engine *en)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&en->lock;
    pthread_mutex_lock(lock);
    int32_t n = en->pages_free;
    pthread_mutex_unlock(lock);
    return n;
}

static inline int32_t fake_pages_total(const struct engine *en)
{
    return en->pages_total;
}

/* As much of a prompt is known as the test says, whole pages of it, never all. */
static inline int32_t fake_seq_attach(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n)
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
static inline void fake_seq_share(struct seq *s, const struct prefix_salt *salt, const int32_t *ids)
{
    uint64_t hash = 1469598103934665603u;
    (void)salt;
    pthread_mutex_lock(&s->en->lock);
    for (int32_t i = 0; i < s->len; i++)
        hash = (hash ^ (uint64_t)(ids[i] + 1)) * 1099511628211u;
    s->en->broken += hash != s->hash[s->len];
    s->en->shared = s->len > s->en->shared ? s->len : s->en->shared;
    pthread_mutex_unlock(&s->en->lock);
}

static inline void fake_seq_rewind(struct seq *s, int32_t len)
{
    pthread_mutex_lock(&s->en->lock);
    s->en->broken += len > s->len;
    s->len = len;
    pthread_mutex_unlock(&s->en->lock);
}

static inline int32_t fake_pages_kept(const struct engine *en)
{
    (void)en;
    return 0;
}

static inline uint64_t fake_pages_evicted(const struct engine *en)
{
    (void)en;
    return 0;
}

static inline struct kv_spill fake_spill(const struct engine *en)
{
    (void)en;
    return (struct kv_spill){0};
}

static const struct batch_engine_ops fake_ops = {
    .seq_new = fake_seq_new,
    .seq_free = fake_seq_free,
    .seq_attach = fake_seq_attach,
    .seq_share = fake_seq_share,
    .seq_rewind = fake_seq_rewind,
    .seq_reserve = fake_seq_reserve,
    .step = fake_step,
    .overlap_max = fake_overlap_max,
    .step_start = fake_step_start,
    .step_finish = fake_step_finish,
    .pages_free = fake_pages_free,
    .pages_total = fake_pages_total,
    .pages_kept = fake_pages_kept,
    .pages_evicted = fake_pages_evicted,
    .spill = fake_spill,
};

static inline void engine_init(struct engine *en)
{
    *en = (struct engine){.permits = -1, .pages_total = 1000, .pages_free = 1000};
    en->logits = calloc(SEQS_MAX * (SPECULATE_MAX + 1), sizeof *en->logits);
    pthread_mutex_init(&en->lock, NULL);
    pthread_cond_init(&en->changed, NULL);
}

static inline void engine_set_permits(struct engine *en, int permits)
{
    pthread_mutex_lock(&en->lock);
    en->permits = permits;
    pthread_cond_broadcast(&en->changed);
    pthread_mutex_unlock(&en->lock);
}

static inline int engine_get(struct engine *en, const int *what)
{
    pthread_mutex_lock(&en->lock);
    int v = *what;
    pthread_mutex_unlock(&en->lock);
    return v;
}

/* The vocabulary: SentencePiece with nothing but bytes. */
static inline struct vocab *make_vocab(void)
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
static inline struct mono ticking_now(void *state)
{
    int64_t *ms = state;
    return (struct mono){__atomic_add_fetch(ms, 1, __ATOMIC_RELAXED) * NS_PER_MS};
}
static inline struct wall ticking_wall(void *state)
{
    (void)state;
    return (struct wall){0};
}
static const struct clock_ops ticking = {.now = ticking_now, .wall = ticking_wall};

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
    int64_t busy_mw;
    void (*device_lost)(void *arg, const struct error *e);
    void *device_lost_arg;
};

static inline void bench_init(struct bench *t, const struct bench_options *bo)
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
        .n_logits = N_ROW,
        .n_ctx = N_CTX,
        .max_seqs = bo->max_seqs,
        .step_tokens = bo->step_tokens ? bo->step_tokens : 128,
        .prefill_tokens = bo->prefill_tokens,
        .speculate = bo->speculate,
        .busy_mw = bo->busy_mw,
        .waiting_max = bo->waiting_max ? bo->waiting_max : 64,
        .device_lost = bo->device_lost,
        .device_lost_arg = bo->device_lost_arg,
    };
    CHECK_INT(batcher_new(&t->b, &o, &e), RC_OK);
}

static inline void bench_fini(struct bench *t)
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
    float prompt[256];  /* log probabilities of the prompt's tokens, from the second on */
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
    bool prompt;           /* log probabilities of its tokens, too */
    bool plain;            /* no penalty, which a device leaves to the host */
    const int32_t *resume; /* the answer so far */
    int n_resume;
};

static inline void on_output(struct batch_job *job, const struct batch_output *out, void *arg)
{
    struct client *c = arg;
    CHECK(job == c->job && c->finish == BATCH_RUNNING);
    c->calls++;
    for (int i = 0; i < out->n_ids && c->n_ids < 255; i++) {
        c->len_at[c->n_ids] = i ? SIZE_MAX : c->len_at[c->n_ids];
        c->ids[c->n_ids++] = out->ids[i];
    }
    for (int i = 0; out->prompt && i + 1 < out->usage.prompt && i < 256; i++)
        c->prompt[i] = out->prompt[i].logprob;
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

static inline struct batch_job *make_job(struct bench *t, struct client *c, const struct ask *a)
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
    sp.frequency_penalty = a->temperature > 0 && !a->plain ? 0.5 : 0;
    struct batch_job_options o = {.n_ids = a->n_prompt + a->n_resume,
                                  .n_resumed = a->n_resume,
                                  .max_tokens = a->max_tokens,
                                  .salt = {{(uint8_t)(7 + a->tenant)}},
                                  .want_samples = a->samples,
                                  .want_prompt = a->prompt,
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

static inline enum rc submit(struct bench *t, struct client *c, const struct ask *a)
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

/* Run the "loop" until `until` holds or patience ends. A turn that took long, because nobody could run, counts for little. */
static inline bool pump(struct bench *t, bool (*until)(void *arg), void *arg)
{
    int64_t left = PATIENCE_S * NS_PER_S;
    while (!until(arg) && left > 0) {
        const struct mono before = clock_now(&clock_system);
        struct pollfd p = {.fd = batcher_fd(t->b), .events = POLLIN};
        poll(&p, 1, 2);
        batcher_dispatch(t->b);
        const int64_t took = mono_since(&clock_system, before);
        left -= took < STALL_NS ? took : STALL_NS;
    }
    return until(arg);
}

static inline bool client_done(void *arg)
{
    return ((struct client *)arg)->finish != BATCH_RUNNING;
}

struct clients {
    struct client *items;
    int n;
};
static inline bool all_done(void *arg)
{
    struct clients *c = arg;
    for (int i = 0; i < c->n; i++)
        if (c->items[i].finish == BATCH_RUNNING)
            return false;
    return true;
}

static inline bool has_text(void *arg)
{
    return ((struct client *)arg)->len > 0;
}

static inline bool nothing_runs(void *arg)
{
    struct batcher_stats s;
    batcher_stats(((struct bench *)arg)->b, &s);
    return s.running == 0 && s.waiting == 0;
}

#endif
