/* Errors, memory, clock, money, JSON, YAML, log lines: what the rest of the house stands on.
 * links: spw_base */
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/money.h"
#include "base/text.h"
#include "base/yaml.h"
#include "tests/unit/test.h"

static void errors_keep_cause_and_code(void)
{
    struct error e;
    CHECK_INT(error_set(&e, RC_FULL, "queue of %d", 3), RC_FULL);
    CHECK_INT(error_prefix(&e, "node %s", "a"), RC_FULL);
    CHECK_STR(e.message, "node a: queue of 3");
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    error_set(&e, RC_IO, "%s", long_text);
    error_prefix(&e, "p");
    CHECK(strlen(e.message) < sizeof e.message);
    CHECK(memcmp(e.message, "p: xxx", 6) == 0);
    CHECK_INT(error_set(NULL, RC_IO, "nobody listens"), RC_IO);
}

static int hook_order[2], hook_count;
static void hook(void *arg)
{
    hook_order[hook_count++ % 2] = *(int *)arg;
}

static void arenas_bound_align_and_run_hooks(void)
{
    struct arena *a = arena_new(10000);
    for (int i = 0; i < 50; i++) {
        char *p = arena_alloc(a, (size_t)i + 1);
        CHECK(p && (uintptr_t)p % 16 == 0 && p[i] == 0);
        memset(p, 0xff, (size_t)i + 1);
    }
    CHECK(arena_alloc(a, 9999) == NULL);
    CHECK(arena_alloc(a, SIZE_MAX) == NULL);
    CHECK_STR(arena_printf(a, "%d-%s", 7, "x"), "7-x");
    CHECK_STR(arena_strndup(a, "hello", 3), "hel");
    int one = 1, two = 2;
    arena_cleanup(a, hook, &one);
    arena_cleanup(a, hook, &two);
    arena_free(a);
    CHECK_INT(hook_count, 2);
    CHECK_INT(hook_order[0], 2);
    CHECK_INT(hook_order[1], 1);
    arena_free(NULL);
}

static void strbufs_stop_at_their_maximum(void)
{
    struct strbuf b;
    strbuf_init(&b, 10);
    CHECK_INT(strbuf_puts(&b, "12345"), RC_OK);
    CHECK_INT(strbuf_printf(&b, "%s", "678901"), RC_FULL);
    CHECK_STR(b.data, "12345");
    CHECK_INT(strbuf_printf(&b, "%d", 67890), RC_OK);
    CHECK_INT(strbuf_append(&b, "x", 1), RC_FULL);
    char *s = strbuf_take(&b);
    CHECK_STR(s, "1234567890");
    free(s);
    s = strbuf_take(&b);
    CHECK_STR(s, "");
    free(s);
    size_t r;
    CHECK(size_mul_add(3, 4, 5, &r) && r == 17);
    CHECK(!size_mul_add(SIZE_MAX / 2, 3, 0, &r));
    CHECK(!size_mul_add(1, SIZE_MAX, 1, &r));
}

static void clocks_scale_and_step(void)
{
    struct clock_manual m = {.wall = {INT64_C(1764000000) * NS_PER_S}};
    struct clock manual = clock_manual(&m);
    struct clock_scaled s;
    struct clock fast = clock_scale(&s, &manual, 144.0);
    struct mono start = clock_now(&fast);
    clock_advance(&m, NS_PER_S);
    CHECK_INT(mono_since(&fast, start), 144 * NS_PER_S);
    char buf[32];
    CHECK_STR(wall_format(clock_wall(&manual), buf, sizeof buf), "2025-11-24T16:00:01.000Z");
    CHECK_STR(wall_format(clock_wall(&fast), buf, sizeof buf), "2025-11-24T16:02:24.000Z");
    CHECK_STR(wall_format((struct wall){-1}, buf, sizeof buf), "1969-12-31T23:59:59.999Z");
    CHECK(clock_now(&clock_system).ns <= clock_now(&clock_system).ns);
}

static void charges_are_exact_integers(void)
{
    struct token_prices p = {{550000}, {140000}, {2190000}};
    struct pusd charge;
    CHECK_INT(money_charge(&p, &(struct token_counts){1000, 400, 7}, &charge), RC_OK);
    CHECK_INT(charge.v, 600 * 550000LL + 400 * 140000LL + 7 * 2190000LL);
    CHECK_INT(money_charge(&p, &(struct token_counts){1, 2, 0}, &charge), RC_INVALID);
    CHECK_INT(money_charge(&p, &(struct token_counts){-1, 0, 0}, &charge), RC_INVALID);
    CHECK_INT(money_charge(&p, &(struct token_counts){INT64_MAX, 0, 0}, &charge), RC_FULL);
}

