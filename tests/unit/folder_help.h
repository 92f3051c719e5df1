/* A test's own folder, gone with all that is in it. */
#ifndef TESTS_UNIT_FOLDER_HELP_H
#define TESTS_UNIT_FOLDER_HELP_H

#include <ftw.h>
#include <stdio.h>

static inline int help_drop(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

static inline void help_remove_folder(const char *path)
{
    nftw(path, help_drop, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
