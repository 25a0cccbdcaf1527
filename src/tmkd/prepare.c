#include "tmkd/prepare.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/fail.h"
#include "hsm/c1.h"
#include "hsm/c2.h"

/* One hello on its way through the steps. */
struct preparation {
    struct vault *vault;
    struct token_session *session;
    const struct hello *hello;
    struct offer *offer;
    struct terminal found;           /* the row of this SN */
    const struct terminal *terminal; /* it, or the decoy */
    struct spki tkp_pu;
    token_handle tkp_pu_key;
    token_handle tmk;
    uint8_t h[DIGEST_LEN];
    struct message delivery;
    struct message challenge;
};

/* A TMK that should be in the token and is not: an operator's affair, not a stranger's. */
static int lacks_tmk(struct vault *vault, const struct terminal *terminal)
{
    token_handle tmk;
    return terminal->store == TMK_STORE_TOKEN &&
           vault_find_tmk(vault, terminal->sn, terminal->tmk.version, &tmk) < 0;
}

static const char *reason_against(struct vault *vault, const struct terminal *terminal)
{
    if (terminal->state != TERMINAL_ENABLED)
        return "the terminal is disabled";
    if (terminal->store == TMK_STORE_NONE)
        return "the terminal has no TMK";
    if (terminal->status == DELIVERY_CONFIRMED && !vault->redeliver_always)
        return "the TMK is confirmed already: reopen it, or rotate";
    if (lacks_tmk(vault, terminal))
        return "the token has no TMK of this SN and version";
    return "";
}

static void set_reason(struct preparation *p, const char *reason)
{
    snprintf(p->offer->reason, sizeof(p->offer->reason), "%s", reason);
}

/* A seal is computed in either case, so that an unknown SN costs what a known one does. */
static int look_up(struct preparation *p, struct registry *registry)
{
    int found = registry_find(registry, p->hello->sn, &p->found);
    if (found < 0 && found != FAIL_NOT_FOUND && found != FAIL_SEAL)
        return found;
    const struct terminal *sealed = found == 0 ? &p->found : &p->vault->decoy;
    int seal = vault_check_seal(p->vault, p->session, sealed);
    if (seal < 0 && seal != FAIL_SEAL)
        return seal;
    if (found == FAIL_NOT_FOUND)
        set_reason(p, "the SN is unknown");
    else if (found < 0 || seal < 0)
        set_reason(p, "the seal does not fit the registry's row");
    else
        set_reason(p, reason_against(p->vault, &p->found));
    p->terminal = p->offer->reason[0] == '\0' ? &p->found : &p->vault->decoy;
    p->offer->row_version = p->terminal->row_version;
    p->offer->tmk = p->terminal->tmk;
    return 0;
}

static int take_keys(struct preparation *p)
{
    int rc = spki_read(p->terminal->spki, p->terminal->spki_len, &p->tkp_pu);
    if (rc == 0)
        rc = vault_take_tmk(p->vault, p->session, p->terminal, &p->tmk);
    if (rc == 0)
        rc = c2_take_key(p->session, &p->tkp_pu, &p->tkp_pu_key);
    return rc;
}

static void leave_keys(struct preparation *p)
{
    if (p->tkp_pu_key)
        token_destroy(p->session, p->tkp_pu_key);
    if (p->tmk)
        vault_leave_tmk(p->session, p->terminal, p->tmk);
}

/* Ctmk, and what will be sent with it (S309). */
static int make_delivery(struct preparation *p)
{
    struct delivery *delivery = &p->delivery.delivery;
    p->delivery.type = MESSAGE_DELIVERY;
    delivery->transport = p->vault->oaep;
    delivery->tmk = p->terminal->tmk;
    int rc = tmk_wrap_for_terminal(p->session, p->tkp_pu_key, p->tmk, p->vault->oaep,
                                   delivery->ctmk, &delivery->ctmk_len);
    if (rc == 0)
        rc = message_encode(&p->delivery, p->offer->delivery, sizeof(p->offer->delivery),
                            &p->offer->delivery_len);
    return rc;
}

static int make_tbs(struct preparation *p)
{
    struct challenge_tbs *tbs = &p->challenge.challenge.tbs;
    vault_chain(p->vault, &tbs->kswcrt);
    int rc = token_random(p->session, tbs->rnd2, sizeof(tbs->rnd2));
    if (rc == 0)
        rc = transcript_delivery_digest(&p->delivery.delivery, tbs->delivery_digest);
    if (rc == 0)
        rc = transcript_hash(p->hello, tbs, p->h);
    return rc;
}

static int make_c2(struct preparation *p)
{
    uint8_t em[RSA_BLOCK_MAX];
    int rc = transcript_c2_block(&p->tkp_pu, p->challenge.challenge.tbs.rnd2, p->h, em);
    if (rc == 0)
        rc = c2_encrypt(p->session, p->tkp_pu_key, em, p->tkp_pu.modulus_len, p->offer->c2,
                        &p->offer->c2_len);
    OPENSSL_cleanse(em, sizeof(em));
    return rc;
}

static int make_confirm_mac(struct preparation *p)
{
    uint8_t input[CONFIRM_INPUT_LEN];
    transcript_confirm_input(p->h, p->challenge.challenge.tbs.delivery_digest, input);
    return tmk_mac(p->session, p->terminal->tmk.type, p->tmk, input, sizeof(input), p->offer->mac,
                   &p->offer->mac_len);
}

static int make_challenge(struct preparation *p)
{
    struct challenge *challenge = &p->challenge.challenge;
    uint8_t m1[M1_LEN];
    p->challenge.type = MESSAGE_CHALLENGE;
    transcript_m1(p->hello->rnd1, p->h, m1);
    int rc = c1_sign(p->session, &p->vault->keyring, m1, challenge->c1, &challenge->c1_len);
    if (rc == 0)
        rc = message_encode(&p->challenge, p->offer->challenge, sizeof(p->offer->challenge),
                            &p->offer->challenge_len);
    return rc;
}

int prepare_offer(struct vault *vault, struct token_session *session, struct registry *registry,
                  const struct hello *hello, struct offer *ret_offer)
{
    struct preparation p = {.vault = vault, .session = session, .hello = hello, .offer = ret_offer};
    int rc = FAIL_TOKEN;

    memset(ret_offer, 0, sizeof(*ret_offer));
    if ((rc = look_up(&p, registry)) < 0 || (rc = take_keys(&p)) < 0 ||
        (rc = make_delivery(&p)) < 0 || (rc = make_tbs(&p)) < 0 || (rc = make_c2(&p)) < 0 ||
        (rc = make_confirm_mac(&p)) < 0)
        leave_keys(&p);
    else {
        leave_keys(&p);
        rc = make_challenge(&p);
    }
    return rc;
}
