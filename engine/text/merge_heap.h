/* The pairs that wait to be merged, best first: the priority queue of both tokenizers (bpe.c, spm.c). A binary heap by
 * (key, left): the lowest key is the best merge, and of equals the leftmost. */
#ifndef ENGINE_TEXT_MERGE_HEAP_H
#define ENGINE_TEXT_MERGE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge_candidate {
    double key;    /* bpe: the rank; spm: minus the score. Ranks below 2^53 and float scores are exact */
    uint32_t left; /* index of the pair's left half */
    int32_t a, b;  /* what the pair was when it was queued: a candidate is stale when it has changed since */
};

struct merge_heap {                /* starts zeroed */
    struct merge_candidate *items; /* owned */
    size_t n, cap;
};

void merge_heap_push(struct merge_heap *h, struct merge_candidate c);
/* The best one leaves into *c; false: empty. */
bool merge_heap_pop(struct merge_heap *h, struct merge_candidate *c);
void merge_heap_fini(struct merge_heap *h);

#endif