static void amounts_parse(void)
{
    static const struct {
        const char *text;
        int64_t v;
    } good[] = {{"0", 0},
                {"0.05", INT64_C(50000000000)},
                {"$2", INT64_C(2000000000000)},
                {"0.000000000001", 1},
                {".5", INT64_C(500000000000)},
                {"1.", INT64_C(1000000000000)},
                {"9000000", INT64_C(9000000000000000000)},
                {"8999999.999999999999", INT64_C(8999999999999999999)}};
    static const char *const bad[] = {"",   ".",  "-1",  "+1",  "1e3",     "0.0000000000001",      "1,5",  "$",
                                      " 1", "1 ", "nan", "0x1", "9000001", "99999999999999999999", "1.2.3"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct pusd a = {-1};
        CHECK_INT(pusd_parse(good[i].text, &a, NULL), RC_OK);
        CHECK_INT(a.v, good[i].v);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct pusd a = {-1};
        struct error e;
        CHECK_INT(pusd_parse(bad[i], &a, &e), RC_INVALID);
        CHECK(a.v == -1 && strstr(e.message, bad[i]));
    }
}

/* The most that fits, and one more does not: by the charge itself. */
static void output_within_an_amount(void)
{
    static const struct token_prices prices[] = {
        {{550000}, {140000}, {2190000}}, {{1}, {3}, {7}}, {{0}, {0}, {1000000000}}};
    for (size_t i = 0; i < sizeof prices / sizeof prices[0]; i++) {
        const struct token_prices *p = &prices[i];
        for (int64_t max = 0; max < INT64_C(40000000000); max = max * 3 + 1) {
            for (int64_t input = 0; input < 20000; input = input * 5 + 1) {
                int64_t n = money_output_within(p, (struct pusd){max}, input);
                bool cached = p->cached_input.uusd_per_mtok > p->input.uusd_per_mtok;
                struct token_counts all = {input, cached ? input : 0, n < 0 ? 0 : n};
                struct pusd charge;
                CHECK_INT(money_charge(p, &all, &charge), RC_OK);
                CHECK(n < 0 ? charge.v > max : charge.v <= max);
                all.output++;
                CHECK_INT(money_charge(p, &all, &charge), RC_OK);
                CHECK(charge.v > max);
            }
        }
    }
    CHECK_INT(money_output_within(&(struct token_prices){{5}, {5}, {0}}, (struct pusd){10}, 2), INT64_MAX);
    CHECK_INT(money_output_within(&(struct token_prices){{5}, {5}, {0}}, (struct pusd){9}, 2), -1);
    CHECK_INT(money_output_within(&prices[0], (struct pusd){INT64_MAX}, INT64_MAX), -1);
}

static void prices_parse_and_print(void)
{
    struct {
        const char *text;
        int64_t uusd;
        const char *printed;
    } good[] = {{"0.55", 550000, "0.55"}, {"2", 2000000, "2.00"},      {"$0.0028", 2800, "0.0028"},
                {"0", 0, "0.00"},         {"0.000001", 1, "0.000001"}, {"1000", 1000000000, "1000.00"},
                {".5", 500000, "0.50"}};
    char buf[48];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct price p = {-1};
        CHECK_INT(price_parse(good[i].text, &p, NULL), RC_OK);
        CHECK_INT(p.uusd_per_mtok, good[i].uusd);
        CHECK_STR(price_format(p, buf, sizeof buf), good[i].printed);
    }
    const char *bad[] = {"", ".", "-1", "1e3", "0.0000001", "1001", "1.2.3", "$", "1 ", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct price p;
        struct error e = {0};
        CHECK_INT(price_parse(bad[i], &p, &e), RC_INVALID);
        CHECK(e.message[0]);
    }
    CHECK_STR(pusd_format((struct pusd){123456}, buf, sizeof buf), "0.000000123456");
    CHECK_STR(pusd_format((struct pusd){-1500000000000}, buf, sizeof buf), "-1.50");
    CHECK_STR(pusd_format((struct pusd){INT64_MIN}, buf, sizeof buf), "-9223372.036854775808");
    struct pusd_sum sum = {0};
    for (int i = 0; i < 4; i++)
        pusd_sum_add(&sum, (struct pusd){INT64_MAX});
    CHECK_STR(pusd_sum_format(sum, buf, sizeof buf), "36893488.147419103228");
}

