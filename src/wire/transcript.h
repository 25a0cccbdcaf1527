#ifndef WIRE_TRANSCRIPT_H
#define WIRE_TRANSCRIPT_H

/*
 * What both sides compute over the messages: H, M1, the input of C2, the input of confirm.mac.
 * Public values and public-key arithmetic only; nothing here holds a key of a token.
 */

#include "wire/message.h"
#include "common/spki.h"

enum {
    M1_LEN = 8 + RND_LEN + DIGEST_LEN,                /* 72 bytes */
    CONFIRM_INPUT_LEN = 13 + DIGEST_LEN + DIGEST_LEN, /* 77 bytes */
};

/* deliveryDigest = SHA-256(DER(Delivery)), the SEQUENCE without the Message tag. */
int transcript_delivery_digest(const struct delivery *delivery,
                               uint8_t ret_digest[static DIGEST_LEN]);

/* H = SHA-256(DER(Hello) || DER(ChallengeTBS)). */
int transcript_hash(const struct hello *hello, const struct challenge_tbs *tbs,
                    uint8_t ret_h[static DIGEST_LEN]);

/* M1 = "TMKD-C1\x01" || Rnd1 || H, what C1 signs (patent S303, S305). */
void transcript_m1(const uint8_t rnd1[static RND_LEN], const uint8_t h[static DIGEST_LEN],
                   uint8_t ret_m1[static M1_LEN]);

/* EM of C2 (patent S306, S308): EME-OAEP (RFC 8017 7.1.1) of Rnd2 with SHA-256, MGF1-SHA-256,
 * label "TMKD-C2\x01" || H and the seed HMAC-SHA-256(SHA-256(SPKI), "TMKD-C2-SEED\x01" || H).
 * ret_em holds k = tkp_pu->modulus_len bytes. C2 is EM raised to TKP_Pu, which a token does. */
int transcript_c2_block(const struct spki *tkp_pu, const uint8_t rnd2[static RND_LEN],
                        const uint8_t h[static DIGEST_LEN], uint8_t ret_em[static RSA_BLOCK_MAX]);

/* "TMKD-CONFIRM\x01" || H || deliveryDigest, what confirm.mac covers. */
void transcript_confirm_input(const uint8_t h[static DIGEST_LEN],
                              const uint8_t delivery_digest[static DIGEST_LEN],
                              uint8_t ret_input[static CONFIRM_INPUT_LEN]);

#endif
