/* Predictions of TTFT and TPOT: they find the truth behind noise, follow it when it changes, say honestly how sure they
 * are, and survive whatever they are told.
 * links: spw_policies */
#include "policies/predict.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

static double uniform(unsigned *seed)
{
    return (rand_r(seed) + 1.0) / (RAND_MAX + 2.0);
}

static double normal(unsigned *seed)
{
    return sqrt(-2 * log(uniform(seed))) * cos(2 * M_PI * uniform(seed));
}

struct truth {
    double base, prefill, wait, step, crowd, sd;
};

static struct predict_load some_load(unsigned *seed)
{
    return (struct predict_load){.others = rand_r(seed) % 12, .prompt = 20 + rand_r(seed) % 6000};
}

static double true_ttft(const struct truth *t, const struct predict_load *l)
{
    return t->base + t->prefill * (double)(l->prompt - l->cached) + t->wait * l->others;
}

static void serve(struct predictor *p, const struct truth *t, int n, unsigned *seed)
{
    for (int i = 0; i < n; i++) {
        struct predict_load l = some_load(seed);
        predictor_saw_ttft(p, &l, true_ttft(t, &l) * exp(t->sd * normal(seed)));
        predictor_saw_tpot(p, &l, (t->step + t->crowd * l.others) * exp(t->sd * normal(seed)));
    }
}

static double worst(const struct predictor *p, const struct truth *t, unsigned *seed)
{
    double most = 0;
    for (int i = 0; i < 200; i++) {
        struct predict_load l = some_load(seed);
        struct prediction at = predict(p, &l, 1);
        most = fmax(most, fabs(log(at.ttft.median_us / true_ttft(t, &l))));
        most = fmax(most, fabs(log(at.tpot.median_us / (t->step + t->crowd * l.others))));
    }
    return most;
}

static const struct truth fast = {30000, 40, 9000, 11000, 500, 0.15}, slow = {90000, 200, 30000, 40000, 4000, 0.15};

static void finds_the_truth(void)
{
    unsigned seed = 1;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = NULL});
    serve(&p, &fast, 600, &seed);
    CHECK(worst(&p, &fast, &seed) < 0.25);
}

static void follows_a_change(void)
{
    unsigned seed = 2;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = NULL});
    serve(&p, &fast, 600, &seed);
    struct predict_load l = {.others = 3, .prompt = 1000};
    double before = predict(&p, &l, 1).ttft.median_us;
    serve(&p, &slow, 40, &seed); /* soon it is known that it is slow... */
    CHECK(predict(&p, &l, 1).ttft.median_us > 2 * before);
    serve(&p, &slow, 1200, &seed); /* ...and then by how much */
    CHECK(worst(&p, &slow, &seed) < 0.3);
}

static void a_curve_is_where_it_begins(void)
{
    const struct node_curve c = {30000, 40, 10500, 500};
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = &c});
    struct prediction at = predict(&p, &(struct predict_load){.prompt = 1000, .cached = 200}, 1);
    CHECK(fabs(at.ttft.median_us - 62000) < 1 && fabs(at.tpot.median_us - 11000) < 1);
    CHECK(at.ttft.log_sd < 0.5);
    predictor_init(&p, &(struct predict_prior){.curve = NULL});
    CHECK(predict(&p, &(struct predict_load){.prompt = 1000}, 1).ttft.log_sd >
          0.9); /* nothing is known, and that is known */
}

/* Each tenth of what was predicted is hit by a tenth of what came. */
static void it_is_calibrated(void)
{
    unsigned seed = 3;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = NULL});
    serve(&p, &fast, 500, &seed);
    memset(p.ttft.tenths, 0, sizeof p.ttft.tenths);
    p.ttft.observed = 1000; /* past the time in which the first ones count for more */
    for (int i = 0; i < 8; i++)
        p.ttft.tenths[i] = 100;
    p.ttft.tenths[8] = p.ttft.tenths[9] = 100;
    serve(&p, &fast, 4000, &seed);
    CHECK(predict_miscalibration(&p.ttft) < 0.06);
    CHECK(predict_miscalibration(&p.tpot) < 0.08);
    struct predict_fit bad = {.observed = 100, .tenths = {100}};
    CHECK(predict_miscalibration(&bad) > 0.85);
    CHECK(predict_miscalibration(&(struct predict_fit){0}) == 0);
}

