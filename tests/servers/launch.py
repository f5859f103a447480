"""Become a server that dies with its parent: `launch.py PARENT_PID DEATH_SIGNAL USER COMMAND...`.

A process of its own, because code between fork and exec is unsafe in a parent that has threads
(librdkafka's, the writers'). USER is a name to become, or `-`.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, death_signal, user, *command = sys.argv[1:]
    if user != "-":
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    # After setuid, which clears it.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent_pid):  # it died before it was asked to take us along
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
