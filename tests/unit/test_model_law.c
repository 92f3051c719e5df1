/* Proves the numerics law from end to end: the logits after a token depend on the ids before it and nothing else, bit
 * for bit: not on how the prompt was cut into steps, not on which other sequences share a step, not on the number of
 * threads, not on which pages hold the keys or who computed them, not on whether an id was decoded or came back as part
 * of a prompt. Runs on small models of random weights, dense and DeepSeek, in both precisions and in quantised types,
 * and on the trained one. Also: what engine_step() refuses, that pages come back, and what makes a numerics class.
 * links: spw_engine_model */
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/model/model.h"
#include "engine/model/synth.h"
#include "tests/unit/test.h"

#define N_TOK 75 /* past one page */

static const struct synth_shape dense = {.arch = "llama",
                                         .n_layer = 2,
                                         .n_embd = 256,
                                         .n_head = 4,
                                         .n_kv_head = 2,
                                         .n_ff = 512,
                                         .n_vocab = 320,
                                         .n_ctx = 256};
static const struct synth_shape deepseek = {.arch = "deepseek2",
                                            .n_layer = 2,
                                            .n_embd = 256,
                                            .n_head = 4,
                                            .n_ff = 256,
                                            .n_vocab = 320,
                                            .n_ctx = 256,
                                            .q_lora = 96,
                                            .kv_lora = 64,
                                            .d_nope = 32,
                                            .d_rope = 16,
                                            .d_v = 32,
                                            .n_dense_lead = 1,
                                            .n_expert = 8,
                                            .n_used = 3,
                                            .n_shared = 1,
                                            .n_ff_exp = 64,
                                            .sigmoid = 1,
                                            .weights_norm = 1,
                                            .weights_scale = 2.5,
                                            .n_group = 4,
                                            .n_group_used = 2,
                                            .yarn_orig = 64,
                                            .yarn_factor = 4,
                                            .yarn_mscale = 1};

static char path[] = "/tmp/spillway-law-XXXXXX";
static struct model *model;
static enum k_precision precision;
static enum k_type kv_type;
static int32_t ids[N_TOK];
static size_t n_vocab;

