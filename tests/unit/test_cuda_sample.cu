/* Sampling on the device chooses what engine/text/sampler.c chooses, bit for bit, and reports the same log probability:
 * random logits of many shapes and vocabularies, all filters, ties, banned ids, and what the device hands back to the
 * host.
 * links: spw_engine_text spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <math.h>

#define _Noreturn [[noreturn]] /* C's word for it, in the headers of C */
extern "C" {
#include "engine/text/sampler.h"
#include "engine/text/softmax.h"
}
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/sample.cuh"

#define ROWS 12

static stream_t st;
static uint32_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static float random_float(void) /* even in [0, 1) */
{
    return (float)random_bits() * 0x1p-24f;
}

/* One of the shapes that logits have: wide, narrow, steps with many ties, ids that may not be chosen. */
static void make_logits(float *x, int32_t n, int shape)
{
    for (int32_t i = 0; i < n; i++) {
        const float normal = random_float() + random_float() + random_float() + random_float() - 2.0f;
        x[i] = shape == 0   ? normal * 5.0f
               : shape == 1 ? normal * 60.0f
               : shape == 2 ? floorf(normal * 4.0f)
                            : (random_bits() % 4 ? -INFINITY : normal * 9.0f);
    }
    if (shape == 3)
        x[random_bits() % (uint32_t)n] = 0.0f;
}

static void make_params(struct sampler_params *p, int which)
{
    static const double temperatures[] = {1, 0, 0.7, 1.8, 1e-3, 30};
    static const int32_t ks[] = {0, 40, 1, 0, 3, 5000};
    static const double top_ps[] = {1, 1, 0.95, 0.5, 0.9, 1, 1e-4};
    static const double min_ps[] = {0, 0.05, 0, 0, 0.3};
    sampler_params_init(p);
    p->temperature = temperatures[which % 6];
    p->top_k = ks[which / 2 % 6];
    p->top_p = top_ps[which / 3 % 7];
    p->min_p = min_ps[which / 5 % 5];
    p->seed = (uint64_t)random_bits() << 32 | random_bits();
    p->skip_logprob = which % 4 == 3;
}

struct counts {
    int here, host, different;
};

/* ROWS rows of n logits with settings `which` and on: what both choose. */
static void compare(int32_t n, int shape, int which, struct counts *c)
{
    float *x = (float *)malloc((size_t)(ROWS * n) * sizeof *x);
    struct sampler *samplers[ROWS];
    struct sampler_scratch *scratch = sampler_scratch_new(n);
    struct k_sample requests[ROWS];
    struct k_sampled answers[ROWS];
    struct error e;
    void *dx, *dr, *da;
    for (int r = 0; r < ROWS; r++) {
        struct sampler_params p;
        make_logits(x + r * n, n, shape);
        make_params(&p, which + r);
        CHECK_INT(sampler_new(&p, n, &samplers[r], &e), RC_OK);
        for (uint32_t i = random_bits() % 5; i > 0; i--)
            sampler_accept(samplers[r], 0);
        CHECK(sampler_offer(samplers[r], &requests[r]));
        requests[r].row = r;
    }
    CHECK_INT(dev_alloc(&dx, (size_t)(ROWS * n) * sizeof *x), K_OK);
    CHECK_INT(dev_alloc(&dr, sizeof requests), K_OK);
    CHECK_INT(dev_alloc(&da, sizeof answers), K_OK);
    CHECK_INT(dev_set(st, da, 0xff, sizeof answers), K_OK);
    CHECK_INT(copy_in(st, dx, x, (size_t)(ROWS * n) * sizeof *x), K_OK);
    CHECK_INT(copy_in(st, dr, requests, sizeof requests), K_OK);
    CHECK_INT(sample_rows(st, (struct k_sampled *)da, (float *)dx, n, (struct k_sample *)dr, ROWS), K_OK);
    CHECK_INT(copy_out(st, answers, da, sizeof answers), K_OK);
    CHECK_INT(stream_sync(st), K_OK);
    for (int r = 0; r < ROWS; r++) {
        struct sample host, device;
        CHECK_INT(sampler_choose(samplers[r], x + r * n, NULL, scratch, &host, &e), RC_OK);
        if (answers[r].state == K_SAMPLED_NOT_HERE) {
            CHECK_INT(sampler_take(samplers[r], &answers[r], &device, &e), RC_AGAIN);
            c->host++;
        } else {
            CHECK_INT(sampler_take(samplers[r], &answers[r], &device, &e), RC_OK);
            const bool same = device.id == host.id && memcmp(&device.logprob, &host.logprob, sizeof(float)) == 0;
            c->here++, c->different += !same;
            if (requests[r].want_total) /* to the last bit, which a choice seldom depends on */
                c->different +=
                    softmax_log_of(answers[r].top, answers[r].total) != softmax_log_total(x + r * n, n, answers[r].top);
        }
        sampler_free(samplers[r]);
    }
    dev_free(dx), dev_free(dr), dev_free(da);
    sampler_scratch_free(scratch);
    free(x);
}

