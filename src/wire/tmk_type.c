#include "wire/message.h"

#include <string.h>

#include "common/fail.h"

enum { TDEA_BLOCK = 8, AES_BLOCK = 16 };

/* Key check values as ANSI X9.24-1 has them: 3 bytes of a TDEA block, 5 of an AES CMAC. */
static const struct {
    const char *name;
    size_t key_len;
    size_t block_len;
} types[] = {
    [TMK_DES2] = {"des2", 16, TDEA_BLOCK},    [TMK_DES3] = {"des3", 24, TDEA_BLOCK},
    [TMK_AES128] = {"aes128", 16, AES_BLOCK}, [TMK_AES192] = {"aes192", 24, AES_BLOCK},
    [TMK_AES256] = {"aes256", 32, AES_BLOCK},
};

static int is_type(enum tmk_type type)
{
    return type <= TMK_AES256;
}

const char *tmk_type_name(enum tmk_type type)
{
    return is_type(type) ? types[type].name : NULL;
}

int tmk_type_from_name(const char *name, enum tmk_type *ret_type)
{
    for (enum tmk_type type = TMK_DES2; type <= TMK_AES256; type++) {
        if (strcmp(types[type].name, name) == 0) {
            *ret_type = type;
            return 0;
        }
    }
    return fail(FAIL_NOT_FOUND,
                "no TMK type \"%s\"; there are des2, des3, aes128, aes192 and aes256", name);
}

size_t tmk_type_key_len(enum tmk_type type)
{
    return is_type(type) ? types[type].key_len : 0;
}

size_t tmk_type_kcv_len(enum tmk_type type)
{
    return tmk_type_is_aes(type) ? KCV_MAX : KCV_MIN;
}

size_t tmk_type_mac_len(enum tmk_type type)
{
    return is_type(type) ? types[type].block_len : 0;
}

int tmk_type_is_aes(enum tmk_type type)
{
    return is_type(type) && types[type].block_len == AES_BLOCK;
}
