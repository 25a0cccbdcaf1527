#ifndef TERMINAL_SECURE_MODULE_H
#define TERMINAL_SECURE_MODULE_H

/*
 * What the download needs of a terminal's secure module, as narrow as patent [0067] has it: no
 * function decrypts with TKP_Pr for the caller, none returns a clear TMK. A terminal maker fills
 * this table with calls of his own hardware; src/terminal/pkcs11_module.h is the reference.
 *
 * Each function returns 0 or an error of common/fail.h and leaves its outputs alone on failure.
 */

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

struct secure_module {
    void *context; /* given back to each function */

    /* len random bytes, for Rnd1 (S301). */
    int (*random)(void *context, uint8_t *ret_bytes, size_t len);

    /* C2' = E[TKP_Pu, Rnd2...] (S306) for this Rnd2 and transcript H. ret_c2 holds RSA_BLOCK_MAX.
     */
    int (*c2)(void *context, const uint8_t rnd2[static RND_LEN], const uint8_t h[static DIGEST_LEN],
              uint8_t *ret_c2, size_t *ret_len);

    /* Unwraps Ctmk with TKP_Pr (S311), compares the KCV, and stores the TMK in place of the one
     * before; when the KCV differs the key is destroyed, the one before stays, FAIL_REFUSED. */
    int (*install)(void *context, const struct delivery *delivery);

    /* confirm.mac: CMAC of the installed TMK over input (77 bytes). ret_mac holds MAC_MAX. */
    int (*confirm)(void *context, const uint8_t *input, size_t input_len, uint8_t *ret_mac,
                   size_t *ret_len);
};

#endif
