/* Recordings: every member comes back as it was, to the last bit; what a router lived is lived again; so is a
 * simulation, which decides by the same calls; a recording that ends early has no holes; what is no recording is
 * refused.
 * links: spw_sched_simulate m */
#include "scheduler/record/recorder.h"

#include <math.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "folder_help.h"
#include "router_life.h"
#include "scheduler/record/record_tables.h"
#include "scheduler/simulate/replay.h"
#include "sim_help.h"
#include "test.h"

static char folder[] = "/tmp/spillway-record-XXXXXX";
static const struct log quiet = {.fd = -1, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- to text and back ------------------------------------------------------------------------------------------------ */

static double some_double(uint64_t *random)
{
    static const double odd[] = {0, -0.0, 1, -1, 0.1, 1e300, -1e-300, 5e-324, 9007199254740993.0, INFINITY, -INFINITY};
    const uint64_t r = next_random(random);
    double v;
    memcpy(&v, &r, sizeof v);
    return r % 3 == 0 ? odd[r / 3 % (sizeof odd / sizeof odd[0])] : isnan(v) ? 0.5 : v;
}

static void fill_text(char *to, int bytes, uint64_t *random)
{
    static const char *const texts[] = {"", "gpu1", "a \"quoted\"\\ one", "\xc3\xa9\xf0\x9f\x98\x80", "tab\tand\nline"};
    snprintf(to, (size_t)bytes, "%s", texts[next_random(random) % 5]);
}

static int words_of(const struct member *m)
{
    int n = 0;
    while (m->word(n))
        n++;
    return n;
}

static int64_t some_whole(const struct member *m, int64_t lo, int64_t hi, uint64_t *random)
{
    const uint64_t r = next_random(random);
    lo = m->lo == m->hi ? lo : m->lo;
    hi = m->lo == m->hi ? hi : m->hi;
    if (r % 4 == 0)
        return r % 8 ? lo : hi;
    const uint64_t span = (uint64_t)hi - (uint64_t)lo;
    return (int64_t)((uint64_t)lo + (span == UINT64_MAX ? next_random(random) : next_random(random) % (span + 1)));
}

static void fill(const struct members *t, void *base, uint64_t *random)
{
    for (int i = 0; i < t->n; i++) {
        const struct member *m = &t->rows[i];
        void *p = (char *)base + m->offset;
        switch (m->type) {
        case MEMBER_BOOL: *(bool *)p = next_random(random) & 1; break;
        case MEMBER_I16: *(int16_t *)p = (int16_t)some_whole(m, INT16_MIN, INT16_MAX, random); break;
        case MEMBER_I32: *(int32_t *)p = (int32_t)some_whole(m, INT32_MIN, INT32_MAX, random); break;
        case MEMBER_U32: *(uint32_t *)p = (uint32_t)some_whole(m, 0, UINT32_MAX, random); break;
        case MEMBER_I64: *(int64_t *)p = some_whole(m, INT64_MIN, INT64_MAX, random); break;
        case MEMBER_DOUBLE: *(double *)p = some_double(random); break;
        case MEMBER_WORD: *(int *)p = (int)(next_random(random) % (uint64_t)words_of(m)); break;
        case MEMBER_TEXT: fill_text(p, m->bytes, random); break;
        }
    }
}

static struct record_event was, is;
static struct record_candidate was_c[RECORD_CANDIDATES_MAX], is_c[RECORD_CANDIDATES_MAX];

static void fill_choice(struct record_choice *c, bool decided, uint64_t *random)
{
    fill(&record_who_members, &c->who, random);
    fill(&record_choice_members, c, random);
    fill(&record_request_members, &c->q, random);
    c->n_holders = (int32_t)(next_random(random) % (SHORTLIST_HINTS_MAX + 1));
    c->n_skip = (int32_t)(next_random(random) % (SHORTLIST_SKIP_MAX + 1));
    c->n = (int32_t)(next_random(random) % (RECORD_CANDIDATES_MAX + 1));
    for (int i = 0; i < c->n_holders; i++)
        c->holders[i] =
            (struct router_holder){(int32_t)(next_random(random) % 100), (int64_t)(next_random(random) % 100000)};
    for (int i = 0; i < c->n_skip; i++)
        c->skip[i] = (int32_t)(next_random(random) % SHORTLIST_NODES_MAX);
    for (int i = 0; i < c->n && decided; i++)
        fill(&record_candidate_members, &was_c[i], random);
    for (int i = 0; i < c->n && !decided; i++)
        was_c[i].node = (int32_t)(next_random(random) % SHORTLIST_NODES_MAX);
}

static void fill_event(enum record_kind k, uint64_t *random)
{
    memset(&was, 0, sizeof was);
    memset(was_c, 0, sizeof was_c);
    fill(&record_event_members, &was, random);
    was.kind = k;
    switch ((int)k) {
    case ROUTER_PUT:
        fill(&record_facts_members, &was.u.facts.f, random);
        for (int i = 0; i < 5; i++)
            shortlist_kind_add(&was.u.facts.f.kind, (int)(next_random(random) % SHORTLIST_MODELS_MAX));
        was.u.facts.has_curve = next_random(random) & 1;
        if (was.u.facts.has_curve)
            fill(&record_curve_members, &was.u.facts.curve, random);
        break;
    case ROUTER_LIKE: fill(&record_like_members, &was, random); break;
    case ROUTER_STATE: fill(&record_state_members, &was.u.state, random); break;
    case ROUTER_TARIFF: fill(&record_tariff_members, &was.u.tariff, random); break;
    case ROUTER_GROWING: fill(&record_growing_members, &was.u.growing, random); break;
    case ROUTER_SENT:
        fill(&record_work_members, &was.u.sent.work, random);
        fill(&record_leg_members, &was.u.sent.leg, random);
        break;
    case ROUTER_SPOKE:
    case ROUTER_ENDED: fill(&record_heard_members, &was.u.heard, random); break;
    case ROUTER_LISTED:
    case ROUTER_CHOSE: fill_choice(&was.u.choice, (int)k == ROUTER_CHOSE, random); break;
    case RECORD_BEGIN: fill(&record_begin_members, &was.u.begin, random); break;
    case RECORD_NODE:
    case RECORD_MODEL: fill(&record_named_members, &was.u.named, random); break;
    case RECORD_END: fill(&record_end_members, &was.u.end, random); break;
    default: break;
    }
}

static bool comes_back(struct strbuf *line)
{
    struct error e;
    strbuf_clear(line);
    if (record_write(line, &was, was_c) != RC_OK)
        return false;
    memset(&is, 0x5a, sizeof is);
    memset(is_c, 0x5a, sizeof is_c);
    if (record_read(line->data, line->len - 1, &is, is_c, &e) != RC_OK) {
        fprintf(stderr, "%s\nof %s", e.message, line->data);
        return false;
    }
    return is.kind == was.kind && is.node == was.node && is.at_us == was.at_us;
}

/* What it holds is what was filled in: written again it is the same text, and no table knows a difference. */
static void every_member_comes_back(void)
{
    uint64_t random = 11;
    struct strbuf line, again;
    char text[RECORD_DIFFERENCE_BYTES];
    strbuf_init(&line, RECORD_LINE_MAX);
    strbuf_init(&again, RECORD_LINE_MAX);
    for (int round = 0; round < 40 * RECORD_KINDS; round++) {
        const enum record_kind k = (enum record_kind)(round % RECORD_KINDS);
        fill_event(k, &random);
        line.data = line.data ? line.data : spw_calloc(1, 1);
        CHECK(comes_back(&line));
        strbuf_clear(&again);
        CHECK(record_write(&again, &is, is_c) == RC_OK);
        CHECK_STR(again.data, line.data);
        if ((int)k != ROUTER_CHOSE)
            continue;
        CHECK(!record_choices_differ(&was.u.choice, &is.u.choice, text));
        for (int i = 0; i < was.u.choice.n; i++)
            CHECK(!record_candidates_differ(&was_c[i], &is_c[i], text));
    }
    strbuf_fini(&line);
    strbuf_fini(&again);
}

static void the_last_bit_is_a_difference(void)
{
    char text[RECORD_DIFFERENCE_BYTES];
    struct record_candidate a = {.t.money = 1.0, .c.rank = 3}, b = a;
    CHECK(!record_candidates_differ(&a, &b, text));
    b.t.money = nextafter(1.0, 2);
    CHECK(record_candidates_differ(&a, &b, text));
    CHECK_STR(text, "money is 1.0000000000000002, was 1");
    b = a;
    b.c.latency.tpot.odd = -0.0;
    CHECK(record_candidates_differ(&a, &b, text));
    CHECK_STR(text, "tpot_odd is -0, was 0");
    b = a;
    b.reason = ROUTE_DEARER;
    CHECK(record_candidates_differ(&a, &b, text));
    CHECK_STR(text, "reason is dearer, was chosen");
}

/* ---- lived again ------------------------------------------------------------------------------------------------------ */

static struct recorder *record_to(const char *path, int64_t bytes_max)
{
    struct recorder *r = NULL;
    struct error e = {0};
    const struct recorder_options o = {
        .path = path, .bytes_max = bytes_max, .clock = &clock_system, .log = &quiet, .version = "test"};
    if (recorder_new(&r, &o, &e) != RC_OK)
        CHECK_STR(e.message, "");
    return r;
}

static struct replay_result replayed(const char *path)
{
    struct replay_result r;
    struct error e = {0};
    if (replay_run(path, NULL, &r, &e) != RC_OK)
        CHECK_STR(e.message, "");
    if (r.first)
        fprintf(stderr, "%s:%lld: %s\n", path, (long long)r.first->line, r.first->text);
    CHECK(!r.first && r.decisions_differ == 0 && r.events_differ == 0);
    return r;
}

static struct recorder_stats live_on_record(const char *path, int steps, int64_t bytes_max, uint64_t seed)
{
    const struct router_size size = {.nodes = LIFE_NODES, .pairs = 30};
    struct recorder *record = record_to(path, bytes_max);
    struct life l = {.random = seed};
    struct error e;
    CHECK(router_new(&l.r, &size, &e) == RC_OK);
    recorder_listen_locked(record, l.r, &size);
    recorder_name_locked(record, RECORD_NODE, 0, "first");
    life_begin(&l);
    for (int i = 0; i < steps; i++)
        life_step(&l);
    const struct recorder_stats s = recorder_stats(record);
    router_free(l.r);
    recorder_free(record);
    return s;
}

static void a_life_is_lived_again(void)
{
    const char *path = path_of("life");
    for (uint64_t run = 1; run <= 3; run++) {
        const struct recorder_stats s = live_on_record(path, 900, INT64_C(1) << 30, run);
        CHECK(s.records && s.missed == 0);
        struct replay_result r = replayed(path);
        CHECK_INT(r.runs, (int64_t)run);
        CHECK(r.decisions > 200 * (int64_t)run && r.cut_off == 0);
        CHECK_STR(r.ended, "stopped");
        replay_result_fini(&r);
    }
}

/* Faster than any disk, and longer than the file may be: what is there is as good as ever. */
static void it_ends_without_holes(void)
{
    struct stat st;
    const char *path = path_of("slow");
    struct recorder_stats s = live_on_record(path, 30000, INT64_C(1) << 30, 7);
    struct replay_result r = replayed(path);
    CHECK(s.missed == 0 || !s.records);
    CHECK_STR(r.ended, s.missed ? "the disk is too slow" : "stopped");
    CHECK(r.decisions > 300);
    replay_result_fini(&r);
    path = path_of("small");
    live_on_record(path, 500, 300000, 8);
    CHECK(stat(path, &st) == 0 && st.st_size <= 300000 && st.st_size > 250000);
    r = replayed(path);
    CHECK_STR(r.ended, "it has its size: routing.record_max_bytes");
    CHECK(r.decisions > 10);
    replay_result_fini(&r);
    s = live_on_record(path, 10, 300000, 9); /* nobody fails for it */
    CHECK(!s.records && s.events == 0 && s.missed > 10);
}

static void a_crash_leaves_a_run(void)
{
    const char *path = path_of("crash");
    struct stat st;
    live_on_record(path, 300, INT64_C(1) << 30, 4);
    CHECK(stat(path, &st) == 0 && truncate(path, st.st_size - 100) == 0);
    struct replay_result r = replayed(path);
    CHECK(r.cut_off == 1 && !*r.ended);
    replay_result_fini(&r);
    live_on_record(path, 300, INT64_C(1) << 30, 5);
    r = replayed(path);
    CHECK(r.runs == 2 && r.cut_off == 1);
    CHECK_STR(r.ended, "stopped");
    replay_result_fini(&r);
}

/* Waits until the file is larger than that; returns its size. */
static int64_t grows_beyond(const char *path, int64_t size)
{
    struct stat st = {0};
    for (int i = 0; i < 3000 && (stat(path, &st) != 0 || st.st_size <= size); i++)
        usleep(10000);
    CHECK(st.st_size > size);
    return st.st_size;
}

/* What comes after a while in which nothing came is soon in the file, too, and not when a buffer is full. */
static void a_quiet_router_is_written_down(void)
{
    const char *path = path_of("quiet");
    const struct router_size size = {.nodes = 1, .pairs = 1};
    struct recorder *record = record_to(path, INT64_C(1) << 30);
    struct router *r = NULL;
    struct error e;
    int64_t bytes = 0;
    CHECK(router_new(&r, &size, &e) == RC_OK);
    recorder_listen_locked(record, r, &size);
    for (int i = 0; i < 3; i++) {
        bytes = grows_beyond(path, bytes);
        usleep(3 * RECORDER_GATHER_MS * 1000);
        recorder_name_locked(record, RECORD_NODE, 0, "first");
    }
    grows_beyond(path, bytes);
    router_free(r);
    recorder_free(record);
}

/* ---- the simulator ------------------------------------------------------------------------------------------------------- */

static void listen_cb(struct router *r, const struct router_size *size, const int64_t *now_us, void *recorder)
{
    CHECK(*now_us == 0);
    recorder_listen_locked(recorder, r, size);
}

/* Its router is told and asked as the daemon's is, so the same program lives its runs again. */
static void a_simulation_is_lived_again(void)
{
    const char *path = path_of("simulation");
    struct sim_model model = synthetic_model();
    struct sim_type type = synthetic_type();
    static const int64_t at[] = {0}, price[] = {INT64_C(1000000000000)}, count[] = {6};
    const struct sim_offer offers[] = {
        {.provider = "own", .zone = "cellar", .market = SCALE_ON_PREM, .running = 1, .asleep = 1},
        {.provider = "aws",
         .zone = "a",
         .market = SCALE_SPOT,
         .domain = 1,
         .site = -1,
         .price_hours = {at, price, 1, 0},
         .available = {at, count, 1, 0},
         .launch_max = 6,
         .running = 2,
         .boot_us = 20000000,
         .notice_us = 500000,
         .losses_per_hour = 20}};
    const struct tariff tariff = {.uusd_per_kwh = 120000};
    const struct sim_site site = {.name = "cellar", .tariff = &tariff, .overhead = 1.2};
    const struct sim_api api = {.provider = "api",
                                .prices = {.input = {500000}, .output = {1500000}},
                                .ttft_us = 400000,
                                .tpot_us = 20000,
                                .spread = 0.3};
    struct sim_scenario s = {.name = "recorded",
                             .models = &model,
                             .types = &type,
                             .offers = offers,
                             .sites = &site,
                             .apis = &api,
                             .n_models = 1,
                             .n_types = 1,
                             .n_offers = 2,
                             .n_sites = 1,
                             .n_apis = 1,
                             .seed = 1};
    struct synthetic trace = {.seed = 5, .rate = 20, .n = 700, .prompt = 800, .output = 200, .models = 1, .local = 0.2};
    const struct sim_source source = synthetic_source(&trace);
    struct recorder *record = record_to(path, INT64_C(1) << 30);
    const struct sim_options o = {.router = listen_cb, .arg = record};
    struct sim_result r;
    struct error e = {0};
    model.scaled = true;
    model.api.allowed = true;
    CHECK(sim_run(&s, &source, &o, &r, &e) == RC_OK);
    CHECK_STR(e.message, "");
    sim_result_fini(&r);
    CHECK(recorder_stats(record).missed == 0);
    recorder_free(record);
    struct replay_result again = replayed(path);
    CHECK(again.decisions >= 700 && again.candidates > 2 * again.decisions);
    replay_result_fini(&again);
}

/* ---- what is none ------------------------------------------------------------------------------------------------------ */

static void noise_is_refused(void)
{
    uint64_t random = 3;
    const char *path = path_of("noise");
    struct strbuf text;
    struct error e;
    live_on_record(path_of("good"), 60, INT64_C(1) << 30, 4);
    CHECK(file_read(&text, path_of("good"), (size_t)1 << 24, &e) == RC_OK);
    path = path_of("noise");
    int refused = 0;
    for (int i = 0; i < 300; i++) { /* whatever becomes of it: no crash, and a message or a difference */
        struct replay_result r;
        FILE *f = fopen(path, "w");
        char *byte = text.data + next_random(&random) % text.len, before = *byte;
        *byte = (char)next_random(&random);
        fwrite(text.data, 1, text.len, f);
        fclose(f);
        *byte = before;
        const enum rc rc = replay_run(path, NULL, &r, &e);
        CHECK(rc == RC_OK || (rc == RC_INVALID && strstr(e.message, path)));
        refused += rc != RC_OK;
        if (rc == RC_OK)
            replay_result_fini(&r);
    }
    CHECK(refused > 100);
    strbuf_fini(&text);
}

int main(void)
{
    CHECK(mkdtemp(folder));
    TEST(every_member_comes_back);
    TEST(the_last_bit_is_a_difference);
    TEST(a_life_is_lived_again);
    TEST(it_ends_without_holes);
    TEST(a_crash_leaves_a_run);
    TEST(a_quiet_router_is_written_down);
    TEST(a_simulation_is_lived_again);
    TEST(noise_is_refused);
    help_remove_folder(folder);
    return TEST_RESULT();
}
