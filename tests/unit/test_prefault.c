/* A mapped file gets into the page tables by itself, so that who reads it takes no faults; it can be stopped at any
 * moment, and small files are left alone.
 *
 * links: spw_engine_model */
#include "engine/model/prefault.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/test.h"

#define BYTES (PREFAULT_BYTES_MIN + (8u << 20) + 4096)

static struct prefault_span map_file(size_t bytes)
{
    char path[] = "/tmp/spw-prefault-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    unlink(path);
    struct prefault_span s = {.data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0), .bytes = bytes};
    CHECK(s.data != MAP_FAILED);
    close(fd);
    return s;
}

static long faults_of_reading(const struct prefault_span *s)
{
    struct rusage before, after;
    unsigned sum = 0;
    getrusage(RUSAGE_THREAD, &before);
    for (size_t i = 0; i < s->bytes; i += 4096)
        sum += ((const volatile uint8_t *)s->data)[i];
    getrusage(RUSAGE_THREAD, &after);
    CHECK_INT(sum, 0);
    return after.ru_minflt - before.ru_minflt + after.ru_majflt - before.ru_majflt;
}

static void takes_the_faults_away(void)
{
    struct prefault_span plain = map_file(BYTES);
    void *probe = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool supported = madvise(probe, 4096, 22 /* MADV_POPULATE_READ */) == 0;
    long without = faults_of_reading(&plain), with = without;
    for (int i = 0; i < 10 && supported && with >= without; i++) { /* a machine may have no time for it */
        struct prefault_span s = map_file(BYTES);
        struct prefault *p = prefault_start(&s, 1);
        CHECK(p);
        struct timespec nap = {.tv_nsec =
                                   300000000}; /* long enough, most often; what is not there yet is read as before */
        nanosleep(&nap, NULL);
        with = faults_of_reading(&s);
        prefault_stop(p);
        munmap((void *)(uintptr_t)s.data, s.bytes);
    }
    CHECK(!supported || with < without);
    munmap(probe, 4096);
    munmap((void *)(uintptr_t)plain.data, plain.bytes);
}

static void stops_at_once(void)
{
    struct prefault_span s[2] = {map_file(BYTES), map_file(BYTES)};
    for (int i = 0; i < 20; i++)
        prefault_stop(prefault_start(s, 2));
    prefault_stop(NULL);
    CHECK(!prefault_start(s, 0));
    s[0].bytes = s[1].bytes = 4096;
    CHECK(!prefault_start(s, 2));
    munmap((void *)(uintptr_t)s[0].data, BYTES);
    munmap((void *)(uintptr_t)s[1].data, BYTES);
}

int main(void)
{
    TEST(takes_the_faults_away);
    TEST(stops_at_once);
    return TEST_RESULT();
}
