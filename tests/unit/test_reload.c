/* Proves that a changed file is taken over whole or, with every mistake told, not at all; that what needs a restart is
 * named and keeps its value; that a change between reading and answering is not lost; and that nobody waits for ever,
 * the end of the scheduler included, which takes nothing over.
 * links: spw_sched_config */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scheduler/config/reload.h"

static struct {
    struct event_base *loop;
    char path[64];
    struct config *config;
    int applied, told;
    enum rc rc, refuse;
    char json[4096];
} t;

static void write_file(const char *text)
{
    char beside[80];
    snprintf(beside, sizeof beside, "%s.new", t.path);
    FILE *f = fopen(beside, "w");
    SPW_ASSERT(f);
    fputs(text, f);
    fclose(f);
    SPW_ASSERT(rename(beside, t.path) == 0); /* whoever reads meanwhile sees the one or the other */
}

static const struct config *current(void *arg)
{
    (void)arg;
    return t.config;
}

static enum rc apply(struct config *next, struct error *e, void *arg)
{
    (void)arg;
    if (t.refuse != RC_OK)
        return error_set(e, t.refuse, "not today");
    t.applied++;
    config_free(t.config);
    t.config = next;
    return RC_OK;
}

static void done(const struct reload_report *r, void *arg)
{
    (void)arg;
    t.told++;
    t.rc = r->rc;
    snprintf(t.json, sizeof t.json, "%.*s", (int)r->json_len, r->json);
}

static struct reload *begin(const char *text)
{
    static const struct log quiet = {.fd = -1, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};
    struct strbuf problems;
    struct reload *r;
    t.applied = t.told = 0;
    t.refuse = RC_OK;
    strbuf_init(&problems, 1 << 16);
    write_file(text);
    SPW_ASSERT(config_load(&t.config, t.path, &problems) == RC_OK);
    strbuf_fini(&problems);
    struct reload_options o = {.loop = t.loop, .path = t.path, .log = &quiet, .current = current, .apply = apply};
    reload_new(&r, &o);
    return r;
}

static void end(struct reload *r)
{
    reload_free(r);
    config_free(t.config);
    t.config = NULL;
}

static void wait_for(int told)
{
    while (t.told < told)
        event_base_loop(t.loop, EVLOOP_ONCE);
}

#define FILE_TEXT(listen, slots)                                                                                       \
    "listen: 127.0.0.1:" listen "\nauth: off\nnodes:\n  - {name: a, url: \"http://h:1\", models: [m], slots: " slots   \
    "}\n"

static void it_is_taken_over(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    write_file(FILE_TEXT("2", "2"));
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    CHECK_INT(t.told, 0); /* not from inside */
    wait_for(1);
    CHECK_INT(t.rc, RC_OK);
    CHECK_STR(t.json,
              "{\"reloaded\":true,\"changes\":[{\"list\":null,\"name\":\"listen\",\"change\":\"changed\",\"keys\":"
              "null,\"needs_restart\":true},{\"list\":\"nodes\",\"name\":\"a\",\"change\":\"changed\",\"keys\":"
              "\"slots\",\"needs_restart\":false}],\"needs_restart\":[\"listen\"]}");
    CHECK_INT(t.config->nodes[0].slots, 2);
    CHECK_STR(t.config->listen, "127.0.0.1:1");
    end(r);
}

static void a_mistake_changes_nothing(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    write_file("lisen: 127.0.0.1:1\nnodes:\n  - {name: a, url: ftp, models: [m]}\n");
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    wait_for(1);
    CHECK_INT(t.rc, RC_INVALID);
    CHECK_INT(t.applied, 0);
    CHECK(strstr(t.json, "2 mistakes in ") && strstr(t.json, "\"code\":\"invalid_config\""));
    CHECK(strstr(t.json, "did you mean \\\"listen\\\"?") && strstr(t.json, "is not a URL"));
    unlink(t.path);
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    wait_for(2);
    CHECK(t.rc != RC_OK);
    CHECK_INT(t.config->nodes[0].slots, 1);
    end(r);
}

static void who_applies_may_say_no(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    write_file(FILE_TEXT("1", "7"));
    t.refuse = RC_FULL;
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    wait_for(1);
    CHECK_INT(t.rc, RC_FULL);
    CHECK(strstr(t.json, "not today"));
    CHECK_INT(t.config->nodes[0].slots, 1);
    end(r);
}

static void a_change_in_between_is_not_lost(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    CHECK_INT(reload_ask(r, NULL, NULL), RC_OK);
    write_file(FILE_TEXT("1", "5")); /* perhaps after the first one has read it */
    for (int i = 0; i < RELOAD_ASKERS_MAX; i++)
        CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    CHECK_INT(reload_ask(r, done, NULL), RC_FULL);
    wait_for(RELOAD_ASKERS_MAX);
    CHECK_INT(t.applied, 2);
    CHECK_INT(t.config->nodes[0].slots, 5);
    end(r);
}

static void nobody_waits_for_ever(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    end(r);
    CHECK_INT(t.told, 2);
}

static void asks_again(const struct reload_report *report, void *arg)
{
    done(report, NULL);
    CHECK_INT(report->rc, RC_CANCELLED);
    CHECK_INT(reload_ask(arg, done, NULL), RC_CANCELLED);
}

/* The end comes while the first of two is read, from a pipe that says so: it is not taken over, and the second not begun. */
static void nothing_is_taken_over_at_the_end(void)
{
    struct reload *r = begin(FILE_TEXT("1", "1"));
    const char text[] = FILE_TEXT("1", "2");
    SPW_ASSERT(unlink(t.path) == 0 && mkfifo(t.path, 0600) == 0);
    CHECK_INT(reload_ask(r, asks_again, r), RC_OK);
    CHECK_INT(reload_ask(r, done, NULL), RC_OK);
    int fd = open(t.path, O_WRONLY | O_CLOEXEC); /* once the thread has opened it, too */
    CHECK(write(fd, text, sizeof text - 1) == sizeof text - 1);
    close(fd);
    end(r);
    CHECK_INT(t.told, 2);
    CHECK_INT(t.rc, RC_CANCELLED);
    CHECK_INT(t.applied, 0);
}

int main(void)
{
    snprintf(t.path, sizeof t.path, "/tmp/spillway-reload-XXXXXX");
    int fd = mkstemp(t.path);
    SPW_ASSERT(fd >= 0);
    close(fd);
    t.loop = event_base_new();
    TEST(it_is_taken_over);
    TEST(a_mistake_changes_nothing);
    TEST(who_applies_may_say_no);
    TEST(a_change_in_between_is_not_lost);
    TEST(nobody_waits_for_ever);
    TEST(nothing_is_taken_over_at_the_end);
    event_base_free(t.loop);
    unlink(t.path);
    return TEST_RESULT();
}
