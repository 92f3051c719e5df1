/* A whole model on the CUDA backend, on the emulated device: logits near the reference's, dense and DeepSeek (absorbed
 * MLA, experts), in floats and blocks; the numerics law from end to end: whole, token by token (recorded steps and
 * repeated ones), and beside others, the same bits, rows of padding too; steps that overlap; experts that the host
 * computes beside the device, and pages that went to the host's memory and came back, as early and as late as they may;
 * hidden states; what does not fit is refused with what would; a device that is lost is told; nothing is left on the
 * device.
 * runtest: release
 * links: spw_engine_model spw_engine_text spw_kernels_cuda_emulated */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/model/model.h"
#include "engine/model/synth.h"
#include "engine/text/sampler.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/emulated/control.h"
#include "tests/unit/test.h"

#define N_TOK 6

static const struct synth_shape dense = {
    .arch = "qwen2", .n_layer = 2, .n_embd = 64, .n_head = 4, .n_kv_head = 2, .n_ff = 96, .n_vocab = 288, .n_ctx = 256};
static const struct synth_shape deepseek = {.arch = "deepseek2",
                                            .n_layer = 3,
                                            .n_embd = 64,
                                            .n_head = 2,
                                            .n_ff = 64,
                                            .n_vocab = 288,
                                            .n_ctx = 256,
                                            .q_lora = 32,
                                            .kv_lora = 32,
                                            .d_nope = 32,
                                            .d_rope = 16,
                                            .d_v = 32,
                                            .n_dense_lead = 1,
                                            .n_expert = 4,
                                            .n_used = 2,
                                            .n_shared = 1,
                                            .n_ff_exp = 32,
                                            .sigmoid = 1,
                                            .weights_norm = 1,
                                            .weights_scale = 2.5,
                                            .tied = 1};

static char path[] = "/tmp/spillway-cuda-XXXXXX";
static struct model *model;
static int32_t ids[N_TOK];
static size_t n_vocab;
static int32_t host_layers; /* of engines from now on */
static bool lazy, library;

static enum rc open_engine(struct engine **en, const struct k_ops *ops, enum k_precision precision, int32_t max_seqs,
                           struct error *e)
{
    struct engine_options o = {.ops = ops,
                               .threads = 1,
                               .precision = precision,
                               .n_ctx = 64,
                               .max_seqs = max_seqs,
                               .max_batch_tokens = 32,
                               .host_layers = host_layers,
                               .lazy = lazy,
                               .gemm_library = library};
    return engine_new(en, model, &o, e);
}