/* With its chunks known, a prediction is the very curve, and what was learned is told as one. */
static void chunks_and_queues(void)
{
    const struct node_curve c = {30000, 40, 10000, 500};
    unsigned seed = 7;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = &c, .chunk = 512});
    for (int i = 0; i < 200; i++) {
        struct predict_load l = some_load(&seed);
        l.queued = rand_r(&seed) % 5000;
        const double right = curve_ttft_us(&c, (double)l.queued, (double)l.prompt, l.others, 512);
        struct predict_at loaded;
        predict_at(&p, l.others, l.queued, &loaded);
        const struct predict_line line = predict_first(&p, &loaded);
        CHECK(fabs(predict(&p, &l, 1).ttft.median_us / right - 1) < 1e-9);
        struct prediction said;
        const double queue_us = predict_from(&loaded, l.prompt - l.cached, 1, &said);
        const double alone = curve_ttft_us(&c, 0, (double)(l.prompt - l.cached), l.others, 512);
        CHECK(fabs((said.ttft.median_us - queue_us) / alone - 1) < 1e-6);
        /* as a line it is exact but for the last chunk, which is reckoned by its tokens */
        CHECK(line.fixed_us + line.per_token_us * (double)l.prompt <= right * (1 + 1e-9));
        CHECK(line.fixed_us + line.per_token_us * (double)l.prompt >= right - 10000 - 500 * l.others - 1);
    }
    const struct node_curve back = predictor_curve(&p);
    CHECK(fabs(back.base_us - 30000) < 1 && fabs(back.prefill_us_per_tok - 40) < 0.01);
    CHECK(fabs(back.decode_us_base - 10000) < 1 && fabs(back.decode_us_per_seq - 500) < 0.01);
    for (int i = 0; i < 3000; i++) { /* it turns out to be three times as slow */
        struct predict_load l = some_load(&seed);
        l.queued = rand_r(&seed) % 5000;
        predictor_saw_ttft(&p, &l, 3 * curve_ttft_us(&c, (double)l.queued, (double)l.prompt, l.others, 512));
        predictor_saw_tpot(&p, &l, 3 * (10500 + 500 * l.others));
    }
    const struct predict_load l = {.others = 5, .prompt = 2000, .queued = 1000};
    CHECK(fabs(predict(&p, &l, 1).ttft.median_us / (3 * curve_ttft_us(&c, 1000, 2000, 5, 512)) - 1) < 0.02);
    CHECK(fabs(predictor_curve(&p).decode_us_per_seq - 1500) < 300);
    CHECK(predict(&p, &l, 1).ttft.log_sd < 0.1);
    struct predict_at crowded; /* however long the queue, without it the prompt takes as long as it takes */
    struct prediction said;
    predict_at(&p, l.others, 200000, &crowded);
    const double queue_us = predict_from(&crowded, l.prompt, 1, &said);
    CHECK(fabs((said.ttft.median_us - queue_us) / (3 * curve_ttft_us(&c, 0, 2000, 5, 512)) - 1) < 0.05);
}

/* What came once in a hundred times moves the median by next to nothing, and is told as what it is. */
static void one_stall_is_not_the_rule(void)
{
    const struct node_curve c = {30000, 40, 10000, 500};
    unsigned seed = 8;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = &c});
    serve(&p, &(struct truth){30000, 40, 10500, 10500, 500, 0.05}, 400, &seed);
    const struct predict_load l = {.prompt = 1000};
    const struct latency before = predict(&p, &l, 1).ttft;
    for (int i = 0; i < 8; i++) {
        predictor_saw_ttft(&p, &l, 20 * 70000);
        const struct latency after = predict(&p, &l, 1).ttft;
        CHECK(after.median_us < 1.05 * before.median_us);
        CHECK(after.odd > 0 && latency_within(&after, 200000) < latency_within(&before, 200000));
        for (int k = 0; k < 30; k++)
            predictor_saw_ttft(&p, &l, 70000 * exp(0.05 * normal(&seed)));
    }
    const struct latency trusted = predict(&p, &l, 1).ttft, forgotten = predict(&p, &l, 0).ttft;
    CHECK(latency_within(&trusted, 200000) < 0.995 && latency_within(&forgotten, 200000) > 0.99);
}

