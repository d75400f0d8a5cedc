"""Processes, as the benchmark sees them: everything that it starts stays below it, is measured there, and is ended.

The benchmark makes itself a child subreaper, so that also what daemonises itself stays a descendant. A thread reaps
whatever ends and notes the moment; nothing else in this program may wait for children.
"""

import ctypes
import os
import select
import signal
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")


class Ended(Exception):
    """A program ended with something other than what was hoped for."""


class Child:
    """A program that the benchmark started itself."""

    def __init__(self, reaper, pid, started, output):
        self.reaper, self.pid, self.started, self.output = reaper, pid, started, output

    def wait(self, seconds):
        """The moment of its end in nanoseconds, and its exit code (negative: the signal)."""
        return self.reaper.wait(self.pid, self.started, seconds)

    def failed(self):
        """Whether it has ended with anything but 0."""
        with self.reaper.changed:
            at, code = self.reaper.ended.get(self.pid, (0, 0))
            return at >= self.started and code != 0

    def text(self):
        """What it has printed so far."""
        with open(self.output, errors="replace") as f:
            return f.read()


class Reaper:
    """Starts programs and notes how and when each process below the benchmark ends."""

    def __init__(self):
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self.ended = {}
        self.changed = threading.Condition()
        self.some = threading.Semaphore(0)
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self):
        while True:
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
                at = time.monotonic_ns()
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.some.acquire(timeout=0.05)
                continue
            if pid:
                with self.changed:
                    self.ended[pid] = (at, os.waitstatus_to_exitcode(status))
                    self.changed.notify_all()

    def spawn(self, argv, env, output, nofile=None):
        """Starts `argv` in a session of its own, without input, both outputs going to the file `output`."""
        if nofile:
            argv = ["/bin/sh", "-c", f'ulimit -n {nofile} && exec "$0" "$@"', *argv]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        started = time.monotonic_ns()
        pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True)
        self.some.release()
        return Child(self, pid, started, output)

    def wait(self, pid, since, seconds):
        """See `Child.wait`; `since` tells this process from an earlier one with the same pid."""
        with self.changed:
            known = lambda: pid in self.ended and self.ended[pid][0] >= since
            if not self.changed.wait_for(known, seconds):
                raise TimeoutError(f"process {pid} has not ended within {seconds} s")
            return self.ended[pid]

    def end_all(self):
        """Ends every process below the benchmark, by its pid, until there is none."""
        deadline = time.monotonic() + 30
        while below := descendants():
            for pid in below:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes that can't be ended: {below}")
            time.sleep(0.01)


def _stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rpartition(b")")[2].split()


def descendants():
    """The pids of every living process below this one."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = _stat(name)
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found, queue = [], [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def pss_bytes(pids):
    """Proportional set size of them together."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:")) * 1024
        except OSError:
            pass
    return total


def cpu_seconds(pids):
    """Processor time of each, with that of the children it has waited for.

    By the scheduler's own count in nanoseconds; where the kernel keeps none, in clock ticks.
    """
    seconds = {}
    for pid in pids:
        try:
            fields = _stat(pid)
            own = 0
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    own += int(f.read().split()[0])
        except FileNotFoundError:
            continue
        except OSError:
            own = 0
        utime, stime, cutime, cstime = (int(f) / TICK for f in fields[11:15])
        seconds[pid] = (own / 1e9 if own else utime + stime) + cutime + cstime
    return seconds


def cpu_between(before, after):
    """Processor seconds used between two answers of `cpu_seconds`, by those that were there at the end."""
    return sum(max(0.0, used - before.get(pid, 0.0)) for pid, used in after.items())


def wait_gone(pids, seconds):
    """Waits until none of them lives; the moment in nanoseconds at which the last was gone."""
    deadline = time.monotonic() + seconds
    pids = list(pids)
    # In portions, so that a limit of 1,024 open files is enough.
    for start in range(0, len(pids), 400):
        fds, poll = set(), select.poll()
        try:
            for pid in pids[start : start + 400]:
                try:
                    fd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                fds.add(fd)
                poll.register(fd, select.POLLIN)
            while fds:
                ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not ready:
                    raise TimeoutError(f"{len(fds)} processes still live after {seconds} s")
                for fd, _ in ready:
                    poll.unregister(fd)
                    fds.remove(fd)
                    os.close(fd)
        finally:
            for fd in fds:
                os.close(fd)
    return time.monotonic_ns()
