/* Decisions (explain.h) in words and as JSON: one writer for the admin API, the command line and the header
 * x-spillway-explain. Any thread; formats at leisure. */
#ifndef SCHEDULER_FRONT_EXPLAIN_TEXT_H
#define SCHEDULER_FRONT_EXPLAIN_TEXT_H

#include "base/json_write.h"
#include "scheduler/front/explain.h"

#define EXPLAIN_DECISIONS_MAX 64 /* of one request in one answer; the newest */
#define EXPLAIN_WHY_BYTES     160
#define EXPLAIN_SENTENCE_MAX  1024
/* With it a whole head still fits into the 4 KiB that many proxies allow for one. */
#define EXPLAIN_HEADER_MAX 3072

/* Why candidate i was not chosen, after its name: "dearer, $0.00042 against $0.00003". Returns buf. */
char *explain_why(const struct explain_record *r, int i, char buf[EXPLAIN_WHY_BYTES]);
/* "gpu1 was chosen: the cheapest of those that meet the SLO; api-x lost: dearer, $0.00042 against $0.00003". */
char *explain_sentence(const struct explain_record *r, char buf[EXPLAIN_SENTENCE_MAX]);

/* SHORT leaves out what is not known, what nothing was asked of, and the texts but for the sentence. */
enum explain_detail { EXPLAIN_WHOLE, EXPLAIN_SHORT };
/* An object. At most so many candidates, those that came furthest; the others are counted. */
void explain_write(struct json_writer *w, const struct explain_record *r, enum explain_detail detail, int candidates);

/* {"request_id":...,"decisions":[...]}, newest last. RC_NOT_FOUND: none is kept. */
enum rc explain_write_request(const struct explain *e, const char *request_id, struct json_writer *w) SPW_MUST_USE;
/* {"decisions":[...]} of these, the newest last, in one line that fits into out, whose bound is at least
 * EXPLAIN_HEADER_MAX: candidates that came less far, and then older decisions, are left out until it does. earlier: how
 * many decisions there were before these. */
void explain_write_header(const struct explain_record *records, int n, int earlier, struct strbuf *out);

#endif
