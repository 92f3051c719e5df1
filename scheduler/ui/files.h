/* The folder of reports, seen from a browser: what is in it, and one file of it. Names are those that reports
 * can have (report/files.h), a file is a regular one of the folder itself, and links are not followed: no name leads
 * anywhere else. Blocks; a thread's. */
#ifndef SCHEDULER_UI_FILES_H
#define SCHEDULER_UI_FILES_H

#include "base/alloc.h"
#include "scheduler/report/files.h"

#define FILES_MAX      400 /* that are listed, the newest */
#define FILES_NAME_MAX 255
#define FILES_ONE_MAX  ((size_t)32 << 20)

/* Its format, by its name. False: no report has such a name. */
bool files_kind(const char *name, enum report_format *f);

struct file_seen {
    char name[FILES_NAME_MAX + 1];
    int64_t bytes, changed_s;
};
struct files {            /* by name, the last first */
    struct file_seen *of; /* owned */
    int n, in_all;
    char why[200]; /* the folder cannot be read; "": it was, or there is none yet */
};
void files_list(struct files *f, const char *folder);
void files_free(struct files *f); /* {0} is fine */
/* All of it, into b, which is empty and has its bound. RC_NOT_FOUND: there is no such report. RC_FULL, RC_IO. */
enum rc files_read(struct strbuf *b, const char *folder, const char *name, struct error *e) SPW_MUST_USE;

#endif
