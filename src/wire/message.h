#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

/*
 * The seven messages of schema/tmk-download.asn1 as plain structs, and their strict DER.
 * A struct holds no pointer: it can be copied, compared and wiped as bytes.
 */

#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 1,
    SN_MAX = 64,         /* characters, each 0x21...0x7E */
    RND_LEN = 32,        /* bytes of Rnd1 and of Rnd2 */
    DIGEST_LEN = 32,     /* SHA-256 */
    RSA_BLOCK_MAX = 512, /* bytes of an RSA-4096 block: C1, C2, Ctmk */
    KCV_MIN = 3,
    KCV_MAX = 5,
    MAC_MIN = 8,            /* one TDEA block */
    MAC_MAX = 16,           /* one AES block */
    CHAIN_MAX = 4,          /* certificates, KSWCRT first */
    CHAIN_DER_MAX = 7168,   /* bytes of all of them: what fits a frame beside the rest */
    MESSAGE_MAX = 8192,     /* bytes of one Message: the largest frame */
    RETRY_AFTER_MAX = 3600, /* seconds */
    RETRY_AFTER_NONE = -1,
};

enum message_type {
    MESSAGE_HELLO,
    MESSAGE_CHALLENGE,
    MESSAGE_PROOF,
    MESSAGE_DELIVERY,
    MESSAGE_CONFIRM,
    MESSAGE_DONE,
    MESSAGE_FAILURE,
};

enum tmk_type { TMK_DES2, TMK_DES3, TMK_AES128, TMK_AES192, TMK_AES256 };

/* The hash of RSAES-OAEP and of its MGF1 (RFC 8017 7.1), label empty. */
enum oaep_hash { OAEP_SHA1, OAEP_SHA256 };

enum failure_code {
    FAILURE_MALFORMED = 1,
    FAILURE_UNSUPPORTED_VERSION,
    FAILURE_REJECTED,
    FAILURE_BUSY,
    FAILURE_INTERNAL,
};

/* Certificates one after another in DER, leaf (KSWCRT) first. */
struct cert_chain {
    size_t count;
    size_t len[CHAIN_MAX];
    uint8_t der[CHAIN_DER_MAX];
};

/* The key's name, length, version and check value: what may be said of a TMK. */
struct tmk_info {
    enum tmk_type type;
    uint32_t version; /* from 1 */
    size_t kcv_len;   /* 3 for TDEA, 5 for AES (ANSI X9.24-1) */
    uint8_t kcv[KCV_MAX];
};

struct hello {
    char sn[SN_MAX + 1]; /* zero-terminated */
    uint8_t rnd1[RND_LEN];
};

struct challenge_tbs {
    uint8_t rnd2[RND_LEN];
    uint8_t delivery_digest[DIGEST_LEN];
    struct cert_chain kswcrt;
};

struct challenge {
    struct challenge_tbs tbs;
    size_t c1_len;
    uint8_t c1[RSA_BLOCK_MAX];
};

struct proof {
    size_t c2_len;
    uint8_t c2[RSA_BLOCK_MAX];
};

struct delivery {
    size_t ctmk_len;
    uint8_t ctmk[RSA_BLOCK_MAX];
    enum oaep_hash transport;
    struct tmk_info tmk;
};

struct confirm {
    size_t mac_len;
    uint8_t mac[MAC_MAX];
};

struct done {
    uint32_t version; /* of the TMK */
};

struct failure {
    enum failure_code code;
    int retry_after; /* seconds, or RETRY_AFTER_NONE */
};

struct message {
    enum message_type type;
    union {
        struct hello hello;
        struct challenge challenge;
        struct proof proof;
        struct delivery delivery;
        struct confirm confirm;
        struct done done;
        struct failure failure;
    };
};

/* Whether sn is 1 to 64 characters, each 0x21...0x7E. */
int sn_is_valid(const char *sn);

/* Reads one Message. Strict: all of der is consumed, encoding again gives the same bytes, and
 * every size and range of the schema holds; else FAIL_MALFORMED. A Hello of another version:
 * FAIL_VERSION. *ret is changed only on success. */
int message_decode(const uint8_t *der, size_t len, struct message *ret);

/* Writes the DER of one Message. FAIL_MALFORMED when a field is out of the schema's range or
 * the result is over size bytes (MESSAGE_MAX is always enough for what a frame can carry). */
int message_encode(const struct message *message, uint8_t *ret_der, size_t size, size_t *ret_len);

/* Words for people: "hello", "des2", "malformed"... NULL for a value that is none. */
const char *message_type_name(enum message_type type);
const char *tmk_type_name(enum tmk_type type);
const char *failure_code_name(enum failure_code code);

/* The type of that name into *ret_type; FAIL_NOT_FOUND, with the names there are. */
int tmk_type_from_name(const char *name, enum tmk_type *ret_type);

/* Sizes that follow from the type. */
size_t tmk_type_key_len(enum tmk_type type); /* bytes: 16, 24, 16, 24, 32 */
size_t tmk_type_kcv_len(enum tmk_type type); /* bytes: 3 for TDEA, 5 for AES */
size_t tmk_type_mac_len(enum tmk_type type); /* bytes of a CMAC block: 8 or 16 */
int tmk_type_is_aes(enum tmk_type type);

/* Adds one DER certificate; FAIL_MALFORMED when it no longer fits CHAIN_MAX or CHAIN_DER_MAX. */
int cert_chain_add(struct cert_chain *chain, const uint8_t *der, size_t len);

/* The i-th certificate, 0 the leaf. */
const uint8_t *cert_chain_at(const struct cert_chain *chain, size_t i, size_t *ret_len);

#endif
