/* What AWS's error codes ask for, as one table (EC2 API Reference, "Error codes for the Amazon EC2 API"; the groups of
 * "no capacity" are those of Karpenter's and ParallelCluster's fail-over lists). Pure. */
#ifndef PROVIDERS_AWS_ERRORS_H
#define PROVIDERS_AWS_ERRORS_H

#include "providers/provider.h"

enum aws_remedy {
    AWS_UP,       /* nothing helps: the failure goes up at once */
    AWS_AGAIN,    /* the same request again, after a back-off with full jitter */
    AWS_REFRESH,  /* once more at once if our clock was wrong or newer keys can be had; else up */
    AWS_TOO_EARLY /* what was just made is not known everywhere yet; up, unless the caller knows that it is new */
};

struct aws_error_kind {
    const char *code; /* NULL: of the rows for codes that nobody knows */
    enum provider_failure failure;
    enum aws_remedy remedy;
};

/* The row of a code. "" and unknown codes are judged by the HTTP status: 429 and 503 are throttling, other 5xx leave
 * the outcome unknown, 401 and 403 are denials, the rest is our own mistake. Never NULL. */
const struct aws_error_kind *aws_error_find(const char *code, int status);

/* Why an instance is no more, by stateReason/code of DescribeInstances ("Troubleshoot instance termination issues"):
 * the provider took it back, had none in the end, or it ended by its own or somebody's act. "" is somebody's act. */
enum provider_failure aws_end_reason(const char *state_reason_code);

#endif
