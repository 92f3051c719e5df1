/* What keystore.c (memory, the public calls) and keystore_file.c (the database and the secret) share. */
#ifndef SCHEDULER_AUTH_KEYSTORE_INTERNAL_H
#define SCHEDULER_AUTH_KEYSTORE_INTERNAL_H

#include "scheduler/auth/hash_table.h"
#include "scheduler/auth/keystore.h"

#define KEYSTORE_SECRET_BYTES 32

struct key_row { /* one row of the table, borrowed from the statement or the caller */
    struct key_info info;
    struct hash hash, old_hash;
    bool has_old;
};
typedef void key_row_cb(const struct key_row *row, void *arg);

/* The file. One thread at a time; the caller serialises. */
struct keyfile;
enum rc keyfile_open(struct keyfile **f, const char *path, const char *secret_path,
                     unsigned char secret[KEYSTORE_SECRET_BYTES], struct error *e) SPW_MUST_USE;
void keyfile_close(struct keyfile *f);
/* The database says with which secret it was made: RC_INVALID if `check` is another's. An empty one takes it over. */
enum rc keyfile_check_secret(struct keyfile *f, const struct hash *check, struct error *e) SPW_MUST_USE;
/* Rows of this id and tenant; NULL: of all. A row that can't be understood is RC_INVALID. */
enum rc keyfile_read(struct keyfile *f, const char *id, const char *tenant, key_row_cb *cb, void *arg,
                     struct error *e) SPW_MUST_USE;
enum rc keyfile_insert(struct keyfile *f, const struct key_row *row, struct error *e) SPW_MUST_USE;
enum rc keyfile_rotate(struct keyfile *f, const char *id, const struct hash *hash, const char *tail, int64_t now_s,
                       int64_t old_until_s, struct error *e) SPW_MUST_USE; /* old_until_s 0: drop the old text */
enum rc keyfile_revoke(struct keyfile *f, const char *id, int64_t now_s, struct error *e) SPW_MUST_USE;

#endif