static struct engine *new_engine(int threads, int32_t max_seqs)
{
    struct engine *en = NULL;
    struct error e = {0};
    struct engine_options o = {.threads = threads,
                               .precision = precision,
                               .kv_type = kv_type,
                               .n_ctx = 128,
                               .max_seqs = max_seqs,
                               .max_batch_tokens = 256,
                               .kept_pages = -1};
    if (engine_new(&en, model, &o, &e) != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    SPW_ASSERT(en);
    return en;
}

static void step(struct engine *en, struct step_slice *sl, int32_t n)
{
    struct error e = {0};
    for (int32_t i = 0; i < n; i++)
        if (seq_reserve(sl[i].seq, sl[i].n, &e) != RC_OK)
            fprintf(stderr, "%s\n", e.message);
    enum rc rc = engine_step(en, sl, n, &e);
    if (rc)
        fprintf(stderr, "%s\n", e.message);
    SPW_ASSERT(rc == RC_OK);
}

/* Logits of every position, computed in steps of `chunk` tokens on `threads` threads. Caller frees. */
static float *run_chunks(int32_t chunk, int threads)
{
    struct engine *en = new_engine(threads, 1);
    struct seq *s = seq_new(en);
    float *all = spw_calloc(N_TOK * n_vocab, sizeof *all);
    for (int32_t i = 0; i < N_TOK; i += chunk) {
        int32_t n = N_TOK - i < chunk ? N_TOK - i : chunk;
        struct step_slice sl = {.seq = s, .ids = ids + i, .n = n, .all_logits = true};
        step(en, &sl, 1);
        memcpy(all + (size_t)i * n_vocab, sl.logits, (size_t)n * n_vocab * sizeof *all);
    }
    seq_free(s);
    CHECK_INT(engine_pages_free(en), engine_pages_total(en));
    engine_free(en);
    return all;
}

/* `batch` sequences at once; sequence j takes j + 1 tokens a step, so that they drift apart. Only sequence `probe`
 * runs the probe's ids, the others run shifted ones. Compares its logits with `want`. */
static void run_batch(int32_t batch, int32_t probe, int threads, const float *want)
{
    struct engine *en = new_engine(threads, batch);
    struct seq *seqs[8];
    struct step_slice sl[8];
    int32_t others[N_TOK], done = 0;
    bool same = true;
    for (int32_t i = 0; i < N_TOK; i++)
        others[i] = ids[(i * 7 + 3) % N_TOK];
    for (int32_t j = 0; j < batch; j++)
        seqs[j] = seq_new(en);
    while (done < N_TOK) {
        int32_t n = 0;
        for (int32_t j = 0; j < batch; j++) {
            int32_t at = seq_len(seqs[j]), left = N_TOK - at, take = j + 1 < left ? j + 1 : left;
            const int32_t *from = (j == probe ? ids : others) + at;
            if (take > 0)
                sl[n++] = (struct step_slice){.seq = seqs[j], .ids = from, .n = take, .all_logits = j == probe};
        }
        step(en, sl, n);
        for (int32_t k = 0; k < n; k++)
            if (sl[k].seq == seqs[probe]) {
                size_t bytes = (size_t)sl[k].n * n_vocab * sizeof(float);
                same = same && memcmp(sl[k].logits, want + (size_t)done * n_vocab, bytes) == 0;
                done += sl[k].n;
            }
    }
    CHECK(same);
    for (int32_t j = 0; j < batch; j++)
        seq_free(seqs[j]);
    engine_free(en);
}

/* Truncate and go on: what is computed again is the same, on other pages too. */
static void run_rewound(const float *want)
{
    struct engine *en = new_engine(1, 2);
    struct seq *s = seq_new(en), *other = seq_new(en);
    struct step_slice sl = {.seq = s, .ids = ids, .n = 70};
    step(en, &sl, 1);
    seq_truncate(s, 10);
    CHECK_INT(seq_len(s), 10);
    struct step_slice taker = {.seq = other, .ids = ids, .n = 3}; /* takes the page that s gave back */
    step(en, &taker, 1);
    sl = (struct step_slice){.seq = s, .ids = ids + 10, .n = N_TOK - 10, .want_logits = true};
    step(en, &sl, 1);
    CHECK(memcmp(sl.logits, want + (N_TOK - 1) * n_vocab, n_vocab * sizeof(float)) == 0);
    seq_free(s);
    seq_free(other);
    CHECK_INT(engine_pages_free(en), engine_pages_total(en));
    engine_free(en);
}

/* What a stream that goes on elsewhere does: prompt and answer so far come as one prompt, in slices that are cut
 * anywhere and share steps with another sequence that decodes; from there on it decodes, and every row is the
 * undisturbed one's. */
static void run_handed_over(int threads, const float *want)
{
    for (int32_t at = 1; at < N_TOK; at += 13) {
        struct engine *en = new_engine(threads, 2);
        struct seq *s = seq_new(en), *other = seq_new(en);
        bool same = true;
        for (int32_t done = 0; done < N_TOK;) {
            int32_t left = at - done, n = left > 20 ? 20 : left > 0 ? left : 1;
            struct step_slice sl[2] = {{.seq = other, .ids = ids + seq_len(other), .n = 1, .want_logits = true},
                                       {.seq = s, .ids = ids + done, .n = n, .want_logits = done + n >= at}};
            step(en, sl, 2);
            done += n;
            if (done >= at)
                same = same && memcmp(sl[1].logits, want + (size_t)(done - 1) * n_vocab, n_vocab * sizeof(float)) == 0;
        }
        CHECK(same);
        seq_free(s);
        seq_free(other);
        engine_free(en);
    }
}

/* A sequence that takes over the pages of one that has computed the same, or whose page is put in another's place. */
static void run_reused(int threads, const float *want)
{
    const struct prefix_salt salt = {{1}};
    struct engine *en = new_engine(threads, 3);
    struct seq *first = seq_new(en), *same_time = seq_new(en), *later = seq_new(en);
    struct step_slice both[2] = {{.seq = first, .ids = ids, .n = 70}, {.seq = same_time, .ids = ids, .n = 66}};
    step(en, both, 2);
    seq_share(first, &salt, ids);
    seq_share(same_time, &salt, ids);
    CHECK_INT(seq_attach(later, &salt, ids, N_TOK), K_PAGE_TOKENS);
    struct step_slice sl[2] = {{.seq = same_time, .ids = ids + 66, .n = N_TOK - 66, .all_logits = true},
                               {.seq = later, .ids = ids + 64, .n = N_TOK - 64, .all_logits = true}};
    step(en, sl, 2);
    CHECK(memcmp(sl[0].logits, want + 66 * n_vocab, (N_TOK - 66) * n_vocab * sizeof(float)) == 0);
    CHECK(memcmp(sl[1].logits, want + 64 * n_vocab, (N_TOK - 64) * n_vocab * sizeof(float)) == 0);
    engine_free(en);
}

static void law(void)
{
    static const struct {
        int32_t chunk;
        int threads;
    } cuts[] = {{1, 1}, {1, 2}, {7, 1}, {7, 2}, {64, 1}, {64, 2}, {N_TOK, 2}};
    float *want = run_chunks(N_TOK, 1);
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        float *got = run_chunks(cuts[i].chunk, cuts[i].threads);
        CHECK(memcmp(got, want, N_TOK * n_vocab * sizeof *got) == 0);
        free(got);
    }
    for (int threads = 1; threads <= 2; threads++) {
        run_batch(1, 0, threads, want);
        run_batch(3, 1, threads, want);
        run_batch(8, 0, threads, want);
        run_batch(8, 6, threads, want);
        run_handed_over(threads, want);
        run_reused(threads, want);
    }
    run_rewound(want);
    bool finite = true, varied = false;
    for (size_t i = 0; i < N_TOK * n_vocab; i++) {
        finite = finite && want[i] - want[i] == 0.0f;
        varied = varied || want[i] != want[0];
    }
    CHECK(finite && varied);
    free(want);
}

