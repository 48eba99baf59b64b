"""Replaces itself by a program that the kernel kills as soon as its parent process is gone.

Usage:
    python die_with_parent.py <parent's process id> <program> [<argument> ...]

The request survives `exec`. Making it between `fork` and `exec` instead would run Python in the
copy of a process with other threads, which may hold any lock.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it was gone before the request was made
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers have Ctrl-C blocked
    os.execv(command[0], command)
