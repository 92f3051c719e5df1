/* Records of calibrations: what is written is read back, what is wrong is named, and nothing half-written is left.
 * links: spw_sched_calibrate */
#include "scheduler/calibrate/record.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "test.h"

static struct calibration sample(void)
{
    return (struct calibration){.measured_at = "2026-11-29T02:10:00Z",
                                .node = "gpu \"1\"",
                                .model = "r1",
                                .curve = {9100, 41.5, 9900, 55},
                                .prefill_error = 0.04,
                                .n_prefill = 2,
                                .prefill = {{70, 12000}, {4000, 175100}},
                                .n_decode = 1,
                                .decode = {{1, 9950}},
                                .n_context = 1,
                                .context = {{4, 2100.5, 10300}},
                                .detail = {0.25, 43.5, 512, 32},
                                .watts = CALIBRATION_WATTS_MEASURED,
                                .idle_w = 60,
                                .n_watts = 1,
                                .by_batch = {{8, 310.5}}};
}

/* By what they are written as: between members there may be anything. */
static bool same(const struct calibration *a, const struct calibration *b)
{
    struct strbuf x, y;
    strbuf_init(&x, 1 << 20);
    strbuf_init(&y, 1 << 20);
    CHECK(calibration_write(a, &x) == RC_OK && calibration_write(b, &y) == RC_OK);
    bool equal = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    strbuf_fini(&x);
    strbuf_fini(&y);
    return equal && memcmp(&a->curve, &b->curve, sizeof a->curve) == 0;
}

static void comes_back(void)
{
    struct calibration c = sample(), back;
    struct strbuf text;
    struct error e;
    strbuf_init(&text, 1 << 20);
    CHECK(calibration_write(&c, &text) == RC_OK);
    CHECK(calibration_parse(&back, text.data, text.len, &e) == RC_OK);
    CHECK(same(&back, &c));
    CHECK(strcmp(back.node, "gpu \"1\"") == 0 && back.n_prefill == 2 && back.prefill[1].us == 175100);
    CHECK(back.context[0].batch == 4 && back.context[0].tokens == 2100.5 && back.context[0].us == 10300);
    CHECK(back.detail.decode_us_per_ctx_tok == 0.25 && back.detail.mixed_us_per_tok == 43.5);
    CHECK(back.detail.chunk == 512 && back.detail.mixed_chunk == 32);
    CHECK(back.by_batch[0].batch == 8 && back.by_batch[0].w == 310.5 && back.watts == CALIBRATION_WATTS_MEASURED);
    strbuf_fini(&text);
}

static void the_curve_alone_is_enough(void)
{
    const char *text = "{\"spillway_calibration\":1,\"later\":[1],\"curve\":{\"base_us\":0,\"prefill_us_per_tok\":0,"
                       "\"decode_us_base\":5,\"decode_us_per_seq\":0}}";
    struct calibration c;
    struct error e;
    CHECK(calibration_parse(&c, text, strlen(text), &e) == RC_OK);
    CHECK(c.curve.decode_us_base == 5 && c.watts == CALIBRATION_WATTS_UNKNOWN && !c.n_prefill);
}

static void what_is_wrong_is_named(void)
{
#define CURVE "\"curve\":{\"base_us\":1,\"prefill_us_per_tok\":1,\"decode_us_base\":1,\"decode_us_per_seq\":1}"
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "JSON"},
        {"{}", "spillway_calibration"},
        {"{\"spillway_calibration\":2," CURVE "}", "spillway_calibration"},
        {"{\"spillway_calibration\":1}", "curve"},
        {"{\"spillway_calibration\":1,\"curve\":{\"base_us\":-1}}", "curve.base_us"},
        {"{\"spillway_calibration\":1,\"curve\":{\"base_us\":1}}", "curve.prefill_us_per_tok: missing"},
        {"{\"spillway_calibration\":1,\"curve\":{\"base_us\":1,\"prefill_us_per_tok\":1,\"decode_us_base\":0,"
         "\"decode_us_per_seq\":0}}",
         "no time"},
        {"{\"spillway_calibration\":1,\"node\":7," CURVE "}", "node"},
        {"{\"spillway_calibration\":1,\"decode\":{}," CURVE "}", "decode"},
        {"{\"spillway_calibration\":1,\"decode\":[{\"batch\":1}]," CURVE "}", "decode.step_us"},
        {"{\"spillway_calibration\":1,\"context\":[{\"batch\":1}]," CURVE "}", "context.tokens"},
        {"{\"spillway_calibration\":1,\"detail\":[]," CURVE "}", "detail"},
        {"{\"spillway_calibration\":1,\"detail\":{\"mixed_chunk\":-2}," CURVE "}", "detail.mixed_chunk"},
        {"{\"spillway_calibration\":1,\"watts\":{\"source\":\"guessed\"}," CURVE "}", "watts.source"},
        {"{\"spillway_calibration\":1,\"watts\":{\"source\":\"declared\"}," CURVE "}", "watts.idle"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct calibration c;
        struct error e = {0};
        CHECK(calibration_parse(&c, cases[i].text, strlen(cases[i].text), &e) == RC_INVALID);
        if (!strstr(e.message, cases[i].word)) {
            fprintf(stderr, "%s: %s\n", cases[i].text, e.message);
            CHECK(!"the message names it");
        }
    }
}

