/* What was measured of a node, or of a type of nodes: one JSON file, dated, that people can read and mend.
 *
 *   {"spillway_calibration": 1, "measured_at": "2026-11-29T02:10:00Z", "node": "gpu1", "node_type": "h100x1",
 *    "model": "deepseek-r1-distill-qwen-7b", "numerics": "3f0c...",
 *    "curve": {"base_us": 9100, "prefill_us_per_tok": 41.5, "decode_us_base": 9900, "decode_us_per_seq": 55},
 *    "curve_error": {"prefill": 0.04, "decode": 0.02},
 *    "prefill": [{"tokens": 70, "ttft_us": 12000}, ...], "decode": [{"batch": 1, "step_us": 9950}, ...],
 *    "context": [{"batch": 4, "tokens": 90, "step_us": 10100}, ...],
 *    "detail": {"decode_us_per_ctx_tok": 0.02, "mixed_us_per_tok": 43, "mixed_chunk": 2048},
 *    "watts": {"source": "measured", "idle": 60, "by_batch": [{"batch": 1, "watts": 310}]}}
 *
 * Readers need `curve` alone; the points are there so that anybody can see what it stands on. Unknown members are
 * skipped: a later version may have more. */
#ifndef SCHEDULER_CALIBRATE_RECORD_H
#define SCHEDULER_CALIBRATE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/alloc.h"
#include "policies/curve.h"
#include "policies/curve_fit.h"

#define CALIBRATION_POINTS_MAX 24

enum calibration_watts { CALIBRATION_WATTS_UNKNOWN, CALIBRATION_WATTS_DECLARED, CALIBRATION_WATTS_MEASURED };

struct calibration {
    char measured_at[32];                                   /* RFC 3339, UTC */
    char node[96], node_type[96], model[256], numerics[96]; /* "": not known */
    struct node_curve curve;
    double prefill_error, decode_error; /* the largest relative deviation of a point from the curve */
    int n_prefill, n_decode;
    struct curve_point prefill[CALIBRATION_POINTS_MAX]; /* x: prompt tokens computed; us: TTFT alone on the node */
    struct curve_point decode[CALIBRATION_POINTS_MAX];  /* x: sequences at once; us: between two tokens of one */
    /* The same batch with short prompts and with long ones: context is what all of its sequences hold, in the mean. */
    int n_context;
    struct calibration_context {
        int32_t batch;
        double tokens, us;
    } context[CALIBRATION_POINTS_MAX];
    struct curve_detail detail;
    enum calibration_watts watts;
    double idle_w;
    int n_watts;
    struct calibration_draw {
        int32_t batch;
        double w;
    } by_batch[CALIBRATION_POINTS_MAX];
};

/* Append as JSON with a line break at the end. */
enum rc calibration_write(const struct calibration *c, struct strbuf *out) SPW_MUST_USE;
/* RC_INVALID: *e names the member, and what would be right. */
enum rc calibration_parse(struct calibration *c, const char *text, size_t n, struct error *e) SPW_MUST_USE;
/* The same from and to a file; errors name it. Saved whole or not at all (another name first, flushed, renamed); the
 * folder is made where it is missing. Blocks. */
enum rc calibration_load(struct calibration *c, const char *path, struct error *e) SPW_MUST_USE;
enum rc calibration_save(const struct calibration *c, const char *path, struct error *e) SPW_MUST_USE;

#define CALIBRATION_STALE_DAYS 30
/* Is it older than that? One whose date nobody can read is. */
bool calibration_stale(const struct calibration *c, int64_t now_unix_s);
/* Milliwatts of a whole node that decodes so many: between measured points on straight lines, never falling; idle for 0.
 * -1: nothing is known. */
double calibration_mw(const struct calibration *c, int32_t batch);

#endif
