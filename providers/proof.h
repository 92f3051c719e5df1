/* The proof that a machine comes back after it was switched off: a small file, written once by `spillway nodes enrol`.
 * It holds only for the way that was tried: other settings, and the machine has to be enrolled again. Blocks (a local
 * file of a few hundred bytes). */
#ifndef PROVIDERS_PROOF_H
#define PROVIDERS_PROOF_H

#include <stdint.h>

#include "base/error.h"
#include "providers/provider.h"

struct proof {
    char ways[32];                         /* "redfish", "wol", "redfish,wol" */
    char settings[65];                     /* SHA-256 of what says how its power is reached, as hex */
    int64_t at_s;                          /* Unix time */
    int64_t off_ms;                        /* from the order to seen off; the longest of the ways */
    int64_t on_ms;                         /* from the order to seen on; the same */
    int64_t answer_ms;                     /* from the order to an engine that answers; the same */
    int64_t milliwatts_off, milliwatts_on; /* -1: the controller does not tell */
};
/* RC_NOT_FOUND: there is none. RC_INVALID: it cannot be read. */
enum rc proof_read(const char *path, struct proof *p, struct error *e) SPW_MUST_USE;
/* Whole or not at all, and durable. */
enum rc proof_write(const char *path, const char *node, const struct proof *p, struct error *e) SPW_MUST_USE;

#endif
