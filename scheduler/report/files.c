#include "scheduler/report/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "base/text.h"

#define HASH_BYTES 4

static const struct format {
    const char *name, *type;
} formats[REPORT_FORMATS] = {
    [REPORT_HTML] = {"html", "text/html"},
    [REPORT_CSV] = {"csv", "text/csv"},
    [REPORT_JSON] = {"json", "application/json"},
    [REPORT_MD] = {"md", "text/markdown"},
};

const char *report_format_name(enum report_format f)
{
    return formats[f].name;
}

const char *report_format_type(enum report_format f)
{
    return formats[f].type;
}

bool report_format_parse(const char *name, size_t n, enum report_format *f)
{
    for (int i = 0; i < REPORT_FORMATS; i++)
        if (strlen(formats[i].name) == n && strncmp(formats[i].name, name, n) == 0) {
            *f = (enum report_format)i;
            return true;
        }
    return false;
}

enum rc report_write(const struct report *r, enum report_format f, enum report_focus focus, FILE *out, struct error *e)
{
    switch (f) {
    case REPORT_HTML: return report_write_html(r, out, e);
    case REPORT_CSV: return report_write_csv(r, focus, out, e);
    case REPORT_JSON: return report_write_json(r, out, e);
    case REPORT_MD: return report_write_md(r, out, e);
    case REPORT_FORMATS: break;
    }
    return error_set(e, RC_INVALID, "there is no such format");
}

#define BESIDE         "-_." /* letters and digits, in the names of files */
#define FILE_BYTES_MAX 255
char *report_file_name(const struct report *r, enum report_format f)
{
    const char *team = r->team ? r->team : "";
    uint8_t hash[SHA256_BYTES];
    char hex[2 * HASH_BYTES + 1] = "";
    if (*team && !text_is_word(team, BESIDE, SIZE_MAX)) {
        sha256(team, strlen(team), hash);
        text_hex(hex, hash, HASH_BYTES);
    }
    char *name = spw_asprintf("spillway-%s%s%.100s%s%s.%s", r->period.name, *team ? "-" : "", team, *hex ? "-" : "",
                              hex, formats[f].name);
    for (char *p = name; *p; p++)
        if (!text_is_alnum(*p) && !strchr(BESIDE, *p))
            *p = '_';
    return name;
}

bool report_file_name_ok(const char *name)
{
    return name[0] != '.' && text_is_word(name, BESIDE, FILE_BYTES_MAX);
}

enum rc report_put_file(const struct report *r, enum report_format f, enum report_focus focus, const char *folder,
                        const char *name, struct error *e)
{
    if (mkdir(folder, 0750) != 0 && errno != EEXIST)
        return error_set(e, RC_IO, "%s: %s", folder, strerror(errno));
    char *path = spw_asprintf("%s/%s", folder, name), *part = spw_asprintf("%s.part", path);
    const int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    enum rc rc = out ? report_write(r, f, focus, out, e) : error_set(e, RC_IO, "%s: %s", part, strerror(errno));
    if (rc == RC_OK && (fflush(out) != 0 || fsync(fd) != 0))
        rc = error_set(e, RC_IO, "%s: %s", part, strerror(errno));
    if (out)
        fclose(out);
    if (rc == RC_OK && rename(part, path) != 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (rc != RC_OK && fd >= 0)
        unlink(part);
    free(path);
    free(part);
    return rc;
}
