#include "tools/tmkctl/rejects.h"

#include <inttypes.h>
#include <unistd.h>

#include "common/fail.h"

static int open_first(struct rejects *rejects)
{
    if (rejects->file)
        return 0;
    rejects->file = fopen(rejects->path, "we");
    if (!rejects->file)
        return fail_system("cannot make %s", rejects->path);
    fputs("sn,public_key\n", rejects->file);
    return 0;
}

int rejects_add(struct rejects *rejects, FILE *from, const struct csv_place *row)
{
    char block[4096];
    char last = '\n';
    size_t left = row->length;
    off_t at = row->start;

    int rc = open_first(rejects);
    while (rc == 0 && left > 0) {
        size_t want = left < sizeof(block) ? left : sizeof(block);
        ssize_t got = pread(fileno(from), block, want, at);
        if (got <= 0)
            return fail_system("cannot read line %" PRIu64 " again", row->line);
        fwrite(block, 1, (size_t)got, rejects->file);
        last = block[got - 1];
        left -= (size_t)got;
        at += got;
    }
    if (rc == 0 && last != '\n')
        putc('\n', rejects->file);
    return rc;
}

int rejects_close(struct rejects *rejects)
{
    if (!rejects->file)
        return 0;
    int failed = ferror(rejects->file);
    failed |= fclose(rejects->file) != 0;
    rejects->file = NULL;
    return failed ? fail_system("cannot write %s", rejects->path) : 0;
}
