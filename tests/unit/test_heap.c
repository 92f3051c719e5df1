/* Proves that the heap gives out in order whatever was pushed, moved and removed, and counts what is before something.
 * links: spw_base */
#include "tests/unit/test.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/heap.h"

struct item {
    int64_t key, id;
    struct heap_place place;
};

static const struct item *item_of(const struct heap_place *p)
{
    return (const struct item *)(const void *)((const char *)p - offsetof(struct item, place));
}

static bool before(const struct heap_place *a, const struct heap_place *b)
{
    const struct item *x = item_of(a), *y = item_of(b);
    return x->key != y->key ? x->key < y->key : x->id < y->id;
}

#define ITEMS 300

static uint64_t random_state = 1;
static int64_t random_below(int64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)((random_state * 0x2545f4914f6cdd1du) >> 11) % n;
}

static const struct item *smallest(const struct item *items)
{
    const struct item *best = NULL;
    for (int i = 0; i < ITEMS; i++) {
        if (heap_has(&items[i].place) && (!best || before(&items[i].place, &best->place)))
            best = &items[i];
    }
    return best;
}

static void always_the_smallest_on_top(void)
{
    static struct item items[ITEMS];
    struct heap h;
    heap_init(&h, before);
    for (int round = 0; round < 20000; round++) {
        struct item *item = &items[random_below(ITEMS)];
        item->id = item - items;
        bool in = heap_has(&item->place);
        if (in && random_below(2)) {
            heap_remove(&h, &item->place);
        } else {
            item->key = random_below(50);
            if (in)
                heap_moved(&h, &item->place);
            else
                heap_push(&h, &item->place);
        }
        const struct item *best = smallest(items);
        if (heap_top(&h) != (best ? &best->place : NULL)) {
            CHECK(!"the smallest is on top");
            break;
        }
    }
    heap_fini(&h);
}

static void counts_what_is_before(void)
{
    static struct item items[ITEMS];
    struct heap h;
    heap_init(&h, before);
    CHECK(heap_top(&h) == NULL);
    for (int i = 0; i < ITEMS; i++) {
        items[i] = (struct item){.key = (i * 7) % 100, .id = i};
        heap_push(&h, &items[i].place);
    }
    struct item outside = {.key = 40, .id = -1};
    CHECK_INT(heap_count_before(&h, &outside.place, 1000), 40 * 3);
    CHECK_INT(heap_count_before(&h, &outside.place, 17), 17);
    outside.key = -5;
    CHECK_INT(heap_count_before(&h, &outside.place, 1000), 0);
    outside.key = 1000;
    CHECK_INT(heap_count_before(&h, &outside.place, 1000), ITEMS);
    CHECK_INT(heap_count_before(&h, heap_top(&h), 1000), 0);
    heap_fini(&h);
}

int main(void)
{
    TEST(always_the_smallest_on_top);
    TEST(counts_what_is_before);
    return TEST_RESULT();
}