static void device_chooses_as_the_sampler(void)
{
    static const int32_t sizes[] = {1, 7, 511, 513, 3000, 5003};
    struct counts c = {0, 0, 0};
    for (int i = 0; i < 6; i++)
        for (int shape = 0; shape < 4; shape++) {
            cuda_emulated_order((unsigned)(i + shape));
            compare(sizes[i], shape, ROWS * (shape + 4 * i), &c);
        }
    cuda_emulated_order(0);
    CHECK_INT(c.different, 0);
    CHECK(c.here > 250 && c.host > 0);
}

static void bad_logits_are_told(void)
{
    const float rows[4][3] = {{1, NAN, 2}, {1, INFINITY, 2}, {-INFINITY, -INFINITY, -INFINITY}, {1, 5, 5}};
    struct k_sample requests[4] = {};
    struct k_sampled answers[4];
    void *dx, *dr, *da;
    for (int r = 0; r < 4; r++)
        requests[r].row = r;
    CHECK_INT(dev_alloc(&dx, sizeof rows), K_OK);
    CHECK_INT(dev_alloc(&dr, sizeof requests), K_OK);
    CHECK_INT(dev_alloc(&da, sizeof answers), K_OK);
    CHECK_INT(dev_set(st, da, 0xff, sizeof answers), K_OK);
    CHECK_INT(copy_in(st, dx, rows, sizeof rows), K_OK);
    CHECK_INT(copy_in(st, dr, requests, sizeof requests), K_OK);
    CHECK_INT(sample_rows(st, (struct k_sampled *)da, (float *)dx, 3, (struct k_sample *)dr, 4), K_OK);
    CHECK_INT(copy_out(st, answers, da, sizeof answers), K_OK);
    CHECK_INT(stream_sync(st), K_OK);
    CHECK_INT(answers[0].state, K_SAMPLED_NOT_FINITE);
    CHECK_INT(answers[1].state, K_SAMPLED_NOT_FINITE);
    CHECK_INT(answers[2].state, K_SAMPLED_NOT_HERE);
    CHECK_INT(answers[3].state, K_SAMPLED);
    CHECK_INT(answers[3].id, 1);
    CHECK_INT(sample_rows(st, (struct k_sampled *)da, (float *)dx, 1 << 20, (struct k_sample *)dr, 1), K_UNSUPPORTED);
    dev_free(dx), dev_free(dr), dev_free(da);
}

/* Ids of a step from the choices of another: those that follow one; what could not be chosen counts as 0. */
static void take_choices(struct k_ctx *c)
{
    const float rows[2][4] = {{1, 9, 2, 3}, {NAN, 3, 2, 1}};
    const int32_t from[3] = {1, -1, 0};
    int32_t ids[3] = {7, 7, 7};
    struct k_sample requests[2] = {};
    void *logits, *there;
    requests[1].row = 1;
    CHECK_INT(k_cuda_ops.buf_new(c, &logits, sizeof rows, K_BUF_WORK), K_OK);
    CHECK_INT(k_cuda_ops.buf_new(c, &there, sizeof ids, K_BUF_WORK), K_OK);
    CHECK_INT(k_cuda_ops.put(c, logits, rows, sizeof rows), K_OK);
    CHECK_INT(k_cuda_ops.put(c, there, ids, sizeof ids), K_OK);
    CHECK_INT(k_cuda_ops.sample_begin(c, 1, (float *)logits, 4, requests, 2), K_OK);
    CHECK_INT(k_cuda_ops.take_chosen(c, (int32_t *)there, 1, from, 3), K_OK);
    CHECK_INT(k_cuda_ops.get(c, ids, there, sizeof ids), K_OK);
    CHECK(ids[0] == 0 && ids[1] == 7 && ids[2] == 1);
    CHECK_INT(k_cuda_ops.take_chosen(c, (int32_t *)there, 0, NULL, 1), K_BAD_SHAPE);
    k_cuda_ops.buf_free(c, logits, sizeof rows, K_BUF_WORK);
    k_cuda_ops.buf_free(c, there, sizeof ids, K_BUF_WORK);
}