static void more_load_is_never_faster(void)
{
    unsigned seed = 4;
    for (int round = 0; round < 50; round++) {
        struct predictor p;
        predictor_init(&p, &(struct predict_prior){.curve = NULL});
        struct truth t = {1e4 * uniform(&seed), 100 * uniform(&seed), 1e4 * uniform(&seed),
                          1e4 * uniform(&seed), 1e3 * uniform(&seed), 0.5 * uniform(&seed)};
        serve(&p, &t, rand_r(&seed) % 300, &seed);
        struct predict_load l = some_load(&seed), more = l;
        more.others++;
        more.prompt += 100;
        CHECK(predict(&p, &more, 1).ttft.median_us >= predict(&p, &l, 1).ttft.median_us);
        CHECK(predict(&p, &more, 1).tpot.median_us >= predict(&p, &l, 1).tpot.median_us);
        l.cached = l.prompt / 2;
        CHECK(predict(&p, &l, 1).ttft.median_us <= predict(&p, &more, 1).ttft.median_us);
    }
}

static void distributions(void)
{
    const struct latency t = {.median_us = 1000, .log_sd = 0.5}, certain = {.median_us = 1000};
    CHECK(fabs(latency_within(&t, 1000) - 0.5) < 1e-12);
    CHECK(latency_within(&t, 0) == 0 && latency_within(&t, 1e12) > 0.999999);
    for (double p = 0.001; p < 1; p += 0.037)
        CHECK(fabs(latency_within(&t, latency_quantile(&t, p)) - p) < 1e-6);
    CHECK(latency_mean(&t) > t.median_us);
    CHECK(latency_within(&certain, 999) == 0 && latency_within(&certain, 1000) == 1);
}

static void nonsense_is_survived(void)
{
    static const double odd[] = {0, -1, 1e-300, 1e300, NAN, INFINITY, 1, 5e9};
    unsigned seed = 5;
    struct predictor p;
    predictor_init(&p, &(struct predict_prior){.curve = NULL});
    for (int i = 0; i < 20000; i++) {
        struct predict_load l = some_load(&seed);
        if (i % 3 == 0)
            l = (struct predict_load){.others = rand_r(&seed) % 3 ? 0 : INT32_MAX,
                                      .prompt = rand_r(&seed) % 2 ? INT64_MAX : 0,
                                      .cached = i % 2 ? INT64_MAX : 0,
                                      .queued = i % 5 ? 0 : INT64_MAX};
        double us = odd[rand_r(&seed) % 8];
        predictor_saw_ttft(&p, &l, us);
        predictor_saw_tpot(&p, &l, us);
        struct prediction at = predict(&p, &l, 1);
        CHECK(isfinite(at.ttft.median_us) && at.ttft.median_us > 0 && at.ttft.log_sd > 0);
        CHECK(isfinite(at.tpot.median_us) && at.tpot.median_us > 0 && at.tpot.log_sd > 0);
    }
}

static void breaks_a_promise(void)
{
    const struct prediction p = {.ttft = {.median_us = 400e3, .log_sd = 0.5},
                                 .tpot = {.median_us = 30e3, .log_sd = 0.02}};
    CHECK(!prediction_is_late(&p, 0, 0, 0.99)); /* nothing is promised */
    CHECK(!prediction_is_late(&p, 500e3, 0, 0.6));
    CHECK(prediction_is_late(&p, 500e3, 0, 0.7)); /* 67% are in time */
    CHECK(!prediction_is_late(&p, 1300e3, 40e3, 0.99));
    CHECK(prediction_is_late(&p, 1300e3, 20e3, 0.99));
}

int main(void)
{
    TEST(finds_the_truth);
    TEST(follows_a_change);
    TEST(a_curve_is_where_it_begins);
    TEST(it_is_calibrated);
    TEST(chunks_and_queues);
    TEST(one_stall_is_not_the_rule);
    TEST(more_load_is_never_faster);
    TEST(distributions);
    TEST(nonsense_is_survived);
    TEST(breaks_a_promise);
    return TEST_RESULT();
}
