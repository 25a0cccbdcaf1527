#ifndef HSM_KEYRING_H
#define HSM_KEYRING_H

/*
 * The server's own objects in the token: PrKS with its certificate KSWCRT, the registry's SEAL
 * key, the AUDIT key and TMK-KEK. Made here with the attributes of one table, and checked against
 * the same table at each start: a key that could leave the token, or do more than its job, is
 * not served with.
 */

#include "hsm/token.h"
#include "wire/message.h"

enum prks_kind { PRKS_RSA, PRKS_P256 };

struct prks_spec {
    enum prks_kind kind;
    unsigned bits; /* 2048, 3072, 4096; P-256: 256 */
};

/* How a TMK is wrapped under TMK-KEK. */
enum tmk_wrap {
    TMK_WRAP_KW,  /* CKM_AES_KEY_WRAP (RFC 3394) */
    TMK_WRAP_KWP, /* CKM_AES_KEY_WRAP_PAD (RFC 5649) */
};

struct keyring {
    struct prks_spec prks_spec;
    token_handle prks;
    token_handle seal;
    token_handle audit;
    token_handle kek;
    enum tmk_wrap wrap;       /* for new wrapped TMKs: KWP where the token has it */
    struct cert_chain kswcrt; /* count 0: no certificate is installed yet */
};

/* "rsa:2048", "rsa:3072", "rsa:4096", "ec:p256" and back; FAIL_CONFIG for other words. */
int prks_spec_read(const char *text, struct prks_spec *ret_spec);
const char *prks_spec_name(const struct prks_spec *spec);

/* Told the label of each object that was made. */
typedef void keyring_made(void *context, const char *label);

/* Makes the keys that are not there yet; keeps those that are. */
int keyring_make(struct token_session *session, const struct prks_spec *prks, keyring_made *made,
                 void *context);

/* Finds the objects and checks every attribute that matters, that PrKS signs, and that KSWCRT,
 * when there is one, is the certificate of PrKS. FAIL_NOT_FOUND, FAIL_REFUSED with the object
 * and attribute in the sentence. */
int keyring_open(struct token_session *session, struct keyring *ret_keyring);

#endif
