/* Capacity at the SLO: against measured rows, and laws over random curves.
 * links: spw_policies */
#include "policies/capacity.h"

#include <math.h>

#include "tests/unit/random.h"
#include "tests/unit/test.h"

static double between(uint64_t *state, double lo, double hi)
{
    return lo + (hi - lo) * (double)(next_random(state) >> 11) / 9007199254740992.0;
}

static const struct model_shape llama70 = {.params = 70.6e9,
                                           .active_params = 70.6e9,
                                           .bits_per_weight = 16,
                                           .layers = 80,
                                           .kv_heads = 8,
                                           .head_dim = 128,
                                           .kv_bits = 16};

static void memory(void)
{
    struct gpu_facts h100x4 = {.gpus = 4, .memory_bytes = 80e9};
    struct workload_mix mix = {.prompt = 1000, .output = 500};
    struct capacity_memory m;

    CHECK(capacity_weights_bytes(&llama70) == 141.2e9);
    CHECK(capacity_kv_bytes_per_tok(&llama70) == 327680); /* 2 x 8 x 128 x 80 x 2 bytes */
    capacity_memory(&m, &llama70, &h100x4, &mix);
    CHECK(m.fits);
    CHECK_INT(m.kv_tokens, 447998); /* (288 - 141.2) GB / 327,680 */
    CHECK_INT(m.sequences, 298);
    h100x4.gpus = 1;
    capacity_memory(&m, &llama70, &h100x4, &mix);
    CHECK(!m.fits && m.kv_bytes == 0);
    struct model_shape mla = {.layers = 61, .kv_latent = 576, .kv_bits = 16};
    CHECK(capacity_kv_bytes_per_tok(&mla) == 70272); /* DeepSeek-V3 */
}

/* ML.ENERGY v3, Qwen3-8B on one H100: 128 sequences give 20.7 ms a token and 5,930 tokens/s. The curve fitted to
 * its rows must say so too (its prompts are short). */
static void measured_row(void)
{
    struct node_curve c = {.prefill_us_per_tok = 41, .decode_us_base = 8200, .decode_us_per_seq = 88};
    struct workload_mix mix = {.prompt = 90, .output = 640};
    struct capacity_slo slo = {.tpot_us = 21000};
    struct capacity a;

    capacity_at_slo(&a, &c, &slo, &mix, 128);
    CHECK(a.output_tokens_per_s > 5930 * 0.85 && a.output_tokens_per_s < 5930 * 1.15);
    CHECK(a.concurrency > 128 * 0.85 && a.concurrency < 128.001);
}

static void random_case(struct node_curve *c, struct capacity_slo *slo, struct workload_mix *mix, uint64_t *seed)
{
    *c = (struct node_curve){between(seed, 0, 50e3), between(seed, 1, 400), between(seed, 2e3, 60e3),
                             between(seed, 10, 600)};
    *slo = (struct capacity_slo){.ttft_us = between(seed, 100e3, 3e6),
                                 .tpot_us = between(seed, 10e3, 120e3),
                                 .probability = between(seed, 0.5, 0.999),
                                 .all_prompts = next_random(seed) % 2};
    if (next_random(seed) % 2)
        slo->tpot_probability = slo->probability;
    *mix = (struct workload_mix){between(seed, 10, 8000), 0, between(seed, 1, 1500), between(seed, 0, 2)};
    mix->cached = between(seed, 0, 0.9) * mix->prompt;
}

static void laws(void)
{
    uint64_t seed = 11;

    for (int i = 0; i < 20000; i++) {
        struct node_curve c;
        struct capacity_slo slo;
        struct workload_mix mix;
        struct capacity a, b;
        int32_t most = (int32_t)(next_random(&seed) % 300);
        random_case(&c, &slo, &mix, &seed);
        capacity_at_slo(&a, &c, &slo, &mix, most);
        if (a.limit == CAPACITY_NONE) {
            CHECK(a.tokens_per_s == 0 && (a.ttft_us > slo.ttft_us || a.tpot_us_p > slo.tpot_us));
            continue;
        }
        /* The SLO holds there, and not at 1% more. */
        CHECK(a.ttft_us <= slo.ttft_us && a.tpot_us_p <= slo.tpot_us && a.load <= 0.9501);
        CHECK(most == 0 || a.concurrency <= most * 1.000001);
        bool can = capacity_at_rate(&b, &c, &slo, &mix, a.requests_per_s * 1.01);
        CHECK(!can || b.ttft_us > slo.ttft_us || b.tpot_us_p > slo.tpot_us || b.load > 0.95 ||
              (most && b.concurrency > most));
        /* Little's law. */
        CHECK(fabs(a.concurrency - a.output_tokens_per_s * a.tpot_us / 1e6) <= 1e-6 * a.concurrency + 1e-9);
        /* A looser SLO, a faster node, a longer cached prefix never take capacity away. */
        struct capacity_slo loose = slo;
        loose.ttft_us *= 1.5;
        loose.tpot_us *= 1.5;
        capacity_at_slo(&b, &c, &loose, &mix, most);
        CHECK(b.requests_per_s >= a.requests_per_s * 0.999999);
        struct node_curve fast = {c.base_us, c.prefill_us_per_tok * 0.8, c.decode_us_base * 0.8,
                                  c.decode_us_per_seq * 0.8};
        capacity_at_slo(&b, &fast, &slo, &mix, most);
        CHECK(b.requests_per_s >= a.requests_per_s * 0.999999);
        mix.cached = mix.prompt;
        capacity_at_slo(&b, &c, &slo, &mix, most);
        CHECK(b.requests_per_s >= a.requests_per_s * 0.999999);
    }
}

