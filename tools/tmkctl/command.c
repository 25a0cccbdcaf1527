#include "tools/tmkctl/command.h"

#include "common/fail.h"

int command_misused(const char *sentence)
{
    fail(FAIL_MALFORMED, "%s", sentence);
    return COMMAND_MISUSED;
}
