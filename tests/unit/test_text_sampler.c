/* Choosing tokens: the generator against its published vectors, each filter against what it promises, reproducibility,
 * and the limits of each parameter.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/text/sampler.h"
#include "engine/text/softmax.h"

#define N 8
static const float logits[N] = {0.5f, 2.0f, -1.0f, 2.0f, 1.0f, -3.0f, 0.0f, 1.5f};

static struct sampler *make(const struct sampler_params *p)
{
    struct sampler *s;
    struct error e = {0};

    if (sampler_new(p, N, &s, &e) != RC_OK)
        fprintf(stderr, "sampler_new: %s\n", e.message);
    return s;
}

static struct sample choose(const struct sampler *s, const uint8_t *allowed)
{
    struct sampler_scratch *scratch = sampler_scratch_new(N);
    struct sample out = {.id = -1};
    struct error e = {0};

    if (sampler_choose(s, logits, allowed, scratch, &out, &e) != RC_OK)
        out.id = -2;
    sampler_scratch_free(scratch);
    return out;
}

/* How often each id comes up in `draws` steps. */
static void histogram(const struct sampler_params *p, int draws, int count[N])
{
    struct sampler *s = make(p);

    memset(count, 0, N * sizeof(*count));
    for (int i = 0; i < draws; i++) {
        struct sample out = choose(s, NULL);
        if (out.id >= 0)
            count[out.id]++;
        sampler_accept(s, out.id);
    }
    sampler_free(s);
}

/* Known-answer vectors of the Random123 library (kat_vectors, philox4x32 10), restricted to counters of our form. */
static void test_philox(void)
{
    uint32_t w[4];

    sampler_philox(0, 0, w);
    CHECK(w[0] == 0x6627e8d5u && w[1] == 0xe169c58du && w[2] == 0xbc57ac4cu && w[3] == 0x9b00dbd8u);
}

static void test_greedy_ties_go_to_lower_id(void)
{
    struct sampler_params p;

    sampler_params_init(&p);
    p.temperature = 0;
    struct sampler *s = make(&p);
    CHECK_INT(choose(s, NULL).id, 1);
    sampler_free(s);
}

static void test_same_seed_same_stream(void)
{
    struct sampler_params p;
    int32_t ids[40];
    int different = 0;

    sampler_params_init(&p);
    p.seed = 42;
    struct sampler *s = make(&p);
    for (int i = 0; i < 40; i++) {
        ids[i] = choose(s, NULL).id;
        CHECK_INT(choose(s, NULL).id, ids[i]); /* choosing moves nothing */
        sampler_accept(s, ids[i]);
    }
    sampler_free(s);

    /* A second sampler that replays the first 20 ids goes on the same. */
    s = make(&p);
    for (int i = 0; i < 20; i++)
        sampler_accept(s, ids[i]);
    CHECK_INT(sampler_step(s), 20);
    for (int i = 20; i < 40; i++) {
        CHECK_INT(choose(s, NULL).id, ids[i]);
        sampler_accept(s, ids[i]);
    }
    sampler_free(s);

    p.seed = 43;
    s = make(&p);
    for (int i = 0; i < 40; i++) {
        different += choose(s, NULL).id != ids[i];
        sampler_accept(s, ids[i]);
    }
    CHECK(different > 5);
    sampler_free(s);
}

/* 20000 draws: each frequency within 5 standard deviations of its probability. */
static void test_distribution(void)
{
    struct sampler_params p;
    int count[N];
    double total = 0;

    sampler_params_init(&p);
    p.temperature = 0.8;
    histogram(&p, 20000, count);
    for (int i = 0; i < N; i++)
        total += exp(logits[i] / 0.8);
    for (int i = 0; i < N; i++) {
        double q = exp(logits[i] / 0.8) / total, sd = sqrt(20000 * q * (1 - q));
        CHECK(fabs(count[i] - 20000 * q) < 5 * sd + 1);
    }
}

static void test_top_k(void)
{
    struct sampler_params p;
    int count[N];

    sampler_params_init(&p);
    p.top_k = 3;
    histogram(&p, 2000, count);
    CHECK(count[1] > 0 && count[3] > 0 && count[7] > 0);
    CHECK_INT(count[1] + count[3] + count[7], 2000);
    p.top_k = 1;
    histogram(&p, 50, count);
    CHECK_INT(count[1], 50); /* of the two likeliest the lower id */
}