static enum rc parse(const char *text)
{
    cJSON *root;
    struct error e;
    enum rc rc = json_parse(text, strlen(text), 8, &root, &e);
    cJSON_Delete(root);
    return rc;
}

static void times_are_strict(void)
{
    const char *bad[] = {
        "",           "2027-1-01",           "2027-13-01",           "2027-02-29",           "2027-04-31",
        "1969-12-31", "2027-01-01T",         "2027-01-01 00:00:00Z", "2027-01-01T24:00:00Z", "2027-01-01T00:00:00",
        "+027-01-01", "2027-01-01T00:00:0xZ"};
    int64_t s = 0;
    CHECK_INT(text_parse_utc("1970-01-01", &s), RC_OK);
    CHECK_INT(s, 0);
    CHECK_INT(text_parse_utc("2028-02-29T23:59:59Z", &s), RC_OK);
    CHECK_INT(s, 1835481599);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_INT(text_parse_utc(bad[i], &s), RC_INVALID);
}

static void times_with_zones_are_read(void)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"1970-01-01T00:00:00Z", 0},
                {"1970-01-01t01:30:00.5+01:30", 500},
                {"1969-12-31T23:59:59Z", -1},
                {"1970-01-01T00:00:00-00:01", 60000},
                {"2028-02-29T23:59:60.123456789z", 1835481599123}};
    const char *bad[] = {"1970-01-01",
                         "1970-01-01T00:00:00",
                         "1970-01-01T00:00:00.Z",
                         "1970-01-01 00:00:00Z",
                         "1970-01-01T00:00:00+0100",
                         "1970-01-01T00:00:00+24:00",
                         "1970-01-01T00:00:00Zx",
                         "2027-02-29T00:00:00Z"};
    int64_t ms = 0;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        bool fine = good[i].ms >= 0; /* nothing before 1970 */
        CHECK_INT(text_parse_time_ms(good[i].text, &ms), fine ? RC_OK : RC_INVALID);
        if (fine)
            CHECK_INT(ms, good[i].ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_INT(text_parse_time_ms(bad[i], &ms), RC_INVALID);
}

