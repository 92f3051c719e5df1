/* Small files, whole: configuration, keys, messages. Blocks; start-up, command line and threads of their own only. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/alloc.h"

/* Read all of `path` (at most bytes_max) into *b, which is initialised here and the caller's to free even on failure.
 * RC_NOT_FOUND, RC_IO, RC_FULL name the path and the reason. */
enum rc file_read(struct strbuf *b, const char *path, size_t bytes_max, struct error *e) SPW_MUST_USE;
/* The file's text without trailing newlines, for keys and tokens; empty files are RC_INVALID. Caller frees. The content
 * never appears in errors. */
enum rc file_read_secret(char **secret, const char *path, struct error *e) SPW_MUST_USE;
/* The whole number >= 0 that is a file's first line, as in the kernel's. False: errno says why, or it is none. */
bool file_read_int(const char *path, int64_t *v);
/* All of the file is these bytes, durably, or what it was before: written beside it and renamed. mode: 0600 for
 * secrets. */
enum rc file_replace(const char *path, unsigned mode, const void *data, size_t n, struct error *e) SPW_MUST_USE;
/* All n bytes, however often the system takes less at once; false: errno says why (0: the file is shorter).
 * write_all() at the file's position; the others at `at`. */
bool file_write_all(int fd, const void *data, size_t n);
bool file_write_all_at(int fd, const void *data, size_t n, int64_t at);
bool file_read_all_at(int fd, void *data, size_t n, int64_t at);
/* Bytes from..until of a file into a new one of mode 0640, durably; what a damaged file has left is kept so. */
bool file_keep_part(int fd, int64_t from, int64_t until, const char *path);
/* The folder that holds `path` is flushed: a name that was just made in it survives a power cut. Some file systems
 * can't do that, and nothing is to be done about it then. */
void file_sync_folder_of(const char *path);
/* How many files and sockets this process may have open at a time: raised to `wanted`, or to what the system lets it
 * have (the hard limit), and never lowered. Returns what holds now; INT64_MAX: there is no limit. */
int64_t file_may_open(int64_t wanted);

#endif
