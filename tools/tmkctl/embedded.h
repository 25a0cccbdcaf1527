#ifndef TMKCTL_EMBEDDED_H
#define TMKCTL_EMBEDDED_H

#include "tools/tmkctl/options.h"

/* init --embedded DIR: a whole server in one directory, for a machine with no HSM: configuration, a
 * SoftHSM token, the registry, a lab root and a KSWCRT under it. When a step fails, or a signal
 * comes, all that was made is removed again. */
int embedded_init(const struct options *options);

#endif
