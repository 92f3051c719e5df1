/* Proves that RAPL's counters are added up over packages and their memory, also over their wrap, that parts of a
 * package are not counted twice, that a declared curve is marked as an estimate, and that EC2's notices are read in
 * both spellings.
 * links: spw_engine_node */
#include "tests/unit/test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "engine/node/notice.h"
#include "engine/node/watts.h"

static char dir[64];
static const struct log quiet = {.fd = -1, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};

static void put(const char *zone, const char *file, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, zone);
    (void)mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/%s/%s", dir, zone, file);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    fclose(f);
}

static void test_rapl(void)
{
    struct clock_manual time = {.mono = {1}};
    const struct clock clock = clock_manual(&time);
    static const char *const zones[][2] = {
        {"intel-rapl:0", "package-0\n"}, {"intel-rapl:0:0", "core\n"}, {"intel-rapl:0:1", "dram\n"}};
    for (int i = 0; i < 3; i++) {
        put(zones[i][0], "name", zones[i][1]);
        put(zones[i][0], "max_energy_range_uj", "100000000\n");
        put(zones[i][0], "energy_uj", "90000000\n");
    }
    const struct watts_options o = {.rapl = dir, .idle_mw = 1, .busy_mw = 2, .log = &quiet, .clock = &clock};
    struct watts *w = watts_new(&o);
    CHECK_INT(watts_read(w, 0).source, WATTS_MEASURED);
    put("intel-rapl:0", "energy_uj", "95000000\n");
    put("intel-rapl:0:0", "energy_uj", "99000000\n");
    put("intel-rapl:0:1", "energy_uj", "1000000\n"); /* 11 J: over its end */
    clock_advance(&time, 2 * NS_PER_S);
    struct watts_reading r = watts_read(w, 0);
    CHECK_INT(r.milliwatts, 8000);
    CHECK_INT(r.millijoules, 16000);
    CHECK_INT(r.idle_millijoules, 16000);           /* nothing was computed: so it idles at 8 W */
    put("intel-rapl:0", "energy_uj", "35000000\n"); /* 40 J */
    clock_advance(&time, 2 * NS_PER_S);
    r = watts_read(w, 1);
    CHECK_INT(r.millijoules, 56000);
    CHECK_INT(r.idle_millijoules, 24000); /* one second of it */
    watts_free(w);
}

static void test_curve(void)
{
    struct clock_manual time = {.mono = {1}};
    const struct clock clock = clock_manual(&time);
    struct watts_options o = {.rapl = "/nowhere", .log = &quiet, .clock = &clock};
    struct error e;
    struct watts *w = watts_new(&o);
    CHECK_INT(watts_read(w, 0).source, WATTS_UNKNOWN);
    watts_free(w);
    CHECK_INT(watts_parse_curve("30:90", &o.idle_mw, &o.busy_mw, &e), RC_OK);
    CHECK(watts_parse_curve("90:30", &o.idle_mw, &o.busy_mw, &e) != RC_OK &&
          watts_parse_curve("x", &o.idle_mw, &o.busy_mw, &e) != RC_OK);
    CHECK_INT(watts_parse_curve("30:90", &o.idle_mw, &o.busy_mw, &e), RC_OK);
    w = watts_new(&o);
    CHECK_INT(watts_read(w, 0).source, WATTS_ESTIMATED);
    clock_advance(&time, 2 * NS_PER_S);
    struct watts_reading r = watts_read(w, 1);
    CHECK_INT(r.milliwatts, 60000); /* half of the time */
    CHECK_INT(r.millijoules, 120000);
    CHECK_INT(r.idle_millijoules, 30000);
    clock_advance(&time, 2 * NS_PER_S);
    r = watts_read(w, 1);
    CHECK_INT(r.millijoules, 180000);
    CHECK_INT(r.idle_millijoules, 90000);
    watts_free(w);
}

static void test_notices(void)
{
    int64_t left;
    struct error e;
    const char *a = "{\"action\":\"terminate\",\"time\":\"2027-01-01T00:02:00Z\"}";
    const char *b = "{\"instance-action\":\"stop\",\"time\":\"2027-01-01T00:00:00Z\"}";
    const int64_t now = INT64_C(1798761600000); /* 2027-01-01T00:00:00Z */
    CHECK(notice_read_action(a, strlen(a), now, &left, &e) == RC_OK && left == 120000);
    CHECK(notice_read_action(b, strlen(b), now + 5, &left, &e) == RC_OK && left == 0);
    CHECK_INT(notice_read_action("{}", 2, now, &left, &e), RC_INVALID);
}

int main(void)
{
    char command[128];
    snprintf(dir, sizeof dir, "/tmp/spillway-watts-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    TEST(test_rapl);
    TEST(test_curve);
    TEST(test_notices);
    static const char *const zones[] = {"intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"};
    static const char *const files[] = {"name", "max_energy_range_uj", "energy_uj"};
    for (int i = 0; i < 9; i++) {
        snprintf(command, sizeof command, "%s/%s/%s", dir, zones[i / 3], files[i % 3]);
        unlink(command);
    }
    for (int i = 0; i < 3; i++) {
        snprintf(command, sizeof command, "%s/%s", dir, zones[i]);
        rmdir(command);
    }
    rmdir(dir);
    return TEST_RESULT();
}