static void test_top_p(void)
{
    struct sampler_params p;
    int count[N];

    /* Probabilities at temperature 1: 1: .295, 3: .295, 7: .179, 4: .109, ... */
    sampler_params_init(&p);
    p.top_p = 0.5;
    histogram(&p, 2000, count);
    CHECK_INT(count[1] + count[3], 2000);
    p.top_p = 0.6;
    histogram(&p, 2000, count);
    CHECK_INT(count[1] + count[3] + count[7], 2000);
    CHECK(count[7] > 0);
    p.top_p = 1e-9;
    histogram(&p, 50, count);
    CHECK_INT(count[1], 50);
    /* Within the top 3 the shares are .384 .384 .233: 0.7 is reached by two. */
    p.top_k = 3;
    p.top_p = 0.7;
    histogram(&p, 2000, count);
    CHECK_INT(count[1] + count[3], 2000);
}

static void test_min_p(void)
{
    struct sampler_params p;
    int count[N];

    sampler_params_init(&p);
    p.min_p = 0.5; /* exp(-0.5) = .61 stays, exp(-1) = .37 goes */
    histogram(&p, 2000, count);
    CHECK_INT(count[1] + count[3] + count[7], 2000);
    CHECK(count[7] > 0);
    p.min_p = 1;
    histogram(&p, 2000, count);
    CHECK_INT(count[1] + count[3], 2000);
}

static void test_penalties(void)
{
    struct sampler_params p;
    const int32_t prompt[] = {1};

    sampler_params_init(&p);
    p.temperature = 0;
    p.presence_penalty = 0.25;
    struct sampler *s = make(&p);
    sampler_prompt(s, prompt, 1); /* presence looks at the answer only */
    CHECK_INT(choose(s, NULL).id, 1);
    sampler_accept(s, 1);
    CHECK_INT(choose(s, NULL).id, 3);
    sampler_accept(s, 3);
    CHECK_INT(choose(s, NULL).id, 1); /* 1.75 each now, above 1.5 */
    sampler_free(s);

    sampler_params_init(&p);
    p.temperature = 0;
    p.repetition_penalty = 2;
    s = make(&p);
    sampler_prompt(s, prompt, 1);
    CHECK_INT(choose(s, NULL).id, 3);
    sampler_accept(s, 3);
    CHECK_INT(choose(s, NULL).id, 7);
    sampler_free(s);

    sampler_params_init(&p);
    p.temperature = 0;
    p.frequency_penalty = 0.3;
    s = make(&p);
    sampler_accept(s, 1);
    sampler_accept(s, 1);
    sampler_accept(s, 3); /* 1: 1.4, 3: 1.7, 7: 1.5 */
    CHECK_INT(choose(s, NULL).id, 3);
    sampler_free(s);
}

static void test_bias_bans_and_mask(void)
{
    const struct sampler_bias bias[] = {{5, 100}, {1, -100}};
    const int32_t banned[] = {5}, end[] = {3};
    const uint8_t allowed[] = {1u << 6 | 1u << 2};
    struct sampler_params p;

    sampler_params_init(&p);
    p.temperature = 0;
    p.bias = bias;
    p.n_bias = 2;
    struct sampler *s = make(&p);
    CHECK_INT(choose(s, NULL).id, 5);
    CHECK_INT(choose(s, allowed).id, 6);
    sampler_free(s);

    p.banned = banned;
    p.n_banned = 1;
    p.end_ids = end;
    p.n_end_ids = 1;
    p.min_tokens = 2;
    s = make(&p);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(choose(s, NULL).id, 7); /* 1 and 5 are banned, 3 is an end and too early */
        sampler_accept(s, 7);
    }
    CHECK_INT(choose(s, NULL).id, 3);
    const uint8_t nothing[] = {0};
    CHECK_INT(choose(s, nothing).id, -2);
    sampler_free(s);
}

