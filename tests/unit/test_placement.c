/* Which experts go to the host, on tables of made-up sizes: all on the device while they fit, then the last layers
 * first, dense ones passed over; pages come before experts; a number that is asked for is taken; and what is advised
 * where nothing fits.
 * links: spw_engine_model */
#include "engine/model/placement.h"
#include "tests/unit/test.h"

/* A dense layer, then four with experts, the third of another quantisation, then a dense one. */
static const uint64_t experts[] = {0, 1000, 1000, 1500, 1000, 0};
static const uint64_t others[] = {300, 100, 100, 100, 100, 300};

static struct placement_need need(uint64_t device)
{
    return (struct placement_need){.n_layer = 6,
                                   .experts = experts,
                                   .others = others,
                                   .ends = 500,
                                   .work = 50,
                                   .page = 10,
                                   .pages = 20,
                                   .pages_min = 4,
                                   .host_layers = PLACEMENT_FEWEST,
                                   .device = device};
}

static const struct {
    uint64_t device;
    int32_t first_host, n_host;
    uint64_t host_weights, left;
    bool fits;
} rows[] = {
    /* ends 500, others 1000, work 50, pages 200: 1750 without experts; 6250 with all */
    {10000, 6, 0, 0, 3750, true},  {6250, 6, 0, 0, 0, true},       {6249, 4, 1, 1000, 999, true},
    {5250, 4, 1, 1000, 0, true},   {5249, 3, 2, 2500, 1499, true}, {3749, 2, 3, 3500, 999, true},
    {2749, 1, 4, 4500, 999, true}, {1750, 1, 4, 4500, 0, true},    {1749, 1, 4, 4500, 0, false},
    {0, 1, 4, 4500, 0, false},
};

static void fewest_layers_go(void)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct placement_need n = need(rows[i].device);
        struct placement p = placement_decide(&n);
        CHECK_INT(p.fits, rows[i].fits);
        CHECK_INT(p.first_host, rows[i].first_host);
        CHECK_INT(p.n_host, rows[i].n_host);
        CHECK_INT(p.host_weights, rows[i].host_weights);
        CHECK_INT(p.device_weights, 6000 - rows[i].host_weights);
        CHECK_INT(p.left, rows[i].left);
    }
}

static void more_pages_move_experts(void)
{
    struct placement_need n = need(6250);
    n.pages = 21;
    CHECK_INT(placement_decide(&n).n_host, 1);
    n.pages = 121;
    CHECK_INT(placement_decide(&n).n_host, 2);
    n.pages = UINT64_MAX / 1000; /* the sum must not wrap */
    CHECK(!placement_decide(&n).fits);
}

static void a_number_is_taken(void)
{
    struct placement_need n = need(10000);
    n.host_layers = 3;
    struct placement p = placement_decide(&n);
    CHECK(p.fits && p.first_host == 2 && p.n_host == 3);
    CHECK_INT(p.pages_fit, (10000 - 2500 - 50) / 10);
    n.host_layers = 99; /* as many as there are */
    CHECK_INT(placement_decide(&n).n_host, 4);
    n.host_layers = 0;
    n.device = 6249;
    p = placement_decide(&n);
    CHECK(!p.fits && p.n_host == 0 && p.pages_fit == 19);
}

static void check_advice(uint64_t device, int32_t host_layers, const char *expected)
{
    char text[160];
    struct placement_need n = need(device);
    n.host_layers = host_layers;
    struct placement p = placement_decide(&n);
    placement_advise(text, sizeof text, &n, &p);
    CHECK_STR(text, expected);
}

static void what_would_fit_is_said(void)
{
    check_advice(6000, 0, "with the experts of 1 layers in host memory it would fit: raise host-experts");
    check_advice(1749, PLACEMENT_FEWEST, "19 pages (1216 tokens) would fit: lower kv_pages, or n_ctx or max_seqs");
    check_advice(1589, PLACEMENT_FEWEST, "n_ctx 192 for one sequence would fit");
    check_advice(1589, 0, "n_ctx 192 for one sequence would fit with the experts of 4 layers in host memory");
    check_advice(1500, PLACEMENT_FEWEST,
                 "no context would fit: 0.0 GB of weights would (a smaller model or "
                 "quantisation), or the cpu");
    check_advice(60, PLACEMENT_FEWEST, "no context would fit: a smaller model or quantisation, or the cpu, would");
}

int main(void)
{
    TEST(fewest_layers_go);
    TEST(more_pages_move_experts);
    TEST(a_number_is_taken);
    TEST(what_would_fit_is_said);
    return TEST_RESULT();
}
