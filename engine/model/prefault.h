/* Puts a mapped file into the page tables, front to back, on a thread of its own while the model is set up: the first
 * token then touches weights without half a million faults on its way (a third of the time that a node takes to wake
 * up, tests/bench/wake.py). A file that is not in the page cache is read in the order in which it is needed. A hint,
 * like any read-ahead: it fails silently, and stays away from files that do not fit into memory. */
#ifndef ENGINE_MODEL_PREFAULT_H
#define ENGINE_MODEL_PREFAULT_H

#include <stddef.h>
#include <stdint.h>

#define PREFAULT_BYTES_MIN ((size_t)64 << 20) /* for less no thread is started */

struct prefault_span {
    const uint8_t *data; /* page aligned, mapped until prefault_stop() */
    size_t bytes;
};

struct prefault;
/* NULL: not worth it, or not to be had. The spans are copied. */
struct prefault *prefault_start(const struct prefault_span *spans, uint32_t n);
/* Ends it, after the piece (2 MiB) that it is at. NULL is fine. */
void prefault_stop(struct prefault *p);

#endif