static void refusals(void)
{
    struct engine *en = new_engine(1, 2);
    struct error e = {0};
    struct seq *s = seq_new(en), *t = seq_new(en);
    CHECK(seq_new(en) == NULL);
    struct step_slice sl[2] = {{.seq = s, .ids = ids, .n = 4}, {.seq = s, .ids = ids, .n = 4}};
    CHECK_INT(engine_step(en, sl, 1, &e), RC_INVALID); /* nothing reserved */
    CHECK(strstr(e.message, "no room reserved") != NULL);
    CHECK_INT(seq_reserve(s, 8, &e), RC_OK);
    CHECK_INT(engine_step(en, sl, 2, &e), RC_INVALID); /* twice in one step */
    CHECK_INT(engine_step(en, sl, 1, &e), RC_OK);      /* and nothing is left behind by that */
    int32_t odd[] = {1, (int32_t)n_vocab}, low[] = {-1};
    sl[0] = (struct step_slice){.seq = s, .ids = odd, .n = 2};
    CHECK_INT(engine_step(en, sl, 1, &e), RC_INVALID);
    CHECK(strstr(e.message, "not in the vocabulary") != NULL);
    sl[0] = (struct step_slice){.seq = s, .ids = low, .n = 1};
    CHECK_INT(engine_step(en, sl, 1, &e), RC_INVALID);
    CHECK_INT(seq_len(s), 4);
    CHECK_INT(seq_reserve(s, 125, &e), RC_FULL); /* n_ctx is 128 */
    CHECK_INT(seq_reserve(s, 124, &e), RC_OK);
    seq_free(s);
    seq_free(t);
    engine_free(en);
}

static void pool_runs_out(void)
{
    struct engine *en = NULL;
    struct error e = {0};
    struct engine_options o = {.threads = 1, .n_ctx = 128, .max_seqs = 2, .kv_pages = 3};
    CHECK_INT(engine_new(&en, model, &o, &e), RC_OK);
    struct seq *s = seq_new(en), *t = seq_new(en);
    CHECK_INT(seq_reserve(s, 65, &e), RC_OK);
    CHECK_INT(engine_pages_free(en), 1);
    CHECK_INT(seq_reserve(t, 65, &e), RC_FULL);
    CHECK_INT(engine_pages_free(en), 1); /* nothing was taken */
    CHECK_INT(seq_reserve(t, 64, &e), RC_OK);
    seq_free(s);
    CHECK_INT(engine_pages_free(en), 2);
    seq_free(t);
    engine_free(en);
}