static void json_from_outside_is_bounded(void)
{
    CHECK_INT(parse("{\"a\":[1,2,{\"b\":null}]}"), RC_OK);
    CHECK_INT(parse(" [] \n"), RC_OK);
    CHECK_INT(parse("\"\\ud83d\\ude00\""), RC_OK);
    const char *bad[] = {"",
                         "{",
                         "{}x",
                         "{}{}",
                         "[[[[[[[[[1]]]]]]]]]",
                         "{\"a\":1,\"b\":2,\"a\":3}",
                         "[{\"x\":{\"k\":1,\"k\":1}}]",
                         "\"\xff\"",
                         "\"\xed\xa0\x80\"",
                         "\"\xc0\xaf\"",
                         "\"\\ud800\"",
                         "\"a\\u0000b\"",
                         "\"line\nbreak\"",
                         "nul",
                         "[1,\v2]",
                         "\f{}",
                         "[\x01]",
                         "[1\x1f]",
                         "01",
                         "-01",
                         "[00]",
                         "{\"a\":-00.5}",
                         "[1,010]",
                         "1.",
                         "[1.]",
                         "-.5",
                         "1.e5",
                         ".5"};
    const char *good[] = {"0",          "-0",       "[0,-0,0.0,-0.01]", "[10,100,1.05,1.0e05,2E-007,3e+01]",
                          "\t[ 1\r\n]", "\"01 .5\""};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_INT(parse(good[i]), RC_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_INT(parse(bad[i]), RC_INVALID);
    cJSON *root;
    CHECK_INT(json_parse("[1]\0", 4, 8, &root, NULL), RC_INVALID);
    struct strbuf many;
    strbuf_init(&many, (size_t)4 << 20);
    CHECK_INT(strbuf_puts(&many, "[0"), RC_OK);
    for (int i = 1; i < JSON_VALUES_MAX; i++)
        CHECK_INT(strbuf_puts(&many, ",0"), RC_OK);
    CHECK_INT(strbuf_puts(&many, "]"), RC_OK);
    CHECK_INT(json_parse(many.data, many.len, 8, &root, NULL), RC_OK);
    cJSON_Delete(root);
    many.len--;
    CHECK_INT(strbuf_puts(&many, ",0]"), RC_OK);
    CHECK_INT(json_parse(many.data, many.len, 8, &root, NULL), RC_INVALID);
    strbuf_fini(&many);
}

/* A document is the tree that cJSON itself makes, and knows where its values stand. */
static void json_documents_are_cjsons_trees(void)
{
    const char *texts[] = {
        "{\"a\":[1,-2,3.25,1e3,true,false,null,\"x\",[],{}],\"b\":{\"c\":\"d\"}}",
        " [ 123456789012345 , 1234567890123456789, -0.001, 1.5E-7, 9007199254740993 ] ",
        "\"\\u00e9\\ud83d\\ude00\\n\\t\\/\\\\\\\"\\b\\f\\r \xc3\xa9 plain text that is longer than a word\"",
        "{\"\":\"\",\"k\\u0065y\":\"\\u0041\"}",
        "[[[[1,2],[3]],[]],{\"a\":{\"a\":{\"a\":0}}}]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct json_doc d;
        struct error e;
        cJSON *want = cJSON_Parse(texts[i]), *copy = NULL;
        CHECK_INT(json_doc_parse(&d, texts[i], strlen(texts[i]), 8, &e), RC_OK);
        CHECK(want && cJSON_Compare(want, d.root, true));
        CHECK_INT(json_parse(texts[i], strlen(texts[i]), 8, &copy, &e), RC_OK);
        CHECK(cJSON_Compare(want, copy, true));
        json_doc_fini(&d);
        cJSON_Delete(want);
        cJSON_Delete(copy);
    }
    const char *text = "{ \"a\" : [1, 2 ] ,\"\\u0062\":\"x\\n\" , \"c\":-1.5e3}";
    const char *wants[] = {"[1, 2 ]", "\"x\\n\"", "-1.5e3"}, *names[] = {"a", "b", "c"},
               *written[] = {"a", "\\u0062", "c"};
    struct json_doc d;
    CHECK_INT(json_doc_parse(&d, text, strlen(text), 8, NULL), RC_OK);
    for (int i = 0; i < 3; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(d.root, names[i]);
        size_t n = 0;
        const char *at = item ? json_doc_text(item, &n) : "";
        CHECK(n == strlen(wants[i]) && memcmp(at, wants[i], n) == 0);
        const char *name = item ? json_doc_name(d.root, item, &n) : "";
        CHECK(n == strlen(written[i]) && memcmp(name, written[i], n) == 0);
    }
    json_doc_fini(&d);
    const char *odd = "{\"\":0,\n\"a,\\\"\\\\\" :\t\":\"}";
    size_t n;
    CHECK_INT(json_doc_parse(&d, odd, strlen(odd), 8, NULL), RC_OK);
    CHECK(json_doc_name(d.root, d.root->child, &n) == odd + 2 && n == 0);
    CHECK(json_doc_name(d.root, d.root->child->next, &n) == odd + 8 && n == 6);
    json_doc_fini(&d);
}

/* Whatever is cut off or changed, nothing is read beyond the end, and what is refused leaves nothing behind. */
static void json_cut_anywhere_is_refused(void)
{
    const char *text =
        "{\"a\":[1,-2.5e+3,true,\"\\ud83d\\ude00\xc3\xa9\",{\"k\":null}],\"b\":\"0123456789abcdef\\u0041\"}";
    size_t n = strlen(text);
    for (size_t cut = 0; cut < n; cut++) {
        char *part = spw_malloc(cut); /* of its very size, for the sanitizer */
        memcpy(part, text, cut);
        struct json_doc d;
        CHECK_INT(json_doc_parse(&d, part, cut, 8, NULL), RC_INVALID);
        for (size_t i = 0; i < cut; i++) {
            char kept = part[i];
            part[i] ^= 0x80;
            if (json_doc_parse(&d, part, cut, 8, NULL) == RC_OK)
                json_doc_fini(&d);
            part[i] = kept;
        }
        free(part);
    }
}

static void json_members_say_what_is_wrong(void)
{
    cJSON *o;
    struct error e;
    const char *text = "{\"i\":5,\"f\":1.5,\"s\":\"x\",\"b\":true,\"n\":null,\"big\":1e300}";
    CHECK_INT(json_parse(text, strlen(text), 8, &o, &e), RC_OK);
    int64_t i = 9;
    double d = 0;
    bool b = false, found = true;
    const char *s = NULL;
    CHECK_INT(json_get_int(o, "i", 0, 10, &i, &found, &e), RC_OK);
    CHECK(found && i == 5);
    CHECK_INT(json_get_int(o, "n", 0, 10, &i, &found, &e), RC_OK);
    CHECK(!found && i == 5);
    CHECK_INT(json_get_int(o, "i", 6, 10, &i, NULL, &e), RC_INVALID);
    CHECK_STR(e.message, "'i' must be from 6 to 10");
    CHECK_INT(json_get_int(o, "f", 0, 10, &i, NULL, &e), RC_INVALID);
    CHECK_INT(json_get_int(o, "big", INT64_MIN, INT64_MAX, &i, NULL, &e), RC_INVALID);
    CHECK_INT(json_get_double(o, "f", 0, 2, &d, NULL, &e), RC_OK);
    CHECK(d == 1.5);
    CHECK_INT(json_get_double(o, "s", 0, 2, &d, NULL, &e), RC_INVALID);
    CHECK_INT(json_get_bool(o, "b", &b, NULL, &e), RC_OK);
    CHECK(b);
    CHECK_INT(json_get_string(o, "s", &s, NULL, &e), RC_OK);
    CHECK_STR(s, "x");
    CHECK_INT(json_get_string(o, "i", &s, NULL, &e), RC_INVALID);
    cJSON_Delete(o);
}

static void json_strings_escape(void)
{
    struct strbuf b;
    strbuf_init(&b, 1000);
    const char in[] = "a\"\\\n\r\t\x01\x7f\xc3\xa9\xff\xe2\x82z";
    CHECK_INT(json_append_string(&b, in, sizeof in - 1), RC_OK);
    CHECK_STR(b.data, "\"a\\\"\\\\\\n\\r\\t\\u0001\\u007f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\"");
    strbuf_fini(&b);
    bool incomplete;
    CHECK_INT(utf8_valid_prefix("ab\xe2\x82", 4, &incomplete), 2);
    CHECK(incomplete);
    CHECK_INT(utf8_valid_prefix("ab\xff", 3, &incomplete), 2);
    CHECK(!incomplete);
}

static void yaml_keeps_lines(void)
{
    struct yaml_doc *d;
    struct error e;
    const char *text = "a: 1\nb:\n  - x: 'q'\n    y: 2\n  - z\n";
    CHECK_INT(yaml_parse(&d, text, strlen(text), "f.yaml", &e), RC_OK);
    const struct yaml_node *b = yaml_get(yaml_root(d), "b");
    CHECK(b && b->kind == YAML_KIND_LIST && b->n_items == 2);
    CHECK_INT(yaml_get(b->items[0], "y")->line, 4);
    CHECK(!yaml_get(b->items[0], "x")->plain && yaml_get(b->items[0], "y")->plain);
    CHECK(yaml_get(yaml_root(d), "c") == NULL);
    yaml_doc_free(d);
    CHECK_INT(yaml_parse(&d, "", 0, "f.yaml", &e), RC_OK);
    CHECK(yaml_root(d)->kind == YAML_KIND_MAP && yaml_root(d)->n_items == 0);
    yaml_doc_free(d);
    const char *bad[][2] = {{"a: 1\na: 2\n", "f.yaml:2: a: given twice, first at line 1"},
                            {"a: &x 1\n", "f.yaml:1: anchors and tags are not used here; write the value out"},
                            {"a: *x\n", NULL},
                            {"a: [1\n", NULL},
                            {"a: 1\n---\nb: 2\n", NULL},
                            {"? [x]\n: 1\n", "f.yaml:1: a key must be a plain word"},
                            {"\t- a", NULL}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_INT(yaml_parse(&d, bad[i][0], strlen(bad[i][0]), "f.yaml", &e), RC_INVALID);
        if (bad[i][1])
            CHECK_STR(e.message, bad[i][1]);
    }
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    CHECK_INT(yaml_parse(&d, deep, sizeof deep, "f.yaml", &e), RC_INVALID);
    CHECK_INT(yaml_load(&d, "/nonexistent/x.yaml", &e), RC_NOT_FOUND);
}

static void log_lines_are_whole_json(void)
{
    char path[] = "/tmp/spillway-log-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    struct log l = {.fd = fd, .level = LOG_INFO, .clock = &clock_system, .program = "test"};
    log_debug(&l, "area", "not written", LOG_I("x", 1));
    log_info(&l, "area", "say \"hi\"", LOG_S("s", "a\nb"), LOG_I("i", -5), LOG_B("b", true), LOG_S("none", NULL),
             LOG_D("d", 0.5));
    char big[4000];
    memset(big, 1, sizeof big);
    big[sizeof big - 1] = '\0';
    log_info(&l, "area", "big", LOG_S("a", big), LOG_S("b", big), LOG_S("c", big), LOG_S("d", big));
    char text[100000];
    ssize_t n = pread(fd, text, sizeof text, 0);
    CHECK(n > 0);
    int lines = 0;
    for (char *p = text, *end; n > 0 && p < text + n; p = end + 1, lines++) {
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end)
            break;
        cJSON *o;
        CHECK_INT(json_parse(p, (size_t)(end - p), 4, &o, NULL), RC_OK);
        if (lines == 0)
            CHECK_STR(cJSON_GetObjectItem(o, "message")->valuestring, "say \"hi\"");
        else
            CHECK(cJSON_IsTrue(cJSON_GetObjectItem(o, "truncated")));
        cJSON_Delete(o);
    }
    CHECK_INT(lines, 2);
    close(fd);
    enum log_level level;
    CHECK(log_level_parse("warn", &level) == 0 && level == LOG_WARN);
    CHECK(log_level_parse("loud", &level) != 0);
}

