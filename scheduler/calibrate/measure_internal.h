/* What measuring's files share: one stream, several at once, and what a point is made of. */
#ifndef SCHEDULER_CALIBRATE_MEASURE_INTERNAL_H
#define SCHEDULER_CALIBRATE_MEASURE_INTERNAL_H

#include <curl/curl.h>

#include "base/sse.h"
#include "scheduler/calibrate/measure.h"

#define FIRST_BYTES                                                                                                    \
    64 /* of the smallest prompt; each next is four times as long. Small: what no prompt is too short for is the base */
#define SHORT_BYTES     64 /* of a prompt whose decoding is what matters */
#define BYTES_PER_TOKEN 4  /* to begin with; the node's own counts are what is used */

struct session {
    const struct measure_options *o;
    struct calibration *c;
    char *url;
    struct curl_slist *headers;
    size_t prompt_bytes; /* of the longest prompt that the node took */
};
struct probe {
    CURL *curl;
    struct sse *sse;
    struct strbuf refusal;
    char *body;
    int64_t start_ns, *at_ns; /* when each piece of text came; owned */
    int n, n_max;
    int64_t prompt, cached, output; /* tokens, by the node's count; -1: not told */
    bool done;
    CURLcode code;
    long status;
};

/* A stream that will ask for `output` tokens after a new prompt of about so many bytes. */
void measure_probe_init(struct probe *p, const struct session *s, size_t prompt_bytes, int32_t output);
void measure_probe_fini(struct probe *p);
/* Runs them all to their ends. after > 0: the last one starts when the first has said so many pieces. */
enum rc measure_run(struct probe *probes, int n, int after, const struct measure_options *o,
                    struct error *e) SPW_MUST_USE;
double measure_median(double *v, int n); /* sorts them; n >= 1 */

struct decoded {
    double us;      /* between two tokens of one while all decode; 0: they never did */
    double context; /* tokens that all of them held meanwhile, in the mean */
    double watts;
    bool drawn; /* watts is known */
};
enum rc measure_decode_once(struct session *s, int batch, size_t prompt_bytes, int32_t output, struct decoded *d,
                            struct error *e) SPW_MUST_USE;

/* measure_detail.c: prompts beside decoding, and what context costs. After the points of both lines. */
enum rc measure_detail(struct session *s, struct error *e) SPW_MUST_USE;

#endif
