#ifndef TMKPOS_OUTPUT_H
#define TMKPOS_OUTPUT_H

#include <jansson.h>

#include "common/spki.h"
#include "wire/message.h"

/* One JSON value on one line of standard output; takes the reference. FAIL_MEMORY for NULL. */
int output_json(json_t *value);

/* {"type","version","kcv"} and {"type","bits","sha256"}, NULL when there is no memory. */
json_t *output_tmk_json(const struct tmk_info *tmk);
json_t *output_key_json(const struct spki *key);

/* "des2 version 1 KCV 1ebf58" */
enum { TMK_TEXT_MAX = 64 };
char *output_tmk_text(const struct tmk_info *tmk, char ret_text[static TMK_TEXT_MAX]);

#endif