static void with_file(const char *file, void (*test)(void), const char *name)
{
    struct error e = {0};
    if (model_open(&model, file, GGUF_MAP, &e) != RC_OK) {
        fprintf(stderr, "%s: %s\n", name, e.message);
        test_run_.failed++;
        return;
    }
    n_vocab = (size_t)model_info(model)->n_vocab;
    TEST(test);
    if (test_run_.group_failed)
        fprintf(stderr, "... in %s, precision %d\n", name, (int)precision);
    model_close(model);
}

static void with_model(const struct synth_shape *shape, enum synth_type type, void (*test)(void), const char *name)
{
    struct error e = {0};
    if (synth_write(shape, type, 7, path, &e) != RC_OK) {
        fprintf(stderr, "%s: %s\n", name, e.message);
        test_run_.failed++;
        return;
    }
    with_file(path, test, name);
}

/* The same weights, another file name, other threads and slots: one class. One bit of one weight, another template,
 * other activations: another. */
static void classes(void)
{
    struct error e = {0};
    char a[33], b[33];
    struct engine *en = new_engine(1, 1);
    CHECK_INT(engine_class(en, "chatml", a, &e), RC_OK);
    CHECK_INT(strlen(a), 32);
    CHECK_INT(engine_class(en, "llama3", b, &e), RC_OK);
    CHECK(strcmp(a, b) != 0);
    CHECK_INT(engine_class(en, NULL, b, &e), RC_OK);
    CHECK(strcmp(a, b) != 0);
    engine_free(en);
    en = new_engine(2, 5);
    CHECK_INT(engine_class(en, "chatml", b, &e), RC_OK);
    CHECK_STR(b, a);
    engine_free(en);
    precision = K_PRECISE;
    en = new_engine(1, 1);
    CHECK_INT(engine_class(en, "chatml", b, &e), RC_OK);
    CHECK(strcmp(a, b) != 0);
    engine_free(en);
    precision = K_FAST;
    kv_type = K_Q8_0;
    en = new_engine(1, 1);
    CHECK(strstr(engine_numerics(en), "kv=q8_0") != NULL);
    CHECK_INT(engine_class(en, "chatml", b, &e), RC_OK);
    CHECK(strcmp(a, b) != 0);
    engine_free(en);
    kv_type = K_F16; /* named, it is the default */
    en = new_engine(1, 1);
    CHECK_INT(engine_class(en, "chatml", b, &e), RC_OK);
    CHECK_STR(b, a);
    engine_free(en);
    kv_type = 0;
}

/* A class of its own where the CPU has AVX512-BF16, and refused in words elsewhere, and by other backends. */
static void activations_in_bf16(void)
{
    struct error e = {0};
    char fast[33], bf16[33];
    struct engine *en = new_engine(1, 1);
    CHECK(strstr(engine_numerics(en), ";act=fast;") != NULL);
    CHECK_INT(engine_class(en, NULL, fast, &e), RC_OK);
    engine_free(en);
    struct engine_options o = {.threads = 1, .n_ctx = 128, .precision = K_FAST_BF16};
    enum rc rc = engine_new(&en, model, &o, &e);
    if (rc == RC_OK) {
        CHECK(strstr(engine_numerics(en), ";act=bf16;") != NULL);
        CHECK_INT(engine_class(en, NULL, bf16, &e), RC_OK);
        CHECK(strcmp(fast, bf16) != 0);
        engine_free(en);
    } else {
        CHECK_INT(rc, RC_UNSUPPORTED);
        CHECK(strstr(e.message, "avx512_bf16") != NULL && strstr(e.message, "use fast") != NULL);
    }
    o.ops = &k_reference_ops;
    CHECK_INT(engine_new(&en, model, &o, &e), RC_UNSUPPORTED);
    CHECK(strstr(e.message, "backend reference") != NULL);
}

