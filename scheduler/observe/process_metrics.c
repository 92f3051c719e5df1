#include "scheduler/observe/process_metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

#define PROC_BYTES_MAX ((size_t)1 << 20) /* /proc/stat has a line per processor, and a long one */

/* A file of /proc as text, or NULL; the caller frees. */
static char *proc_text(const char *path)
{
    struct strbuf text;
    struct error e;
    char *out = file_read(&text, path, PROC_BYTES_MAX, &e) == RC_OK ? strbuf_take(&text) : NULL;
    strbuf_fini(&text);
    return out;
}

/* Figure number n (from 1) of /proc/self/stat behind the program's name, which may hold blanks and parentheses: proc(5)
 * counts it as the second. -1: not there. */
static int64_t stat_field(const char *stat, int n)
{
    const char *p = strrchr(stat, ')');
    for (int i = 2; p && i < n; i++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    return p ? strtoll(p, NULL, 10) : -1;
}

/* Seconds since 1970 at which the machine started. -1: unknown. */
static int64_t boot_time_s(void)
{
    char *text = proc_text("/proc/stat");
    const char *line = text ? strstr(text, "\nbtime ") : NULL;
    int64_t s = line ? strtoll(line + 7, NULL, 10) : -1;
    free(text);
    return s;
}

/* New kernels say how many in the size of the folder; older ones make us count. */
static int64_t open_files(void)
{
    struct stat st;
    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
        return st.st_size;
    DIR *d = opendir("/proc/self/fd");
    int64_t n = -3; /* the two dots, and the folder's own */
    while (d && readdir(d))
        n++;
    if (!d)
        return -1;
    closedir(d);
    return n;
}

static enum rc put(struct strbuf *out, const char *name, const char *type, const char *help, double v)
{
    if (v < 0)
        return RC_OK;
    return strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.*f\n", name, help, name, type, name,
                         v == (double)(int64_t)v ? 0 : 2, v);
}

enum rc process_metrics_render(struct strbuf *out)
{
    char *stat = proc_text("/proc/self/stat");
    double tick = (double)sysconf(_SC_CLK_TCK);
    int64_t boot = boot_time_s(), started = stat ? stat_field(stat, 22) : -1, pages = stat ? stat_field(stat, 24) : -1;
    struct rusage use = {0};
    struct rlimit files = {0};
    getrusage(RUSAGE_SELF, &use);
    getrlimit(RLIMIT_NOFILE, &files);
    double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                 (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {"process_cpu_seconds_total", "counter", "User and system CPU time of all threads.", cpu},
        {"process_resident_memory_bytes", "gauge", "Memory in use.",
         pages < 0 ? -1 : (double)pages * (double)sysconf(_SC_PAGESIZE)},
        {"process_virtual_memory_bytes", "gauge", "Address space in use.", stat ? (double)stat_field(stat, 23) : -1},
        {"process_threads", "gauge", "Threads.", stat ? (double)stat_field(stat, 20) : -1},
        {"process_open_fds", "gauge", "Open files and sockets.", (double)open_files()},
        {"process_max_fds", "gauge", "Files and sockets it may open.", (double)files.rlim_cur},
        {"process_start_time_seconds", "gauge", "When it started, seconds since 1970.",
         boot < 0 || started < 0 ? -1 : (double)boot + (double)started / tick},
    };
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && rc == RC_OK; i++)
        rc = put(out, rows[i].name, rows[i].type, rows[i].help, rows[i].v);
    free(stat);
    return rc;
}