static void secrets_read_without_their_newline(void)
{
    char path[] = "/tmp/spillway-key-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, "abc\r\n", 5) == 5);
    struct error e;
    char *secret;
    CHECK_INT(file_read_secret(&secret, path, &e), RC_OK);
    CHECK_STR(secret, "abc");
    free(secret);
    CHECK(ftruncate(fd, 0) == 0);
    CHECK_INT(file_read_secret(&secret, path, &e), RC_INVALID);
    struct strbuf b;
    CHECK(write(fd, "0123456789", 10) == 10);
    CHECK_INT(file_read(&b, path, 4, &e), RC_FULL);
    strbuf_fini(&b);
    int64_t v = -1;
    CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, "-1\n", 3, 0) == 3 && !file_read_int(path, &v) && v == -1);
    CHECK(pwrite(fd, "262143328850\nand more\n", 22, 0) == 22 && file_read_int(path, &v));
    CHECK_INT(v, 262143328850);
    CHECK(ftruncate(fd, 0) == 0 && !file_read_int(path, &v));
    close(fd);
    unlink(path);
}

/* Up to the hard limit, and never down. */
static void more_files_may_be_open(void)
{
    struct rlimit before, few, now;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0 && before.rlim_max >= 64);
    few = (struct rlimit){.rlim_cur = 40, .rlim_max = before.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK_INT(file_may_open(20), 40);
    CHECK_INT(file_may_open(50), 50);
    const int64_t all = file_may_open(INT64_MAX);
    CHECK(getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur == before.rlim_max && now.rlim_max == before.rlim_max);
    CHECK(before.rlim_max == RLIM_INFINITY ? all == INT64_MAX : all == (int64_t)before.rlim_max);
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

static void bytes_are_written_as_text(void)
{
    char hex[7], *code;
    CHECK_STR(text_hex(hex, "\x00\xa7\xff", 3), "00a7ff");
    CHECK_STR(text_hex(hex, "", 0), "");
    static const char *const vectors[] = {"",     "",    "f",    "Zg==", "fo",
                                          "Zm8=", "foo", "Zm9v", "foob", "Zm9vYg=="}; /* RFC 4648 */
    for (int i = 0; i < 10; i += 2) {
        CHECK_STR(code = text_base64(vectors[i], strlen(vectors[i])), vectors[i + 1]);
        free(code);
    }
}

int main(void)
{
    TEST(errors_keep_cause_and_code);
    TEST(arenas_bound_align_and_run_hooks);
    TEST(strbufs_stop_at_their_maximum);
    TEST(clocks_scale_and_step);
    TEST(charges_are_exact_integers);
    TEST(prices_parse_and_print);
    TEST(amounts_parse);
    TEST(output_within_an_amount);
    TEST(times_are_strict);
    TEST(times_with_zones_are_read);
    TEST(json_from_outside_is_bounded);
    TEST(json_documents_are_cjsons_trees);
    TEST(json_cut_anywhere_is_refused);
    TEST(json_members_say_what_is_wrong);
    TEST(json_strings_escape);
    TEST(yaml_keeps_lines);
    TEST(log_lines_are_whole_json);
    TEST(secrets_read_without_their_newline);
    TEST(more_files_may_be_open);
    TEST(bytes_are_written_as_text);
    return TEST_RESULT();
}
