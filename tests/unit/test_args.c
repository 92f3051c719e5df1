/* Proves what the shared command-line parser takes and refuses, with its texts; and the words and units of base/text.
 * links: spw_base */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/args.h"
#include "base/text.h"

static struct {
    bool flag, given;
    const char *config, *format, *operand;
    int64_t n;
    double temp;
} v;

static enum rc parse(int argc, const char **argv, struct error *e)
{
    static const char *const formats[] = {"json", "table", NULL};
    v.flag = v.given = false;
    v.config = v.operand = NULL;
    v.format = "table";
    v.n = 10;
    v.temp = 1;
    const struct arg_option options[] = {
        {"config", 'c', ARG_STRING, &v.config, .meta = "FILE", .help = "the file", .env = "SPW_TEST_CONFIG"},
        {"format", 0, ARG_STRING, &v.format, .help = "the form", .choices = formats},
        {"last", 'n', ARG_INT, &v.n, .meta = "N", .help = "rows", .lo = 1, .hi = 100, .given = &v.given},
        {"temp", 0, ARG_DOUBLE, &v.temp, .meta = "T", .help = "temperature", .dlo = 0, .dhi = 2},
        {"verbose", 'v', ARG_FLAG, &v.flag, .help = "more"},
    };
    const struct arg_operand operands[] = {{"MODEL", &v.operand, "the model file", true}};
    const struct arg_spec spec = {"prog", "verb", "does it", "prog verb m -n 3", options, 5, operands, 1};
    e->message[0] = '\0';
    enum rc rc = args_parse(&spec, argc, (char **)argv, e);
    if (rc == RC_CANCELLED) {
        FILE *out = fopen("/dev/null", "w");
        args_print_help(&spec, out);
        fclose(out);
    }
    return rc;
}

#define ARGS(...)                                                                                                      \
    (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[])                                    \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define WRONG(text, ...)                                                                                               \
    do {                                                                                                               \
        struct error e_;                                                                                               \
        CHECK_INT(parse(ARGS(__VA_ARGS__), &e_), RC_INVALID);                                                          \
        CHECK_STR(e_.message, text);                                                                                   \
    } while (0)

static void test_accepted(void)
{
    struct error e;

    CHECK(parse(ARGS("--config", "a", "m", "--last=7", "-v", "--temp", "0.5", "--format=json"), &e) == RC_OK);
    CHECK_STR(v.config, "a");
    CHECK_STR(v.operand, "m");
    CHECK_STR(v.format, "json");
    CHECK(v.flag && v.given && v.n == 7 && v.temp == 0.5);
    CHECK(parse(ARGS("-c", "-x", "-n", "3", "--", "-m"), &e) == RC_OK); /* a value may look like a flag */
    CHECK_STR(v.config, "-x");
    CHECK_STR(v.operand, "-m");
    CHECK(parse(ARGS("m"), &e) == RC_OK);
    CHECK(!v.given && v.n == 10 && v.config == NULL);
    setenv("SPW_TEST_CONFIG", "from-env", 1);
    CHECK(parse(ARGS("m"), &e) == RC_OK);
    CHECK_STR(v.config, "from-env");
    CHECK(parse(ARGS("m", "-c", "flag"), &e) == RC_OK);
    CHECK_STR(v.config, "flag");
    unsetenv("SPW_TEST_CONFIG");
    CHECK(parse(ARGS("--nonsense", "--help"), &e) == RC_CANCELLED);
    CHECK(parse(ARGS("-h"), &e) == RC_CANCELLED);
}

static void test_refused(void)
{
    WRONG("MODEL is missing: the model file", "-v");
    WRONG("\"b\" is one operand too many", "a", "b");
    WRONG("unknown flag --confg; did you mean --config?", "m", "--confg", "x");
    WRONG("unknown flag --lats=4; did you mean --last?", "m", "--lats=4");
    WRONG("unknown flag --zzzzzzz; prog verb --help lists them", "m", "--zzzzzzz");
    WRONG("unknown flag -x; prog verb --help lists them", "m", "-x");
    WRONG("--last needs a value: --last N", "m", "--last");
    WRONG("--last: \"many\" is not a whole number", "m", "--last", "many");
    WRONG("--last: 0 is out of range; 1 to 100 is allowed", "m", "--last", "0");
    WRONG("-n: 101 is out of range; 1 to 100 is allowed", "m", "-n", "101");
    WRONG("--temp: 2.5 is out of range; 0 to 2 is allowed", "m", "--temp", "2.5");
    WRONG("--temp: \"nan\" is not a number", "m", "--temp", "nan");
    WRONG("--format: \"xml\" is not one of json|table", "m", "--format", "xml");
    WRONG("--verbose takes no value; write it alone", "m", "--verbose=1");
    WRONG("--last was given twice; give it once", "m", "--last", "1", "--last", "2");
}

