#include "engine/node/watts.h"

#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"

#define AREA      "watts"
#define ZONES_MAX 128

struct zone {   /* a package or its memory */
    char *file; /* owned: its energy_uj */
    int64_t range_uj, last_uj;
};
struct watts {
    struct watts_options o;
    struct zone zones[ZONES_MAX];
    int n_zones;
    bool gpu_counts; /* joules of GPUs; else their watts, between readings */
    int64_t gpu_mj;
    bool begun;
    struct mono at;
    double busy_s;
    double rest_uj, idle_rest_uj;   /* less than a millijoule, not yet counted */
    double quiet_uj, quiet_seconds; /* of readings in which nothing was computed */
    struct watts_reading last;
};

const char *watts_source_name(enum watts_source s)
{
    static const char *const names[] = {"unknown", "estimated", "measured"};
    return names[s];
}

static bool read_word(const char *file, char *word, size_t size)
{
    FILE *f = fopen(file, "re");
    const bool got = f && fgets(word, (int)size, f);
    if (f)
        fclose(f);
    word[got ? strcspn(word, "\n") : 0] = '\0';
    return got;
}

/* Packages and their memory; cores and the like are parts of them, and psys counts all of it once more. */
static bool counts(const char *folder)
{
    char file[512], name[32];
    snprintf(file, sizeof file, "%s/name", folder);
    return read_word(file, name, sizeof name) && (strncmp(name, "package-", 8) == 0 || strcmp(name, "dram") == 0);
}

static void add_zone(struct watts *w, const char *folder, bool *told)
{
    char file[512];
    struct zone z = {.file = NULL};
    if (w->n_zones == ZONES_MAX || !counts(folder))
        return;
    snprintf(file, sizeof file, "%s/max_energy_range_uj", folder);
    if (!file_read_int(file, &z.range_uj))
        z.range_uj = 0;
    snprintf(file, sizeof file, "%s/energy_uj", folder);
    errno = 0;
    if (!file_read_int(file, &z.last_uj)) {
        if (!*told)
            log_warn(w->o.log, AREA, "what the processors draw cannot be read", LOG_S("file", file),
                     LOG_S("error", errno == EACCES || errno == EPERM
                                        ? "not allowed: let the engine's user read it (udev rule, or run as root)"
                                        : strerror(errno)));
        *told = true;
        return;
    }
    z.file = spw_strdup(file);
    w->zones[w->n_zones++] = z;
}

static void find_zones(struct watts *w)
{
    char pattern[512];
    bool told = false;
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/intel-rapl:*[0-9]", w->o.rapl ? w->o.rapl : WATTS_RAPL);
    if (glob(pattern, 0, NULL, &g) != 0)
        return;
    for (size_t k = 0; k < g.gl_pathc; k++)
        add_zone(w, g.gl_pathv[k], &told);
    globfree(&g);
}

struct watts *watts_new(const struct watts_options *o)
{
    struct watts *w = spw_calloc(1, sizeof *w);
    w->o = *o;
    find_zones(w);
    w->gpu_counts = o->nvml && nvml_millijoules(o->nvml, &w->gpu_mj);
    int64_t mw;
    const bool gpu = o->nvml && (w->gpu_counts || nvml_milliwatts(o->nvml, &mw));
    const bool measured = w->n_zones > 0 || gpu;
    log_info(o->log, AREA, "watts",
             LOG_S("source", watts_source_name(measured     ? WATTS_MEASURED
                                               : o->busy_mw ? WATTS_ESTIMATED
                                                            : WATTS_UNKNOWN)),
             LOG_I("rapl_zones", w->n_zones), LOG_I("gpus", gpu ? nvml_count(o->nvml) : 0));
    if (gpu && w->n_zones == 0)
        log_warn(o->log, AREA, "what is measured are the GPUs alone, without the machine around them");
    return w;
}

void watts_free(struct watts *w)
{
    for (int i = 0; w && i < w->n_zones; i++)
        free(w->zones[i].file);
    free(w);
}

/* Microjoules since the last time. A counter that has gone down has come to its end once and begun again. */
static bool rapl_used(struct watts *w, double *uj)
{
    bool any = false;
    for (int i = 0; i < w->n_zones; i++) {
        struct zone *z = &w->zones[i];
        int64_t now;
        if (!file_read_int(z->file, &now))
            continue;
        any = true;
        if (now >= z->last_uj)
            *uj += (double)(now - z->last_uj);
        else if (z->range_uj >= z->last_uj)
            *uj += (double)(z->range_uj - z->last_uj + now);
        z->last_uj = now;
    }
    return any;
}

