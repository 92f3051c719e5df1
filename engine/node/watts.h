/* What this machine draws, and where the figure comes from: never one without the other.
 *
 *   MEASURED   NVML's energy or power of all GPUs (nvml.h), and RAPL's of all packages with their memory, as far as they can be
 *              read. On a machine with GPUs and without readable RAPL the processors are missing from it; the log says so once
 *   ESTIMATED  a declared curve: idle + (busy - idle) x the share of the time that steps were being computed
 *   UNKNOWN    neither
 *
 * RAPL (/sys/class/powercap/intel-rapl:N): energy_uj counts up and starts again at max_energy_range_uj, after a quarter
 * of an hour or more at full draw; so it must be looked at that often. Files of kernel memory: reading them does not
 * block. Read by one thread. Linux, Documentation/power/powercap/powercap.rst. */
#ifndef ENGINE_NODE_WATTS_H
#define ENGINE_NODE_WATTS_H

#include "base/clock.h"
#include "base/log.h"
#include "engine/node/nvml.h"

enum watts_source { WATTS_UNKNOWN, WATTS_ESTIMATED, WATTS_MEASURED };
const char *watts_source_name(enum watts_source s);

#define WATTS_RAPL "/sys/class/powercap"
struct watts_options {        /* all borrowed */
    const char *rapl;         /* folder; NULL: WATTS_RAPL */
    struct nvml *nvml;        /* NULL: no GPU can be asked */
    int64_t idle_mw, busy_mw; /* declared; busy 0: not */
    const struct log *log;
    const struct clock *clock;
};
struct watts_reading {
    enum watts_source source;
    int64_t milliwatts;  /* mean since the last reading; at the first one of what can be asked for, else 0 */
    int64_t millijoules; /* since the start */
    /* Of these, while nothing was computed: idle time at the declared idle draw, or, measured, at the mean draw of
     * readings in which nothing was computed (before the first of these: at each reading's own mean). */
    int64_t idle_millijoules;
};
struct watts;
struct watts *watts_new(const struct watts_options *o);
void watts_free(struct watts *w); /* NULL is fine */
/* busy_s: seconds of computing since the start, of all steps (only differences are looked at). Calls less than
 * WATTS_LEAST_MS apart get the same answer. */
#define WATTS_LEAST_MS 200
struct watts_reading watts_read(struct watts *w, double busy_s);

/* "30:90": what idles at 30 W and is busy at 90 W; decimals are allowed. */
enum rc watts_parse_curve(const char *text, int64_t *idle_mw, int64_t *busy_mw, struct error *e) SPW_MUST_USE;

#endif