/* As an operation: rows in any order, requests and choices in the host's memory. */
static void chooses_as_an_operation(void)
{
    const float rows[3][4] = {{1, 9, 2, 3}, {4, 3, 2, 1}, {0, 0, 0, 7}};
    struct k_sample requests[2] = {};
    struct k_sampled out[2];
    struct k_ctx *c = k_cuda_ops.ctx_new(0, 0);
    void *logits;
    CHECK(c != NULL);
    requests[0].row = 2;
    CHECK_INT(k_cuda_ops.buf_new(c, &logits, sizeof rows, K_BUF_WORK), K_OK);
    CHECK_INT(k_cuda_ops.put(c, logits, rows, sizeof rows), K_OK);
    CHECK_INT(k_cuda_ops.sample_begin(c, 0, (float *)logits, 4, requests, 2), K_OK);
    CHECK_INT(k_cuda_ops.sample_begin(c, 1, (float *)logits, 4, requests + 1, 1), K_OK); /* the slots do not meet */
    CHECK_INT(k_cuda_ops.sample_end(c, 0, out, 2), K_OK);
    CHECK_INT(out[0].id, 3);
    CHECK_INT(out[1].id, 1);
    CHECK_INT(k_cuda_ops.sample_end(c, 1, out, 1), K_OK);
    CHECK_INT(out[0].id, 1);
    CHECK_INT(k_cuda_ops.sample_begin(c, 0, (float *)logits, 4, requests, 0), K_OK);
    CHECK_INT(k_cuda_ops.sample_end(c, 0, out, 0), K_OK);
    CHECK_INT(k_cuda_ops.sample_end(c, 0, NULL, 1), K_BAD_SHAPE);
    CHECK_INT(k_cuda_ops.sample_begin(c, K_SLOTS, (float *)logits, 4, requests, 1), K_BAD_SHAPE);
    take_choices(c);
    k_cuda_ops.buf_free(c, logits, sizeof rows, K_BUF_WORK);
    k_cuda_ops.ctx_free(c);
}

/* What needs the host's sampler is not offered. */
static void offers_only_what_devices_do(void)
{
    const struct sampler_bias bias = {3, 1.0f};
    const int32_t id = 2;
    struct error e;
    for (int i = 0; i < 7; i++) {
        struct sampler_params p;
        struct sampler *s;
        struct k_sample out;
        sampler_params_init(&p);
        if (i == 1)
            p.repetition_penalty = 1.1;
        if (i == 2)
            p.presence_penalty = 0.5;
        if (i == 3)
            p.bias = &bias, p.n_bias = 1;
        if (i == 4)
            p.banned = &id, p.n_banned = 1;
        if (i == 5)
            p.n_top = 2;
        if (i == 6)
            p.min_tokens = 1, p.end_ids = &id, p.n_end_ids = 1;
        CHECK_INT(sampler_new(&p, 10, &s, &e), RC_OK);
        CHECK_INT(sampler_offer(s, &out), i == 0);
        sampler_accept(s, 1);
        CHECK_INT(sampler_offer(s, &out), i == 0 || i == 6);
        sampler_free(s);
    }
}

int main(void)
{
    CHECK_INT(stream_new(&st), K_OK);
    TEST(device_chooses_as_the_sampler);
    TEST(bad_logits_are_told);
    TEST(chooses_as_an_operation);
    TEST(offers_only_what_devices_do);
    stream_free(st);
    return TEST_RESULT();
}
