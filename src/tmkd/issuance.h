#ifndef TMKD_ISSUANCE_H
#define TMKD_ISSUANCE_H

#include "tmkd/crew.h"

/*
 * A TMK from its making in the token to its row in the registry, and back when the row is not
 * written: a worker makes it, the writer adds the row and then the TMK to the index.
 */
struct issuance {
    struct terminal terminal; /* as its row is to be */
    token_handle made;        /* store token: the object; 0 otherwise */
    int indexed;
};

/* In a worker: a TMK for issuance->terminal, and the seal over the whole. */
int issuance_make(struct issuance *issuance, struct station *station, enum tmk_type type,
                  uint32_t version);

/* In the writer, in the transaction that adds the row. */
int issuance_index(struct issuance *issuance, struct station *station);

/* Takes it back: nothing of it is left in token or index. */
void issuance_drop(struct issuance *issuance, struct station *station);

/* Token TMKs that have no row any more once a commit is durable, and are destroyed then: a commit
 * that fails must leave them where they are. A terminal has at most RETIRED_MAX older versions. */
enum { RETIRED_MAX = 32 };

struct retired {
    char sn[SN_MAX + 1];
    size_t count;
    struct {
        uint32_t version;
        token_handle tmk;
    } tmks[RETIRED_MAX];
};

/* In the writer: forgets the TMKs of versions below `below`. */
int retired_collect(struct station *station, const char *sn, uint32_t below,
                    struct retired *ret_retired);

/* In a worker, after the commit. */
int retired_destroy(struct retired *retired, struct station *station);

#endif