/* What is cached isn't computed: with almost nothing to decode, half of the prompt cached doubles the rate. */
static void cached_tokens_are_free(void)
{
    struct node_curve c = {.prefill_us_per_tok = 100, .decode_us_base = 1000, .decode_us_per_seq = 1};
    struct workload_mix mix = {.prompt = 1000, .output = 1};
    struct capacity_slo slo = {0};
    struct capacity a, b;

    capacity_at_slo(&a, &c, &slo, &mix, 0);
    mix.cached = 500;
    capacity_at_slo(&b, &c, &slo, &mix, 0);
    CHECK(b.requests_per_s > a.requests_per_s * 1.99);
    CHECK(b.tokens_per_s > a.tokens_per_s * 1.99); /* cached ones are asked for and served all the same */
}

/* Full is full: at that rate the batch that is needed is the one there is; without a bound the device's time is all taken. */
static void saturation(void)
{
    struct node_curve c = {.prefill_us_per_tok = 90, .decode_us_base = 15000, .decode_us_per_seq = 100};
    struct workload_mix mix = {.prompt = 1000, .output = 500};
    struct capacity_slo slo = {0};
    struct capacity at;

    double rate = capacity_saturated(&c, &mix, 64);
    CHECK(capacity_at_rate(&at, &c, &slo, &mix, rate));
    CHECK(fabs(at.concurrency - 64) < 1e-6);
    CHECK(capacity_saturated(&c, &mix, 128) > rate);
    rate = capacity_saturated(&c, &mix, 0);
    CHECK(fabs(rate * (1000 * 90 + 500 * 100) - 1e6) < 1e-3);
}

static void roofline(void)
{
    struct gpu_facts h100x4 = {.gpus = 4,
                               .memory_bytes = 80e9,
                               .bandwidth_bytes_s = 3.35e12,
                               .flops = 989e12,
                               .flops_share = 0.4,
                               .bandwidth_share = 0.6};
    struct workload_mix mix = {.prompt = 90, .output = 350};
    struct node_curve c;

    capacity_curve(&c, &llama70, &h100x4, &mix);
    /* ML.ENERGY v3, Llama-3.1-70B on 4 H100: 16.6 ms a token at 8 sequences. */
    double step = c.decode_us_base + 8 * c.decode_us_per_seq;
    CHECK(step > 16600 * 0.8 && step < 16600 * 1.3);
    CHECK(fabs(c.prefill_us_per_tok - 2 * 70.6e9 / (4 * 989e12 * 0.4) * 1e6) < 1e-6);
}

static void names(void)
{
    CHECK_STR(capacity_limit_name(CAPACITY_BY_SEQUENCES), "sequences");
}

static void at_once(void)
{
    const struct capacity c = {.concurrency = 3.9, .requests_per_s = 2, .ttft_us = 250e3};
    const struct capacity none = {.concurrency = 3.9, .limit = CAPACITY_NONE};
    CHECK(fabs(capacity_at_once(&c, 0) - 4.4) < 1e-12); /* those before their first token, too */
    CHECK(capacity_at_once(&c, 4) == 4);                /* more are never sent there */
    CHECK(capacity_at_once(&none, 4) == 0);
}

int main(void)
{
    TEST(memory);
    TEST(measured_row);
    TEST(laws);
    TEST(cached_tokens_are_free);
    TEST(saturation);
    TEST(roofline);
    TEST(names);
    TEST(at_once);
    return TEST_RESULT();
}