/* Cut off or changed anywhere, it is refused or read, and nothing else happens. */
static void damage_is_survived(void)
{
    struct calibration c = sample(), back;
    struct strbuf text;
    struct error e;
    unsigned seed = 3;
    strbuf_init(&text, 1 << 20);
    CHECK(calibration_write(&c, &text) == RC_OK);
    for (size_t n = 0; n + 3 < text.len; n++) /* without its last brackets */
        CHECK(calibration_parse(&back, text.data, n, &e) == RC_INVALID);
    for (int i = 0; i < 3000; i++) {
        size_t at = (size_t)rand_r(&seed) % text.len;
        char was = text.data[at];
        text.data[at] = (char)(rand_r(&seed) % 256);
        enum rc rc = calibration_parse(&back, text.data, text.len, &e);
        CHECK(rc == RC_OK || rc == RC_INVALID);
        CHECK(rc != RC_OK || back.n_prefill <= CALIBRATION_POINTS_MAX);
        text.data[at] = was;
    }
    strbuf_fini(&text);
}

static void files(void)
{
    char folder[] = "/tmp/calibration-XXXXXX", path[64], bad[64];
    struct calibration c = sample(), back;
    struct error e;
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/made/gpu1.json", folder);
    snprintf(bad, sizeof bad, "%s/not/made/gpu1.json", folder);
    CHECK(calibration_save(&c, path, &e) == RC_OK);
    CHECK(calibration_save(&c, path, &e) == RC_OK); /* over it */
    CHECK(calibration_load(&back, path, &e) == RC_OK && same(&back, &c));
    CHECK(calibration_save(&c, bad, &e) == RC_IO && strstr(e.message, folder));
    CHECK(calibration_load(&back, bad, &e) == RC_NOT_FOUND && strstr(e.message, bad));
    unlink(path);
    snprintf(path, sizeof path, "%s/made", folder);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0); /* nothing else was left there */
}

static void it_grows_old(void)
{
    struct calibration c = sample();
    const int64_t then = 1795918200; /* of the sample */
    CHECK(!calibration_stale(&c, then) && !calibration_stale(&c, then + 30 * 86400));
    CHECK(calibration_stale(&c, then + 30 * 86400 + 1));
    snprintf(c.measured_at, sizeof c.measured_at, "yesterday");
    CHECK(calibration_stale(&c, then));
}

static void draws_lie_between_points(void)
{
    struct calibration c = sample();
    CHECK(calibration_mw(&c, 0) == 60000 && calibration_mw(&c, 8) == 310500 && calibration_mw(&c, 100) == 310500);
    CHECK(fabs(calibration_mw(&c, 4) - 185250) < 1e-6);
    c.n_watts = 2;
    c.by_batch[1] = (struct calibration_draw){16, 200}; /* chance: more work never draws less */
    CHECK(calibration_mw(&c, 16) == 310500);
    c.watts = CALIBRATION_WATTS_UNKNOWN;
    CHECK(calibration_mw(&c, 1) < 0);
}

int main(void)
{
    TEST(comes_back);
    TEST(the_curve_alone_is_enough);
    TEST(what_is_wrong_is_named);
    TEST(damage_is_survived);
    TEST(files);
    TEST(it_grows_old);
    TEST(draws_lie_between_points);
    return TEST_RESULT();
}
