/* Proves that settings which come while the nights are being looked at hold from the next look on, however late this
 * one ends.
 * links: spw_sched_nightly spw_sched_config spw_base */
#include "tests/unit/test.h"

#include <unistd.h>

#include "scheduler/nightly/nightly.h"
#include "scheduler/nightly/outbox.h"

#define NOON_S INT64_C(1780315200) /* 2026-06-01T12:00:00Z */

static char folder[] = "/tmp/spillway-nightly-XXXXXX";
static struct error e;

static struct config *config_at(const char *at)
{
    char text[512];
    struct config *c = NULL;
    struct strbuf problems;
    strbuf_init(&problems, 4096);
    const int n = snprintf(text, sizeof text,
                           "listen: 127.0.0.1:0\nauth: off\nstate_dir: %s\n"
                           "nodes:\n  - {name: a, url: http://127.0.0.1:1, models: [m]}\n"
                           "reports: {at: \"%s\", time_zone: UTC, periods: [day]}\n",
                           folder, at);
    if (config_parse(&c, text, (size_t)n, "test", &problems) != RC_OK) {
        fprintf(stderr, "%.*s\n", (int)problems.len, problems.data);
        abort();
    }
    strbuf_fini(&problems);
    return c;
}

/* The nights up to eleven o'clock are done. */
static void begin(const struct config *c)
{
    struct outbox *box = NULL;
    char *path = nightly_outbox(c);
    CHECK(outbox_open(&box, path, &e) == RC_OK);
    CHECK(outbox_set_done(box, NOON_S - 3600, &e) == RC_OK);
    outbox_close(box);
    free(path);
}

/* Has it tried to make a report? There is no ledger, so that it fails. */
static bool has_tried(const struct nightly *n)
{
    struct strbuf text;
    strbuf_init(&text, 65536);
    CHECK(nightly_metrics(n, &text) == RC_OK && strbuf_append(&text, "", 1) == RC_OK);
    const bool tried = strstr(text.data, "\nspillway_reports_failed_total 0\n") == NULL;
    strbuf_fini(&text);
    return tried;
}

static void test_settings_come_while_it_looks(void)
{
    struct config *later = config_at("12:30"), *sooner = config_at("11:30");
    struct clock_manual hands = {.wall = {NOON_S * NS_PER_S}};
    const struct clock clock = clock_manual(&hands);
    const struct log quiet = {.fd = -1, .level = LOG_ERROR, .clock = &clock, .program = "test"};
    struct event_base *loop = event_base_new();
    const struct nightly_options o = {.loop = loop, .config = later, .log = &quiet, .clock = &clock};
    struct nightly *n;
    begin(later);
    CHECK(nightly_new(&n, &o, &e) == RC_OK);
    event_base_loop(loop, EVLOOP_ONCE); /* the first look: its end is told in the loop's next turn, or later */
    nightly_take(n, sooner);
    for (int turns = 0; turns < 20 && !has_tried(n); turns++)
        event_base_loop(loop, EVLOOP_ONCE);
    CHECK(has_tried(n));
    nightly_free(n);
    event_base_free(loop);
    config_free(later);
    config_free(sooner);
}

int main(void)
{
    static const char *const files[] = {"reports.db", "reports.db-wal", "reports.db-shm"};
    char path[64];
    if (!mkdtemp(folder))
        return 1;
    TEST(test_settings_come_while_it_looks);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
    return TEST_RESULT();
}