static void test_nearest(void)
{
    const char *const words[] = {"listen", "limits", "log", "nodes", "off"};

    CHECK_STR(text_nearest("lisen", words, 5), "listen");
    CHECK_STR(text_nearest("limist", words, 5), "limits");
    CHECK_STR(text_nearest("NODES", words, 5), "nodes");
    CHECK_STR(text_nearest("of", words, 5), "off");
    CHECK(text_nearest("zebra", words, 5) == NULL);
    CHECK(text_nearest("", words, 5) == NULL);
    CHECK(text_nearest("x", words, 5) == NULL);
    char long_word[200];
    memset(long_word, 'l', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = '\0';
    CHECK(text_nearest(long_word, words, 5) == NULL);
}

static void test_words(void)
{
    for (int c = -128; c < 128; c++) { /* as the C locale has it, and nothing of another */
        const bool is = c > 0 && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", c);
        CHECK(text_is_alnum((char)c) == is);
    }
    CHECK(text_is_word("gpu-1", "-_.", 5));
    CHECK(!text_is_word("gpu-1", "-_.", 4));
    CHECK(!text_is_word("gpu-1", "_.", 64));
    CHECK(!text_is_word("", "-_.", 64));
    CHECK(!text_is_word("gp\xc3\xbc", "-_.", 64));
    CHECK(text_is_word("any length", " ", SIZE_MAX));
    CHECK(text_is_word_n("ab/", 2, "-", 64));
    CHECK(!text_is_word_n("ab/", 3, "-", 64));
    CHECK(!text_is_word_n("a\0b", 3, "-", 64)); /* the end of `beside` is none of it */
    CHECK(!text_is_word_n("ab", 0, "-", 64));
}

static void test_units(void)
{
    int64_t x = -1;
    char buf[32];

    CHECK(text_parse_duration_ms("500ms", &x) == RC_OK && x == 500);
    CHECK(text_parse_duration_ms("2h", &x) == RC_OK && x == 7200000);
    CHECK(text_parse_duration_ms("0", &x) == RC_OK && x == 0);
    CHECK(text_parse_duration_ms("5", &x) == RC_INVALID);
    CHECK(text_parse_duration_ms("5 s", &x) == RC_INVALID);
    CHECK(text_parse_duration_ms("-5s", &x) == RC_INVALID);
    CHECK(text_parse_duration_ms("1.5s", &x) == RC_INVALID);
    CHECK(text_parse_duration_ms("", &x) == RC_INVALID);
    CHECK(text_parse_duration_ms("9223372036854775807h", &x) == RC_FULL);
    CHECK(text_parse_size("32MiB", &x) == RC_OK && x == 32 << 20);
    CHECK(text_parse_size("4096", &x) == RC_OK && x == 4096);
    CHECK(text_parse_size("4mib", &x) == RC_INVALID);
    CHECK_STR(text_format_duration_ms(90000, buf, sizeof buf), "90s");
    CHECK_STR(text_format_duration_ms(120000, buf, sizeof buf), "2m");
    CHECK_STR(text_format_duration_ms(0, buf, sizeof buf), "0");
    CHECK_STR(text_format_size(1536, buf, sizeof buf), "1536");
    CHECK_STR(text_format_size(65536, buf, sizeof buf), "64KiB");
    CHECK(text_parse_int("-7", -10, 10, &x) == RC_OK && x == -7);
    CHECK(text_parse_int("11", -10, 10, &x) == RC_FULL && x == -7);
    CHECK(text_parse_int("7x", -10, 10, &x) == RC_INVALID);
    CHECK(text_parse_int("", -10, 10, &x) == RC_INVALID);
    CHECK(text_parse_int("99999999999999999999x", 0, 9, &x) == RC_INVALID);
    CHECK(text_parse_int("99999999999999999999", 0, 9, &x) == RC_FULL);
}

int main(void)
{
    TEST(test_accepted);
    TEST(test_refused);
    TEST(test_nearest);
    TEST(test_words);
    TEST(test_units);
    return TEST_RESULT();
}
