#include "providers/aws_errors.h"

#include <string.h>

static const struct aws_error_kind kinds[] = {
    /* This pool has none: an answer, not an accident, whatever the status says (EC2 sends some as 500). */
    {"InsufficientInstanceCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientHostCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientReservedInstanceCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientVolumeCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientAddressCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"InsufficientFreeAddressesInSubnet", PROVIDER_NO_CAPACITY, AWS_UP},
    {"UnfulfillableCapacity", PROVIDER_NO_CAPACITY, AWS_UP},
    {"Unsupported", PROVIDER_NO_CAPACITY, AWS_UP}, /* no such type in that zone */
    {"UnsupportedOperation", PROVIDER_NO_CAPACITY, AWS_UP},
    {"SpotMaxPriceTooLow", PROVIDER_NO_CAPACITY, AWS_UP},

    {"MaxSpotInstanceCountExceeded", PROVIDER_QUOTA, AWS_UP},
    {"VcpuLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"InstanceLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"MaxFleetCountExceeded", PROVIDER_QUOTA, AWS_UP},
    {"VolumeLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"MaxIOPSLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"ResourceLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"VersionedLaunchTemplateLimitExceeded", PROVIDER_QUOTA, AWS_UP},
    {"PendingVerification", PROVIDER_QUOTA, AWS_UP}, /* a new account: a person must wait for AWS */

    {"RequestLimitExceeded", PROVIDER_THROTTLED, AWS_AGAIN},
    {"Throttling", PROVIDER_THROTTLED, AWS_AGAIN},
    {"ThrottlingException", PROVIDER_THROTTLED, AWS_AGAIN},
    {"ThrottledException", PROVIDER_THROTTLED, AWS_AGAIN},
    {"RequestThrottled", PROVIDER_THROTTLED, AWS_AGAIN},
    {"RequestThrottledException", PROVIDER_THROTTLED, AWS_AGAIN},
    {"TooManyRequestsException", PROVIDER_THROTTLED, AWS_AGAIN},
    {"EC2ThrottledException", PROVIDER_THROTTLED, AWS_AGAIN},
    {"BandwidthLimitExceeded", PROVIDER_THROTTLED, AWS_AGAIN},
    {"SlowDown", PROVIDER_THROTTLED, AWS_AGAIN},
    {"PriorRequestNotComplete", PROVIDER_UNREACHABLE, AWS_AGAIN}, /* our earlier try is being done */

    {"InternalError", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"InternalFailure", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"InternalServerError", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"ServiceUnavailable", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"ServiceUnavailableException", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"Unavailable", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"RequestTimeout", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"RequestTimeoutException", PROVIDER_UNREACHABLE, AWS_AGAIN},
    {"RequestResponseTimeout", PROVIDER_UNREACHABLE, AWS_AGAIN},

    {"AuthFailure", PROVIDER_DENIED, AWS_REFRESH},
    {"SignatureDoesNotMatch", PROVIDER_DENIED, AWS_REFRESH},
    {"InvalidSignatureException", PROVIDER_DENIED, AWS_REFRESH},
    {"IncompleteSignature", PROVIDER_DENIED, AWS_REFRESH},
    {"RequestExpired", PROVIDER_DENIED, AWS_REFRESH},
    {"RequestTimeTooSkewed", PROVIDER_DENIED, AWS_REFRESH},
    {"RequestInTheFuture", PROVIDER_DENIED, AWS_REFRESH},
    {"ExpiredToken", PROVIDER_DENIED, AWS_REFRESH},
    {"ExpiredTokenException", PROVIDER_DENIED, AWS_REFRESH},
    {"InvalidClientTokenId", PROVIDER_DENIED, AWS_REFRESH}, /* an access key that is unknown; no client token */
    {"UnrecognizedClientException", PROVIDER_DENIED, AWS_REFRESH},
    {"MissingAuthenticationToken", PROVIDER_DENIED, AWS_UP},
    {"UnauthorizedOperation", PROVIDER_DENIED, AWS_UP},
    {"AccessDenied", PROVIDER_DENIED, AWS_UP},
    {"AccessDeniedException", PROVIDER_DENIED, AWS_UP},
    {"OptInRequired", PROVIDER_DENIED, AWS_UP},
    {"Blocked", PROVIDER_DENIED, AWS_UP},

    {"InvalidInstanceID.NotFound", PROVIDER_ENDED, AWS_TOO_EARLY},
    {"InvalidLaunchTemplateName.NotFoundException", PROVIDER_INVALID, AWS_TOO_EARLY},
    {"InvalidLaunchTemplateId.NotFound", PROVIDER_INVALID, AWS_TOO_EARLY},
    {"InvalidLaunchTemplateId.VersionNotFound", PROVIDER_INVALID, AWS_TOO_EARLY},

    {"DryRunOperation", PROVIDER_FINE, AWS_UP}, /* it would have worked */
};

static const struct aws_error_kind by_status[] = {
    {NULL, PROVIDER_THROTTLED, AWS_AGAIN},
    {NULL, PROVIDER_UNREACHABLE, AWS_AGAIN},
    {NULL, PROVIDER_DENIED, AWS_REFRESH},
    {NULL, PROVIDER_INVALID, AWS_UP},
};

const struct aws_error_kind *aws_error_find(const char *code, int status)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].code, code) == 0)
            return &kinds[i];
    }
    if (status == 429 || status == 503)
        return &by_status[0];
    if (status >= 500)
        return &by_status[1];
    return status == 401 || status == 403 ? &by_status[2] : &by_status[3];
}

enum provider_failure aws_end_reason(const char *code)
{
    if (strcmp(code, "Server.SpotInstanceTermination") == 0 || strcmp(code, "Server.SpotInstanceShutdown") == 0)
        return PROVIDER_TAKEN_BACK;
    if (strcmp(code, "Server.InsufficientInstanceCapacity") == 0)
        return PROVIDER_NO_CAPACITY;
    if (strcmp(code, "Client.VolumeLimitExceeded") == 0)
        return PROVIDER_QUOTA;
    if (strcmp(code, "Client.InternalError") == 0 || strncmp(code, "Client.Invalid", 14) == 0)
        return PROVIDER_INVALID; /* its disks could not be opened with our key, no such snapshot */
    return PROVIDER_ENDED;
}
