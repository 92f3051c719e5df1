/* Any text as a configuration: never a crash, and either a configuration or at least one problem with its place.
 * links: spw_sched_config */
#include <stddef.h>
#include <stdint.h>

#include "scheduler/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *c = NULL;
    struct strbuf problems;

    strbuf_init(&problems, 1 << 20);
    enum rc rc = config_parse(&c, (const char *)data, size, "fuzz", &problems);
    SPW_ASSERT((rc == RC_OK) == (c != NULL));
    SPW_ASSERT((rc == RC_OK) == (problems.len == 0));
    if (c) {
        struct strbuf out;
        strbuf_init(&out, 8 << 20);
        (void)config_warnings(c, &out);
        (void)config_dump_json(c, &out);
        strbuf_fini(&out);
    }
    config_free(c);
    strbuf_fini(&problems);
    return 0;
}