static struct engine *new_engine(const struct k_ops *ops, enum k_precision precision, int32_t max_seqs)
{
    struct engine *en = NULL;
    struct error e = {0};
    if (open_engine(&en, ops, precision, max_seqs, &e) != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    SPW_ASSERT(en);
    return en;
}

static void step(struct engine *en, struct step_slice *sl, int32_t n)
{
    struct error e = {0};
    enum rc rc = RC_OK;
    for (int32_t i = 0; i < n && !rc; i++)
        rc = seq_reserve(sl[i].seq, sl[i].n, &e);
    if (!rc)
        rc = engine_step(en, sl, n, &e);
    if (rc)
        fprintf(stderr, "%s\n", e.message);
    SPW_ASSERT(rc == RC_OK);
}

/* Logits of every position, `chunk` tokens a step, beside `others` sequences that are a token ahead. Caller frees. */
static float *run(const struct k_ops *ops, enum k_precision precision, int32_t chunk, int32_t others)
{
    struct engine *en = new_engine(ops, precision, 1 + others);
    struct seq *seqs[4];
    float *all = spw_calloc(N_TOK * n_vocab, sizeof *all);
    for (int32_t j = 0; j <= others; j++) {
        seqs[j] = seq_new(en);
        struct step_slice ahead = {.seq = seqs[j], .ids = ids + j, .n = 1};
        if (j > 0)
            step(en, &ahead, 1);
    }
    for (int32_t i = 0; i < N_TOK; i += chunk) {
        struct step_slice sl[4];
        int32_t n = N_TOK - i < chunk ? N_TOK - i : chunk;
        for (int32_t j = 1; j <= others; j++)
            sl[j - 1] =
                (struct step_slice){.seq = seqs[j], .ids = ids + (i + j) % N_TOK, .n = 1, .want_logits = j == 1};
        sl[others] = (struct step_slice){.seq = seqs[0], .ids = ids + i, .n = n, .all_logits = true};
        step(en, sl, 1 + others);
        memcpy(all + (size_t)i * n_vocab, sl[others].logits, (size_t)n * n_vocab * sizeof *all);
    }
    engine_free(en);
    return all;
}

static double rel_rms(const float *a, const float *b)
{
    double off = 0.0, size = 0.0;
    for (size_t i = 0; i < N_TOK * n_vocab; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

static void logits_obey(enum k_precision precision, double bound)
{
    float *expected = run(&k_reference_ops, K_PRECISE, N_TOK, 0);
    float *whole = run(&k_cuda_ops, precision, N_TOK, 0), *one = run(&k_cuda_ops, precision, 1, 0);
    float *beside = run(&k_cuda_ops, precision, 4, 2);
    double off = rel_rms(whole, expected);
    if (!(off <= bound))
        fprintf(stderr, "relative RMS error %.3g\n", off);
    CHECK(off <= bound);
    CHECK(memcmp(whole, one, N_TOK * n_vocab * sizeof *one) == 0);
    CHECK(memcmp(whole, beside, N_TOK * n_vocab * sizeof *one) == 0);
    free(expected), free(whole), free(one), free(beside);
}

/* What a step of one token costs in launches, on which a small model's speed hangs: per layer of attention four, or
 * MLA's eight with its low rank of queries, and of feed-forward two, four where there are experts (moe.cu). A block's
 * norm belongs to the one before it, but for the first's and that behind the choice of rows. */
static void launches_are_few(void)
{
    const struct model_info *info = model_info(model);
    const bool mla = !strcmp(info->arch, "deepseek2");
    struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
    struct step_slice sl = {.seq = seq_new(en), .ids = ids, .n = 1, .want_logits = true};
    const long before = cuda_emulated_launches();
    step(en, &sl, 1);
    const long layers = mla ? (8 + 2) + 2 * (8 + 4) : 2 * (4 + 2);
    /* Embedding and norm; rows, norm and matrix of the output. */
    const char *card = getenv("CUDA_EMULATED_CARD");
    if (!card || strcmp(card, "l40s") != 0) /* there a block has no room to round activations for itself */
        CHECK_INT(cuda_emulated_launches() - before, 2 + layers + 3);
    engine_free(en);
}

static void precise_logits(void)
{
    logits_obey(K_PRECISE, 1e-5);
}

static void fast_logits(void)
{
    logits_obey(K_FAST, 0.03);
}

static void hidden_states_are_near(void)
{
    float *hidden[2];
    size_t n = (size_t)model_info(model)->n_embd * N_TOK;
    for (int i = 0; i < 2; i++) {
        struct engine *en = new_engine(i ? &k_cuda_ops : &k_reference_ops, K_PRECISE, 2);
        struct step_slice sl[2] = {{.seq = seq_new(en), .ids = ids, .n = 3, .want_logits = true},
                                   {.seq = seq_new(en), .ids = ids, .n = N_TOK, .want_hidden = true}};
        step(en, sl, 2);
        CHECK(sl[0].logits && !sl[0].hidden && sl[1].hidden && !sl[1].logits);
        hidden[i] = spw_calloc(n, sizeof(float));
        memcpy(hidden[i], sl[1].hidden, n * sizeof(float));
        engine_free(en);
    }
    double off = 0.0;
    for (size_t i = 0; i < n; i++)
        off = fmax(off, fabs((double)hidden[0][i] - (double)hidden[1][i]));
    CHECK(off < 1e-4);
    free(hidden[0]), free(hidden[1]);
}

/* Where all that a slice is asked for is a choice, the device makes it, and no logits come back: that of the host's
 * sampler from the logits of the same step. A slice beside it that wants logits has its own. */
static void choices_are_made_on_the_device(void)
{
    static const double temperatures[2] = {0, 0.8};
    struct engine *en[2] = {new_engine(&k_cuda_ops, K_FAST, 2), new_engine(&k_cuda_ops, K_FAST, 2)};
    struct sampler_scratch *scratch = sampler_scratch_new((int32_t)n_vocab);
    struct seq *seqs[2][2] = {{seq_new(en[0]), seq_new(en[0])}, {seq_new(en[1]), seq_new(en[1])}};
    struct sampler *samplers[2];
    struct k_sample requests[2];
    struct error e;
    for (int i = 0; i < 2; i++) {
        struct sampler_params p;
        sampler_params_init(&p);
        p.temperature = temperatures[i], p.top_k = 20, p.seed = 3;
        CHECK_INT(sampler_new(&p, (int32_t)n_vocab, &samplers[i], &e), RC_OK);
    }
    for (int32_t t = 0; t < N_TOK; t++) {
        struct step_slice sl[2][2];
        for (int way = 0; way < 2; way++) {
            for (int i = 0; i < 2; i++) {
                CHECK(sampler_offer(samplers[i], &requests[i]));
                sl[way][i] = (struct step_slice){.seq = seqs[way][i], .ids = ids + t, .n = 1, .want_logits = true};
                sl[way][i].sample = way || (t == 4 && i) ? NULL : &requests[i];
            }
            step(en[way], sl[way], 2);
        }
        for (int i = 0; i < 2; i++) {
            struct sample host, device;
            CHECK(!sl[1][i].is_chosen && sl[1][i].logits && sl[0][i].is_chosen == !(t == 4 && i));
            CHECK(!sl[0][i].logits == sl[0][i].is_chosen);
            CHECK_INT(sampler_choose(samplers[i], sl[1][i].logits, NULL, scratch, &host, &e), RC_OK);
            CHECK_INT(sl[0][i].is_chosen ? sampler_take(samplers[i], &sl[0][i].chosen, &device, &e)
                                         : sampler_choose(samplers[i], sl[0][i].logits, NULL, scratch, &device, &e),
                      RC_OK);
            CHECK(device.id == host.id && memcmp(&device.logprob, &host.logprob, sizeof(float)) == 0);
            sampler_accept(samplers[i], host.id);
        }
    }
    for (int i = 0; i < 2; i++) {
        sampler_free(samplers[i]);
        engine_free(en[i]);
    }
    sampler_scratch_free(scratch);
}

/* The host computes experts of the last layer, then of both that have any: near the reference and by the law, whether
 * the host is quick or comes late. */
static void the_host_computes_experts(void)
{
    for (host_layers = 1; host_layers <= 2; host_layers++) {
        uint64_t bytes;
        struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
        CHECK_INT(engine_host_layers(en, &bytes), host_layers);
        CHECK_INT(bytes, host_layers * 3 * 4 * 64 * 32 * 2); /* three stacks of four matrices in F16 */
        CHECK(strstr(engine_numerics(en),
                     host_layers == 1 ? ";experts=cpu-1 from layer 2" : ";experts=cpu-1 from layer 1"));
        engine_free(en);
        cuda_emulated_late(host_layers == 2);
        logits_obey(K_FAST, 0.03);
        cuda_emulated_late(false);
    }
    host_layers = 0;
}

/* Memory that holds everything but one layer's experts, then all but a few bytes of the other's as well; not without leave. */
static void experts_go_where_there_is_room(void)
{
    static const char *const expected[] = {"from layer 2", "from layer 1"};
    const struct engine_options o = {.n_ctx = 64, .max_batch_tokens = 32};
    struct engine_plan plan;
    struct error e = {0};
    CHECK_INT(engine_plan(&plan, model, &o, UINT64_MAX / 2, &e), RC_OK);
    CHECK(plan.is.fits && plan.is.first_host == 3 && plan.is.host_weights == 0);
    uint64_t all = plan.is.device_weights + plan.need.work + plan.need.page * plan.need.pages,
             experts = plan.experts[2];
    engine_plan_fini(&plan);
    for (int i = 0; i < 2; i++) {
        size_t bytes = all - (size_t)i * experts - 1;
        cuda_emulated_memory(bytes);
        CHECK_INT(engine_plan(&plan, model, &o, bytes, &e), RC_OK);
        CHECK(plan.is.fits && plan.is.first_host == 2 - i && plan.is.host_weights == (uint64_t)(1 + i) * experts);
        engine_plan_fini(&plan);
        struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
        CHECK(strstr(engine_numerics(en), expected[i]));
        engine_free(en);
    }
    struct engine *en = NULL;
    host_layers = -1;
    CHECK_INT(open_engine(&en, &k_cuda_ops, K_FAST, 1, &e), RC_FULL);
    CHECK(strstr(e.message, "with the experts of 2 layers in host memory it would fit"));
    host_layers = 0;
    cuda_emulated_memory((size_t)4 << 30);
}

/* A prompt's page goes to the host's memory when another needs all there are, and comes back: the same logits. */
static void pages_come_back(void)
{
    enum { PAGE = K_PAGE_TOKENS, LONG = 2 * PAGE };
    static const struct prefix_salt salt = {{1}};
    const struct engine_options o = {
        .ops = &k_cuda_ops, .n_ctx = LONG, .max_batch_tokens = LONG, .kept_pages = 2, .spill_pages = 1};
    int32_t prompts[2][LONG];
    float *before = spw_calloc(n_vocab, sizeof *before);
    struct engine *en = NULL;
    struct error e = {0};
    CHECK_INT(engine_new(&en, model, &o, &e), RC_OK);
    for (int i = 0; i < 2 * LONG; i++)
        prompts[i / LONG][i % LONG] = (i * 97 + 5) % (int32_t)n_vocab;
    cuda_emulated_late(true);
    for (int i = 0; i < 3; i++) { /* the first, another that takes all pages, the first again */
        const int32_t *prompt = prompts[i % 2], n = i == 1 ? LONG : PAGE + 1;
        struct step_slice sl = {.seq = seq_new(en), .want_logits = true};
        int32_t known = seq_attach(sl.seq, &salt, prompt, n);
        CHECK_INT(known, i == 2 ? PAGE : 0);
        sl.ids = prompt + known, sl.n = n - known;
        step(en, &sl, 1);
        seq_share(sl.seq, &salt, prompt);
        if (i == 0)
            memcpy(before, sl.logits, n_vocab * sizeof *before);
        CHECK(i != 2 || memcmp(before, sl.logits, n_vocab * sizeof *before) == 0);
        CHECK_INT(engine_spill(en).pages, i == 0 ? 0 : 1);
        seq_free(sl.seq);
    }
    cuda_emulated_late(false);
    CHECK_INT(engine_spill(en).in, 1);
    engine_free(en);
    free(before);
}

/* Weights that come with the first step: the same logits, in every step. An upload that fails is told, and stays so for
 * this engine; one that nobody has used is freed as it is. */
static void weights_come_when_used(void)
{
    float *eager = run(&k_cuda_ops, K_FAST, 4, 1);
    lazy = true;
    float *late = run(&k_cuda_ops, K_FAST, 4, 1);
    CHECK(memcmp(eager, late, N_TOK * n_vocab * sizeof *late) == 0);
    free(eager), free(late);
    engine_free(new_engine(&k_cuda_ops, K_FAST, 1));
    struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
    struct error e = {0};
    struct step_slice sl = {.seq = seq_new(en), .ids = ids, .n = 1, .want_logits = true};
    CHECK_INT(seq_reserve(sl.seq, 1, &e), RC_OK);
    for (int i = 0; i < 2; i++) {
        cuda_emulated_no_streams(i == 0); /* which uploads need of their own */
        CHECK_INT(engine_step(en, &sl, 1, &e), RC_IO);
        CHECK_STR(e.message, "backend cuda: layer 0: uploading weights failed on the device: device lost");
    }
    engine_free(en);
    lazy = false;
}

/* Three sequences decode as four rows, one of them of nobody: each gets what it gets alone, and what four have recorded
 * serves three. */
static void padding_changes_nothing(void)
{
    struct engine *en = new_engine(&k_cuda_ops, K_FAST, 4), *alone = new_engine(&k_cuda_ops, K_FAST, 4);
    struct seq *seqs[4], *twins[4];
    for (int i = 0; i < 4; i++)
        seqs[i] = seq_new(en), twins[i] = seq_new(alone);
    for (int32_t t = 0; t < N_TOK; t++) {
        struct step_slice sl[4];
        const int32_t n = t < 3 ? 4 : 3;
        const long before = cuda_emulated_launches();
        for (int32_t i = 0; i < n; i++)
            sl[i] = (struct step_slice){.seq = seqs[i], .ids = ids + (t + i) % N_TOK, .n = 1, .want_logits = true};
        step(en, sl, n);
        CHECK(t < 3 || cuda_emulated_launches() == before); /* run, run with all scratch there, recorded */
        for (int32_t i = 0; i < n; i++) {
            struct step_slice one = {.seq = twins[i], .ids = sl[i].ids, .n = 1, .want_logits = true};
            step(alone, &one, 1);
            CHECK(memcmp(one.logits, sl[i].logits, n_vocab * sizeof(float)) == 0);
        }
    }
    engine_free(en), engine_free(alone);
}

/* Choices of three sequences, one step after the other (`ahead` false) or each begun before the one before it is read,
 * on a device that then does everything as late as it may. */
static void generate(int32_t out[3][N_TOK], bool ahead)
{
    struct engine *en = new_engine(&k_cuda_ops, K_FAST, 3);
    struct step_slice sl[2][3];
    struct k_sample requests[3];
    struct error e;
    cuda_emulated_late(ahead);
    for (int i = 0; i < 3; i++) {
        sl[0][i] = (struct step_slice){
            .seq = seq_new(en), .ids = ids + i, .n = 1, .want_logits = true, .sample = &requests[i]};
        CHECK_INT(seq_reserve(sl[0][i].seq, N_TOK + 1, &e), RC_OK);
    }
    for (int32_t t = 0; t <= N_TOK; t++) {
        struct step_slice *now = sl[t % 2], *before = sl[(t + 1) % 2];
        for (int i = 0; i < 3; i++) {
            requests[i] = (struct k_sample){
                .scale = i ? 1.0f : 0.0f, .top_p = 1, .u53 = (uint64_t)(t * 3 + i) * 0x9e3779b97f4a7c15 >> 11};
            if (t > 0)
                now[i] = before[i], now[i].ids = ahead ? NULL : &out[i][t - 1], now[i].follows = i;
        }
        if (ahead && t < N_TOK)
            CHECK_INT(engine_step_start(en, now, 3, &e), RC_OK);
        if (ahead && t > 0)
            CHECK_INT(engine_step_finish(en, before, 3, &e), RC_OK);
        if (!ahead && t < N_TOK)
            CHECK_INT(engine_step(en, now, 3, &e), RC_OK);
        const struct step_slice *done = ahead ? before : now;
        for (int i = 0; i < 3 && (ahead ? t > 0 : t < N_TOK); i++) {
            CHECK(done[i].is_chosen && done[i].chosen.state == K_SAMPLED);
            out[i][ahead ? t - 1 : t] = done[i].chosen.id;
        }
    }
    CHECK_INT(seq_len(sl[0][0].seq), N_TOK);
    engine_free(en);
    cuda_emulated_late(false);
}

static void steps_that_overlap_choose_the_same(void)
{
    int32_t in_turn[3][N_TOK], ahead[3][N_TOK];
    generate(in_turn, false);
    generate(ahead, true);
    CHECK(memcmp(in_turn, ahead, sizeof ahead) == 0);
    struct engine *host = new_engine(&k_reference_ops, K_FAST, 1);
    CHECK_INT(engine_overlap_max(host), 0);
    engine_free(host);
}

static void what_does_not_fit_is_refused(void)
{
    struct engine *en = NULL;
    struct error e = {0};
    cuda_emulated_memory(
        (size_t)257 << 20); /* weights and work fit beside what the backend keeps for itself, pages do not */
    CHECK_INT(open_engine(&en, &k_cuda_ops, K_FAST, 4096, &e), RC_FULL);
    CHECK(strstr(e.message, "emulated (device 0) has 0.3 GB free") && strstr(e.message, "would fit"));
    cuda_emulated_memory((size_t)1 << 20);
    CHECK_INT(open_engine(&en, &k_cuda_ops, K_FAST, 1, &e), RC_FULL);
    CHECK(strstr(e.message, "no context would fit"));
    CHECK(en == NULL);
    cuda_emulated_memory((size_t)4 << 30);
}

static void a_lost_device_is_told(void)
{
    struct error e = {0};
    struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
    struct seq *s = seq_new(en);
    struct step_slice sl = {.seq = s, .ids = ids, .n = 1, .want_logits = true};
    CHECK_INT(seq_reserve(s, 1, &e), RC_OK);
    cuda_emulated_lose(true);
    CHECK_INT(engine_step(en, &sl, 1, &e), RC_IO);
    CHECK_STR(e.message, "backend cuda: layer 0: beginning the step failed on the device: device lost");
    CHECK(!sl.logits);
    CHECK_INT(seq_len(s), 0);
    cuda_emulated_lose(false);
    CHECK_INT(engine_step(en, &sl, 1, &e), RC_OK);
    engine_free(en);
}

/* NVIDIA's products keep no law: nobody goes on, bit for bit, with what such an engine has said. */
static void a_library_makes_a_class_of_one(void)
{
    char file[512], classes[4][33];
    ssize_t n = readlink("/proc/self/exe", file, sizeof file - 32);
    SPW_ASSERT(n > 0);
    file[n] = 0;
    snprintf(strrchr(file, '/'), 32, "/cublaslt_fake.so");
    void *fake = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    CHECK(fake != NULL);
    for (int i = 0; i < 4; i++) {
        struct error e = {0};
        library = i >= 2;
        struct engine *en = new_engine(&k_cuda_ops, K_FAST, 1);
        CHECK(!engine_library_missing(en));
        CHECK(!strstr(engine_numerics(en), "cublaslt") == !library);
        CHECK_INT(engine_class(en, NULL, classes[i], &e), RC_OK);
        engine_free(en);
    }
    library = false;
    CHECK_STR(classes[0], classes[1]);
    CHECK(strcmp(classes[2], classes[0]) != 0);
    CHECK(strcmp(classes[2], classes[3]) != 0);
    if (fake)
        dlclose(fake);
}

static void open_synth(const struct synth_shape *shape, enum synth_type type)
{
    struct error e = {0};
    if (synth_write(shape, type, 7, path, &e) != RC_OK || model_open(&model, path, GGUF_MAP, &e) != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    SPW_ASSERT(model);
    n_vocab = (size_t)model_info(model)->n_vocab;
    for (int32_t i = 0; i < N_TOK; i++)
        ids[i] = (i * 97 + 5) % (int32_t)n_vocab;
}

int main(void)
{
    static const struct {
        const struct synth_shape *shape;
        enum synth_type type;
    } models[] = {{&dense, SYNTH_Q8_0}, {&deepseek, SYNTH_F16}, {&deepseek, SYNTH_BF16}};
    int fd = mkstemp(path);
    SPW_ASSERT(fd >= 0);
    close(fd);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        open_synth(models[i].shape, models[i].type);
        TEST(fast_logits);
        if (i != 1)
            TEST(launches_are_few);
        if (i == 1) {
            TEST(the_host_computes_experts);
            TEST(experts_go_where_there_is_room);
        }
        if (i < 2)
            TEST(padding_changes_nothing);
        if (i == 0) {
            TEST(precise_logits);
            TEST(hidden_states_are_near);
            TEST(choices_are_made_on_the_device);
            TEST(pages_come_back);
            TEST(weights_come_when_used);
            TEST(steps_that_overlap_choose_the_same);
            TEST(what_does_not_fit_is_refused);
            TEST(a_lost_device_is_told);
            TEST(a_library_makes_a_class_of_one);
        }
        model_close(model);
        model = NULL;
    }
    CHECK_INT(cuda_emulated_allocated(), 0);
    unlink(path);
    return TEST_RESULT();
}
