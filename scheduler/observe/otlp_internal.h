/* What otlp.c (queue, sending) and otlp_write.c (JSON) share. */
#ifndef SCHEDULER_OBSERVE_OTLP_INTERNAL_H
#define SCHEDULER_OBSERVE_OTLP_INTERNAL_H

#include "scheduler/observe/otlp.h"

/* A request's text is head, spans with commas between, tail. */
enum rc otlp_write_head(struct strbuf *out, const struct otlp_options *o) SPW_MUST_USE;
#define OTLP_TAIL "]}]}]}"

#endif