/* Pages of Q8_0 hold as much in 17/32 of the bytes; keys that are no whole blocks, and types that are none, are refused. */
static void pages_of_q8_0(void)
{
    struct error e = {0};
    uint64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        kv_type = i ? K_Q8_0 : K_F16;
        struct engine *en = new_engine(1, 2);
        bytes[i] = engine_kv_bytes(en);
        CHECK_INT(engine_pages_total(en), 4);
        engine_free(en);
    }
    CHECK_INT(bytes[1], bytes[0] * 17 / 32);
    kv_type = 0;
    struct engine *en = NULL;
    struct engine_options o = {.threads = 1, .n_ctx = 128, .kv_type = K_Q4_0};
    CHECK_INT(engine_new(&en, model, &o, &e), RC_INVALID);
    CHECK(strstr(e.message, "f32, f16 or q8_0") != NULL);
}

static void odd_keys(void)
{
    struct error e = {0};
    struct engine *en = NULL;
    struct engine_options o = {.threads = 1, .n_ctx = 128, .kv_type = K_Q8_0};
    CHECK_INT(engine_new(&en, model, &o, &e), RC_UNSUPPORTED);
    CHECK(strstr(e.message, "blocks of 32") != NULL && strstr(e.message, "use f16") != NULL);
    o.kv_type = K_F16;
    CHECK_INT(engine_new(&en, model, &o, &e), RC_OK);
    engine_free(en);
}

/* Not found when a test is run from elsewhere: run it from the root of the sources. */
#define TRAINED "models/spillway-tiny.gguf"

/* The law for all types, and for the model that comes along. */
static void with_all_models(void)
{
    with_model(&dense, SYNTH_F32, law, "dense F32");
    with_model(&dense, SYNTH_Q8_0, law, "dense Q8_0");
    with_model(&deepseek, SYNTH_Q8_0, law, "deepseek Q8_0");
    with_model(&dense, SYNTH_Q4_0, law, "dense Q4_0");
    with_model(&deepseek, SYNTH_BF16, law, "deepseek BF16");
    if (access(TRAINED, R_OK) == 0)
        with_file(TRAINED, law, "the trained model, Q8_0");
    else
        printf("skipped: test_model_law: there is no " TRAINED " here\n");
    kv_type = K_Q8_0;
    with_model(&dense, SYNTH_Q4_K_M, law, "dense, keys and values in Q8_0");
    with_model(&deepseek, SYNTH_Q8_0, law, "deepseek, keys and values in Q8_0");
    kv_type = 0;
    if (__builtin_cpu_supports("avx512bf16")) {
        precision = K_FAST_BF16;
        with_model(&deepseek, SYNTH_BF16, law, "deepseek BF16, activations too");
    }
    precision = K_PRECISE;
    with_model(&dense, SYNTH_Q4_K_M, law, "dense Q4_K_M");
    with_model(&deepseek, SYNTH_F32, law, "deepseek F32");
}

int main(void)
{
    int fd = mkstemp(path);
    SPW_ASSERT(fd >= 0);
    close(fd);
    for (int i = 0; i < N_TOK; i++)
        ids[i] = (i * 37 + 11) % 300;
    precision = K_FAST;
    with_model(&dense, SYNTH_Q4_K_M, law, "dense Q4_K_M");
    with_model(&deepseek, SYNTH_Q4_K_M, law, "deepseek Q4_K_M");
    if (!TEST_SANITIZED)
        with_all_models();
    precision = K_FAST;
    with_model(&dense, SYNTH_Q4_0, refusals, "dense Q4_0");
    with_model(&dense, SYNTH_Q4_0, pool_runs_out, "dense Q4_0");
    with_model(&dense, SYNTH_Q8_0, classes, "dense Q8_0");
    with_model(&dense, SYNTH_Q4_0, pages_of_q8_0, "dense Q4_0");
    with_model(&dense, SYNTH_BF16, activations_in_bf16, "dense BF16");
    struct synth_shape odd = dense;
    odd.n_embd = 160; /* one key head of 40 */
    odd.n_kv_head = 1;
    with_model(&odd, SYNTH_F32, odd_keys, "dense, keys of 40 elements");
    unlink(path);
    return TEST_RESULT();
}
