#ifndef TMKPOS_COMMANDS_H
#define TMKPOS_COMMANDS_H

/* What the command line said, checked; and the commands. Each returns 0 or an error of
 * common/fail.h, and prints its result on standard output. */

enum { ADDRESS_MAX = 256 };

struct options {
    const char *dir;
    const char *sn;
    unsigned bits;           /* of a TKP to be made */
    const char *import_file; /* PEM of a TKP to take in, or NULL */
    const char *module;      /* path of the PKCS#11 module */
    char host[ADDRESS_MAX];
    char port[ADDRESS_MAX];
    const char *root_file; /* PEM of KSRCRT */
    int timeout;           /* seconds, for the whole download */
    int json;
    int verbose;
};

int command_init(const struct options *options);
int command_export(const struct options *options);
int command_download(const struct options *options);
int command_show(const struct options *options);
int command_tamper(const struct options *options);

#endif
