/* Proves that a SQLite file of ours is waited for while another process has it, even as it is made; and not for ever.
 * links: spw_sched_store spw_base */
#include "tests/unit/test.h"

#include <pthread.h>
#include <sqlite3.h>
#include <unistd.h>

#include "scheduler/store/store.h"

static char folder[] = "/tmp/spw-store-XXXXXX";
static char path[64];

static void *lets_go(void *db)
{
    usleep(100000); /* who gives up at once has done so by then */
    CHECK(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    return NULL;
}

static sqlite3 *taken(void)
{
    sqlite3 *db;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK && sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    return db;
}

static void test_new_and_taken(void)
{
    sqlite3 *other = taken(), *db;
    pthread_t thread;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(pthread_create(&thread, NULL, lets_go, other) == 0);
    CHECK_INT(store_use(db, 60000), SQLITE_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(sqlite3_close(db) == SQLITE_OK && sqlite3_close(other) == SQLITE_OK);
    unlink(path);
}

static void test_taken_for_good(void)
{
    sqlite3 *other = taken(), *db;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK_INT(store_use(db, 30), SQLITE_BUSY);
    CHECK(sqlite3_close(db) == SQLITE_OK && sqlite3_close(other) == SQLITE_OK);
    unlink(path);
}

static int same(void *wanted, int n, char **values, char **names)
{
    (void)names;
    CHECK_INT(n, 1);
    CHECK_STR(values[0], wanted);
    return 0;
}

static void test_what_it_sets(void)
{
    sqlite3 *db;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK_INT(store_use(db, 1000), SQLITE_OK);
    CHECK(sqlite3_exec(db, "PRAGMA journal_mode", same, "wal", NULL) == SQLITE_OK);
    CHECK(sqlite3_exec(db, "PRAGMA synchronous", same, "2", NULL) == SQLITE_OK); /* FULL */
    CHECK(sqlite3_exec(db, "PRAGMA trusted_schema", same, "0", NULL) == SQLITE_OK);
    CHECK(sqlite3_exec(db, "PRAGMA busy_timeout", same, "1000", NULL) == SQLITE_OK);
    CHECK(sqlite3_close(db) == SQLITE_OK);
    unlink(path);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/file.db", folder);
    TEST(test_new_and_taken);
    TEST(test_taken_for_good);
    TEST(test_what_it_sets);
    rmdir(folder);
    return TEST_RESULT();
}
