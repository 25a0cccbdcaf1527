#include "common/hex.h"

#include <string.h>

#include <openssl/evp.h>

#include "common/fail.h"

char *hex_encode(const uint8_t *bytes, size_t len, char *ret_text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        ret_text[2 * i] = digits[bytes[i] >> 4];
        ret_text[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret_text[2 * len] = '\0';
    return ret_text;
}

char *base64_encode(const uint8_t *bytes, size_t len, char *ret_text)
{
    EVP_EncodeBlock((unsigned char *)ret_text, bytes, (int)len);
    return ret_text;
}

int base64_decode(const char *text, uint8_t *ret_bytes, size_t size, size_t *ret_len)
{
    uint8_t bytes[4096];
    char again[sizeof(bytes) / 3 * 4 + 8];
    size_t chars = strlen(text);

    if (chars == 0 || chars % 4 != 0 || chars / 4 * 3 > sizeof(bytes) - 3)
        return fail(FAIL_MALFORMED, "not base64: %zu characters", chars);
    size_t padding = (size_t)(text[chars - 1] == '=') + (size_t)(text[chars - 2] == '=');
    /* Fewer bytes come back where it passed over white space at an end. */
    if (EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)chars) != (int)(chars / 4 * 3))
        return fail(FAIL_MALFORMED, "not base64");
    size_t len = chars / 4 * 3 - padding;
    if (len > size)
        return fail(FAIL_MALFORMED, "%zu bytes where at most %zu are expected", len, size);
    if (strcmp(base64_encode(bytes, len, again), text) != 0)
        return fail(FAIL_MALFORMED, "not base64 as RFC 4648 section 4 has it");
    memcpy(ret_bytes, bytes, len);
    *ret_len = len;
    return 0;
}