static void test_logprobs(void)
{
    struct sampler_params p;
    double total = 0;

    for (int i = 0; i < N; i++)
        total += exp(logits[i]);
    sampler_params_init(&p);
    p.temperature = 0.5; /* logprobs are of the model's own distribution */
    p.n_top = 3;
    struct sampler *s = make(&p);
    struct sample out = choose(s, NULL);
    CHECK(fabs(out.logprob - (logits[out.id] - log(total))) < 1e-6);
    CHECK_INT(out.n_top, 3);
    CHECK(out.top[0].id == 1 && out.top[1].id == 3 && out.top[2].id == 7);
    CHECK(fabs(out.top[2].logprob - (1.5 - log(total))) < 1e-6);
    sampler_free(s);

    p.n_top = 0;
    p.skip_logprob = true;
    s = make(&p);
    CHECK(isnan(choose(s, NULL).logprob));
    sampler_free(s);

    p.n_top = 20; /* more than there are */
    s = make(&p);
    CHECK_INT(choose(s, NULL).n_top, N);
    sampler_free(s);
}

static void refuse(struct sampler_params p, const char *part)
{
    struct sampler *s = NULL;
    struct error e = {0};

    CHECK_INT(sampler_new(&p, N, &s, &e), RC_INVALID);
    CHECK(strstr(e.message, part) != NULL);
    CHECK(s == NULL);
}

static void test_parameters_are_checked(void)
{
    const struct sampler_bias far = {N, 1}, wide = {1, 101}, nan_bias = {1, NAN};
    struct sampler_params ok, p;

    sampler_params_init(&ok);
    p = ok, p.temperature = -0.1, refuse(p, "temperature");
    p = ok, p.temperature = NAN, refuse(p, "temperature");
    p = ok, p.top_k = -1, refuse(p, "top_k");
    p = ok, p.top_p = 0, refuse(p, "top_p");
    p = ok, p.top_p = 1.01, refuse(p, "top_p");
    p = ok, p.min_p = 2, refuse(p, "min_p");
    p = ok, p.repetition_penalty = 0, refuse(p, "repetition_penalty");
    p = ok, p.presence_penalty = 2.5, refuse(p, "presence_penalty");
    p = ok, p.frequency_penalty = -3, refuse(p, "frequency_penalty");
    p = ok, p.n_top = 21, refuse(p, "top_logprobs");
    p = ok, p.min_tokens = -1, refuse(p, "min_tokens");
    p = ok, p.bias = &far, p.n_bias = 1, refuse(p, "no token 8");
    p = ok, p.bias = &wide, p.n_bias = 1, refuse(p, "logit_bias");
    p = ok, p.bias = &nan_bias, p.n_bias = 1, refuse(p, "logit_bias");
}

static void test_bad_logits(void)
{
    float bad[N] = {0};
    struct sampler_params p;
    struct sample out;
    struct error e = {0};
    struct sampler_scratch *scratch = sampler_scratch_new(N);

    sampler_params_init(&p);
    struct sampler *s = make(&p);
    bad[4] = NAN;
    CHECK_INT(sampler_choose(s, bad, NULL, scratch, &out, &e), RC_INVALID);
    CHECK(strstr(e.message, "not finite") != NULL);
    for (int i = 0; i < N; i++)
        bad[i] = -INFINITY;
    CHECK_INT(sampler_choose(s, bad, NULL, scratch, &out, &e), RC_INVALID);
    bad[6] = -1e30f; /* the only one possible */
    CHECK_INT(sampler_choose(s, bad, NULL, scratch, &out, &e), RC_OK);
    CHECK_INT(out.id, 6);
    CHECK(out.logprob == 0);
    sampler_free(s);
    sampler_scratch_free(scratch);
}

static uint32_t random_state = 1;
static float random_unit(void)
{
    random_state = random_state * 1664525 + 1013904223;
    return (float)(random_state >> 8) / 16777216.0f;
}

