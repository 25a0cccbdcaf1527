#include "output.h"

#include <stdio.h>

#include "common/fail.h"
#include "common/hex.h"

int output_json(json_t *value)
{
    int rc = value && json_dumpf(value, stdout, JSON_COMPACT) == 0
                 ? 0
                 : fail(FAIL_MEMORY, "cannot write the result as JSON");

    json_decref(value);
    if (rc == 0)
        putchar('\n');
    return rc;
}

json_t *output_tmk_json(const struct tmk_info *tmk)
{
    char kcv[2 * KCV_MAX + 1];
    return json_pack("{s:s, s:I, s:s}", "type", tmk_type_name(tmk->type), "version",
                     (json_int_t)tmk->version, "kcv", hex_encode(tmk->kcv, tmk->kcv_len, kcv));
}

json_t *output_key_json(const struct spki *key)
{
    char sha256[2 * DIGEST_LEN + 1];
    return json_pack("{s:s, s:i, s:s}", "type", "rsa", "bits", (int)key->bits, "sha256",
                     hex_encode(key->sha256, sizeof(key->sha256), sha256));
}

char *output_tmk_text(const struct tmk_info *tmk, char ret_text[static TMK_TEXT_MAX])
{
    char kcv[2 * KCV_MAX + 1];
    snprintf(ret_text, TMK_TEXT_MAX, "%s version %u KCV %s", tmk_type_name(tmk->type), tmk->version,
             hex_encode(tmk->kcv, tmk->kcv_len, kcv));
    return ret_text;
}
