/* Proves that lines reach the reader whole and in order, that warnings do not wait, that a reader who does not read
 * holds nobody up and costs lines that are counted, and that the last lines are written at the end. Numbers and times
 * that are put without printf are checked against printf here, too.
 * links: spw_base */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/log_sink.h"
#include "base/text.h"

#define WRITERS 4
#define LINES   2000

static struct log_sink *sink;

static void *writer_main(void *arg)
{
    int who = *(int *)arg;
    for (int i = 0; i < LINES; i++) {
        char line[64];
        int n = snprintf(line, sizeof line, "%d %d\n", who, i);
        CHECK(log_sink_put(sink, line, (size_t)n, LOG_SINK_GATHER));
    }
    return NULL;
}

static void lines_are_whole_and_in_order(void)
{
    char path[] = "/tmp/spw-sink-XXXXXX";
    int fd = mkstemp(path), next[WRITERS] = {0}, names[WRITERS];
    pthread_t threads[WRITERS];
    struct error e;

    CHECK(fd >= 0 && log_sink_new(&sink, fd, &e) == RC_OK);
    for (int i = 0; i < WRITERS; i++) {
        names[i] = i;
        CHECK(pthread_create(&threads[i], NULL, writer_main, &names[i]) == 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(log_sink_dropped(sink), 0);
    log_sink_free(sink); /* writes the rest */
    FILE *f = fopen(path, "r");
    char line[64];
    int total = 0;
    while (f && fgets(line, sizeof line, f)) {
        int who = -1, i = -1;
        CHECK_INT(sscanf(line, "%d %d\n", &who, &i), 2);
        CHECK(who >= 0 && who < WRITERS && i == next[who]);
        if (who >= 0 && who < WRITERS)
            next[who]++;
        total++;
    }
    CHECK_INT(total, WRITERS * LINES);
    fclose(f);
    close(fd);
    unlink(path);
}

static void a_warning_does_not_wait_for_company(void)
{
    int pipes[2];
    struct error e;
    char text[256];

    CHECK(pipe(pipes) == 0 && log_sink_new(&sink, pipes[1], &e) == RC_OK);
    struct log l = {.fd = pipes[1], .sink = sink, .level = LOG_INFO, .clock = &clock_system, .program = "test"};
    log_info(&l, "a", "first", LOG_I("i", 1));
    log_warn(&l, "a", "second", LOG_I("i", 2));
    ssize_t n = read(pipes[0], text, sizeof text - 1); /* one write has both, or two have one each, in order */
    CHECK(n > 0);
    text[n > 0 ? n : 0] = '\0';
    CHECK(strstr(text, "\"message\":\"first\"") != NULL);
    log_sink_free(sink);
    close(pipes[0]);
    close(pipes[1]);
}

/* Nobody reads the pipe: putting goes on at once, and what has no room is counted and told. */
static void a_slow_reader_costs_lines_and_not_time(void)
{
    static char line[4096], text[8 << 20];
    int pipes[2], kept = 0;
    size_t got = 0;
    struct error e;

    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    CHECK(pipe(pipes) == 0 && log_sink_new(&sink, pipes[1], &e) == RC_OK);
    for (int i = 0; i < 1000; i++) /* 4 MiB into 2 MiB of buffers and 64 KiB of pipe */
        kept += log_sink_put(sink, line, sizeof line, LOG_SINK_GATHER);
    uint64_t dropped = log_sink_dropped(sink);
    CHECK(dropped > 0 && kept + (int)dropped == 1000);
    /* The lines that were kept and, among or behind them, the note about the others. */
    while (got < (size_t)kept * sizeof line || !strstr(text, "lines were dropped")) {
        ssize_t n = read(pipes[0], text + got, sizeof text - got - 1);
        CHECK(n > 0);
        if (n <= 0)
            break;
        got += (size_t)n;
        text[got] = '\0';
    }
    log_sink_free(sink);
    close(pipes[0]);
    close(pipes[1]);
}

static void numbers_are_printfs(void)
{
    static const int64_t values[] = {0, 1, -1, 9, 10, -10, 99, 100, 1234567890123, INT64_MAX, INT64_MIN, INT64_MIN + 1};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char want[32], got[TEXT_INT_MAX + 1];
        snprintf(want, sizeof want, "%" PRId64, values[i]);
        *text_put_int(got, values[i]) = '\0';
        CHECK_STR(got, want);
    }
}

static void times_are_the_librarys(void)
{
    static const int64_t seconds[] = {
        0,  86399,  86400,  951782400,   951868799,   951868800, 1709164800, 4107542399, 4107542400, 9223372036,
        -1, -86400, -86401, -2208988800, -9223372036, 1e9,       1703980800, 1735689599, 1735689600};
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        char want[32], got[32];
        time_t t = (time_t)seconds[i];
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(want, sizeof want, "%Y-%m-%dT%H:%M:%S.007Z", &tm);
        CHECK_STR(wall_format((struct wall){seconds[i] * NS_PER_S + 7999999}, got, sizeof got), want);
    }
    char small[5];
    CHECK_STR(wall_format((struct wall){0}, small, sizeof small), "1970");
}

int main(void)
{
    TEST(lines_are_whole_and_in_order);
    TEST(a_warning_does_not_wait_for_company);
    TEST(a_slow_reader_costs_lines_and_not_time);
    TEST(numbers_are_printfs);
    TEST(times_are_the_librarys);
    return TEST_RESULT();
}