static void test_softmax(void)
{
    float x[37], w[37];

    for (int n = 1; n <= 37; n++) {
        double total = 0;
        int best = 0;
        for (int i = 0; i < n; i++) {
            x[i] = random_unit() * 60 - 40;
            best = x[i] > x[best] ? i : best;
            total += exp((double)x[i]);
        }
        CHECK_INT(softmax_best(x, n), best);
        CHECK(fabs(softmax_log_total(x, n, x[best]) - log(total)) < 1e-6);
        softmax_weights(x, n, x[best], 1.25f, w);
        for (int i = 0; i < n; i++) {
            double right = exp((double)((x[i] - x[best]) * 1.25f));
            CHECK(fabs(w[i] - right) <= 3e-7 * right);
        }
        CHECK(w[best] == 1);
    }
    x[0] = -INFINITY, x[1] = 5, x[2] = 5, x[3] = -90;
    CHECK_INT(softmax_best(x, 4), 1);
    softmax_weights(x, 4, 5, 1e30f, w);
    CHECK(w[0] == 0 && w[1] == 1 && w[2] == 1 && w[3] == 0);
    x[3] = INFINITY;
    CHECK_INT(softmax_best(x, 4), -1);
}

#define MANY 1000
static float many[MANY];
static int by_logit(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return many[x] != many[y] ? (many[x] < many[y] ? 1 : -1) : x - y;
}

/* How many of the ids sorted by likelihood the filters keep, by the plain definition; -1 when a threshold is too close
 * to call in floating point. */
static int plain_kept(const struct sampler_params *p, const int *order)
{
    int k = p->top_k ? p->top_k : MANY, kept = 0;
    double total = 0, sum = 0;

    for (int i = 0; i < k; i++)
        total += exp((many[order[i]] - many[order[0]]) / p->temperature);
    for (; kept < k; kept++) {
        double w = exp((many[order[kept]] - many[order[0]]) / p->temperature);
        if (fabs(sum / total - p->top_p) < 1e-5 || fabs(w - p->min_p) < 1e-5 * w)
            return -1;
        if (kept > 0 && (w < p->min_p || sum >= p->top_p * total))
            break;
        sum += w;
    }
    return kept;
}

/* Random filters over a vocabulary large enough for the bands to matter: nothing outside the kept set is ever chosen,
 * and its last member is when it is likely enough. */
static void test_filters_against_plain_definition(void)
{
    struct sampler_scratch *scratch = sampler_scratch_new(MANY);
    int order[MANY], checked = 0;

    for (int trial = 0; trial < 400; trial++) {
        struct sampler_params p;
        struct sampler *s;
        struct sample out;
        struct error e = {0};
        float spread = random_unit() * 20;
        bool last_seen = false;
        for (int i = 0; i < MANY; i++) {
            many[i] = (random_unit() + random_unit() + random_unit() - 1.5f) * spread;
            order[i] = i;
        }
        qsort(order, MANY, sizeof(order[0]), by_logit);
        sampler_params_init(&p);
        p.temperature = 0.1 + (double)random_unit() * 2;
        p.top_k = random_unit() < 0.5f ? 0 : 1 + (int)(random_unit() * 50);
        p.top_p = random_unit() < 0.3f ? 1 : 0.01 + 0.98 * (double)random_unit();
        p.min_p = random_unit() < 0.6f ? 0 : (double)random_unit() * 0.3;
        p.seed = (uint64_t)trial;
        int kept = plain_kept(&p, order);
        if (kept < 0)
            continue;
        checked++;
        CHECK_INT(sampler_new(&p, MANY, &s, &e), RC_OK);
        for (int draw = 0; draw < 60; draw++) {
            CHECK_INT(sampler_choose(s, many, NULL, scratch, &out, &e), RC_OK);
            int place = 0;
            while (place < kept && order[place] != out.id)
                place++;
            CHECK(place < kept);
            last_seen = last_seen || place == kept - 1;
            sampler_accept(s, out.id);
        }
        CHECK(last_seen || kept > 3);
        sampler_free(s);
    }
    CHECK(checked > 200);
    sampler_scratch_free(scratch);
}

int main(void)
{
    TEST(test_philox);
    TEST(test_greedy_ties_go_to_lower_id);
    TEST(test_same_seed_same_stream);
    TEST(test_distribution);
    TEST(test_top_k);
    TEST(test_top_p);
    TEST(test_min_p);
    TEST(test_penalties);
    TEST(test_bias_bans_and_mask);
    TEST(test_logprobs);
    TEST(test_parameters_are_checked);
    TEST(test_bad_logits);
    TEST(test_softmax);
    TEST(test_filters_against_plain_definition);
    return TEST_RESULT();
}
