#ifndef TMKCTL_INTERRUPT_H
#define TMKCTL_INTERRUPT_H

/* For a command that must clean up after Ctrl-C: SIGINT, SIGTERM and SIGHUP are noted, once each;
 * a second one ends the program as usual. */
void interrupt_catch(void);

/* FAIL_REFUSED once a signal came, else 0. */
int interrupt_check(void);

#endif