static bool gpu_used(struct watts *w, double seconds, double *uj)
{
    int64_t v;
    if (!w->o.nvml)
        return false;
    if (w->gpu_counts && nvml_millijoules(w->o.nvml, &v)) {
        if (v >= w->gpu_mj) /* else the driver was loaded anew */
            *uj += (double)(v - w->gpu_mj) * 1e3;
        w->gpu_mj = v;
        return true;
    }
    if (!nvml_milliwatts(w->o.nvml, &v))
        return false;
    *uj += (double)v * seconds * 1e3;
    return true;
}

static double busy_share(const struct watts *w, double busy_s, double seconds)
{
    const double share = seconds > 0 ? (busy_s - w->busy_s) / seconds : 0;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* Share of the time that was computed, times the declared span. */
static double curve_used(const struct watts *w, double share, double seconds)
{
    const double mw = (double)w->o.idle_mw + share * (double)(w->o.busy_mw - w->o.idle_mw);
    return mw * seconds * 1e3;
}

/* What of a reading's microjoules is idle time's. */
static double idle_used(struct watts *w, double uj, double share, double seconds)
{
    double mw = (double)w->o.idle_mw;
    if (w->last.source == WATTS_MEASURED) {
        w->quiet_uj += share <= 0 ? uj : 0;
        w->quiet_seconds += share <= 0 ? seconds : 0;
        mw = w->quiet_seconds > 0 ? w->quiet_uj / w->quiet_seconds / 1e3 : uj / seconds / 1e3;
    }
    const double idle = share <= 0 ? uj : (1 - share) * seconds * mw * 1e3;
    return idle < uj ? idle : uj;
}

static void count_mj(int64_t *mj, double *rest_uj, double uj)
{
    *rest_uj += uj;
    const int64_t whole = (int64_t)(*rest_uj / 1e3);
    *mj += whole;
    *rest_uj -= (double)whole * 1e3;
}

/* Nothing is between it and another reading yet. */
static void first(struct watts *w)
{
    int64_t mw = 0;
    const bool gpu = w->o.nvml && nvml_milliwatts(w->o.nvml, &mw);
    if (gpu || w->n_zones > 0)
        w->last = (struct watts_reading){WATTS_MEASURED, gpu && w->n_zones == 0 ? mw : 0, 0, 0};
    else if (w->o.busy_mw > 0)
        w->last = (struct watts_reading){WATTS_ESTIMATED, w->o.idle_mw, 0, 0};
}

struct watts_reading watts_read(struct watts *w, double busy_s)
{
    const int64_t ns = mono_since(w->o.clock, w->at);
    if (w->begun && ns < WATTS_LEAST_MS * NS_PER_MS)
        return w->last;
    const double seconds = (double)ns / 1e9;
    const double share = busy_share(w, busy_s, seconds);
    double uj = 0;
    if (!w->begun) {
        first(w);
    } else {
        const bool rapl = rapl_used(w, &uj), gpu = gpu_used(w, seconds, &uj);
        enum watts_source source = rapl || gpu ? WATTS_MEASURED : WATTS_UNKNOWN;
        if (!rapl && !gpu && w->o.busy_mw > 0) {
            uj = curve_used(w, share, seconds);
            source = WATTS_ESTIMATED;
        }
        w->last.source = source;
        w->last.milliwatts = (int64_t)(uj / seconds / 1e3 + 0.5);
        count_mj(&w->last.millijoules, &w->rest_uj, uj);
        count_mj(&w->last.idle_millijoules, &w->idle_rest_uj, idle_used(w, uj, share, seconds));
    }
    w->begun = true;
    w->at = clock_now(w->o.clock);
    w->busy_s = busy_s;
    return w->last;
}

static bool parse_watts(const char *text, size_t n, int64_t *mw)
{
    char copy[32], *end;
    if (n == 0 || n >= sizeof copy)
        return false;
    memcpy(copy, text, n);
    copy[n] = '\0';
    if (strspn(copy, "0123456789.") != n)
        return false;
    const double v = strtod(copy, &end);
    if (*end || v < 0 || v > 1e6)
        return false;
    *mw = (int64_t)(v * 1e3 + 0.5);
    return true;
}

enum rc watts_parse_curve(const char *text, int64_t *idle_mw, int64_t *busy_mw, struct error *e)
{
    const char *colon = strchr(text, ':');
    if (!colon || !parse_watts(text, (size_t)(colon - text), idle_mw) ||
        !parse_watts(colon + 1, strlen(colon + 1), busy_mw) || *busy_mw <= 0 || *idle_mw > *busy_mw)
        return error_set(e, RC_INVALID, "\"%.40s\": write what it draws idle and busy, in watts, as in 30:90", text);
    return RC_OK;
}
