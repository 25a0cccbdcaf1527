#ifndef WIRE_TEMPLATE_H
#define WIRE_TEMPLATE_H

/*
 * Private to src/wire: what the files of the messages share. Each message has an OpenSSL ASN.1
 * template (upper case), which knows the tags, and a pair of functions that carry it to and from
 * its plain struct and check what a template cannot: the sizes and ranges of the schema.
 * X_read() changes *ret only where it succeeds; X_write() fills a template made by its owner, who
 * frees it whatever comes back. FAIL_MALFORMED or FAIL_MEMORY.
 */

#include <openssl/asn1.h>
#include <openssl/x509.h>

#include "wire/message.h"

/* A SIZE or a value range of the schema, and the field it belongs to. */
struct size_rule {
    const char *field;
    size_t min; /* bytes */
    size_t max; /* bytes, at most what the plain struct holds */
};

struct range_rule {
    const char *field;
    int64_t min;
    int64_t max;
};

int template_read_bytes(const ASN1_STRING *from, const struct size_rule *rule, uint8_t *ret,
                        size_t *ret_len);
int template_write_bytes(const uint8_t *bytes, size_t len, const struct size_rule *rule,
                         ASN1_STRING *ret);

int template_read_integer(const ASN1_INTEGER *from, const struct range_rule *rule, int64_t *ret);
int template_write_integer(int64_t value, const struct range_rule *rule, ASN1_INTEGER *ret);

int template_read_enumerated(const ASN1_ENUMERATED *from, const struct range_rule *rule,
                             int64_t *ret);
int template_write_enumerated(int64_t value, const struct range_rule *rule, ASN1_ENUMERATED *ret);

typedef struct hello_template HELLO;
typedef struct challenge_tbs_template CHALLENGE_TBS;
typedef struct challenge_template CHALLENGE;
typedef struct proof_template PROOF;
typedef struct delivery_template DELIVERY;
typedef struct confirm_template CONFIRM;
typedef struct done_template DONE;
typedef struct failure_template FAILURE;

DECLARE_ASN1_ITEM(HELLO)
DECLARE_ASN1_ITEM(CHALLENGE_TBS)
DECLARE_ASN1_ITEM(CHALLENGE)
DECLARE_ASN1_ITEM(PROOF)
DECLARE_ASN1_ITEM(DELIVERY)
DECLARE_ASN1_ITEM(CONFIRM)
DECLARE_ASN1_ITEM(DONE)
DECLARE_ASN1_ITEM(FAILURE)

/* Also FAIL_VERSION: a Hello of a version other than PROTOCOL_VERSION. */
int hello_read(const HELLO *from, struct hello *ret);
int hello_write(const struct hello *from, HELLO *ret);

int challenge_read(const CHALLENGE *from, struct challenge *ret);
int challenge_write(const struct challenge *from, CHALLENGE *ret);
int challenge_tbs_write(const struct challenge_tbs *from, CHALLENGE_TBS *ret);

int proof_read(const PROOF *from, struct proof *ret);
int proof_write(const struct proof *from, PROOF *ret);

int delivery_read(const DELIVERY *from, struct delivery *ret);
int delivery_write(const struct delivery *from, DELIVERY *ret);

int confirm_read(const CONFIRM *from, struct confirm *ret);
int confirm_write(const struct confirm *from, CONFIRM *ret);

int done_read(const DONE *from, struct done *ret);
int done_write(const struct done *from, DONE *ret);

int failure_read(const FAILURE *from, struct failure *ret);
int failure_write(const struct failure *from, FAILURE *ret);

/* The AlgorithmIdentifier of RSAES-OAEP with that hash and an empty label (RFC 4055 4.1). */
int transport_read(const X509_ALGOR *from, enum oaep_hash *ret);
int transport_write(enum oaep_hash hash, X509_ALGOR *ret);

#endif
