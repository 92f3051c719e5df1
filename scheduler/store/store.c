#include "scheduler/store/store.h"

#include <stddef.h>

#define STEP_MS 10

/* While somebody else has a file that is still new, SQLite says so at once, whatever the time that it may wait. */
static int use_log(sqlite3 *db, int busy_ms)
{
    int rc = SQLITE_BUSY;

    for (int ms = 0; rc == SQLITE_BUSY && ms <= busy_ms; ms += STEP_MS) {
        if (ms)
            sqlite3_sleep(STEP_MS);
        rc = sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
    }
    return rc;
}

int store_use(sqlite3 *db, int busy_ms)
{
    int rc = sqlite3_busy_timeout(db, busy_ms);

    if (rc == SQLITE_OK)
        rc = use_log(db, busy_ms);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF", NULL, NULL, NULL);
    return rc;
}
