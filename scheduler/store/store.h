/* What every SQLite file of ours has: a write-ahead log, commits that are flushed, no trust in what functions its
 * schema names, and patience with other processes. */
#ifndef SCHEDULER_STORE_STORE_H
#define SCHEDULER_STORE_STORE_H

#include <sqlite3.h>

/* Before anything else is asked of a connection for writing. Others are waited for up to `busy_ms`, here and later.
 * Returns SQLITE_OK or SQLite's error. */
int store_use(sqlite3 *db, int busy_ms);

#endif
