"""The rows of the table, and the sessions that measure them."""

import os
import pathlib
import re
import shutil
import signal
import socket
import time

from processes import Ended, cpu_between, cpu_seconds, descendants, pss_bytes, wait_gone
from systems import Harness, Session

LINES = 1_000_000
# Services that are this old are stable for every system here.
STABLE_SECONDS = 11
PATIENCE = 120

# What is measured, in the table's order: key, heading, digits after the point.
FIGURES = [
    ("start-100", "100 services listening, from nothing running, ms", 0),
    ("ready-100", "… until `start` has returned, all of them ready, ms", 0),
    ("start-500", "500 services listening, ms", 0),
    ("ready-500", "… until `start` has returned, ms", 0),
    ("start-1000", "1,000 services listening, ms", 0),
    ("ready-1000", "… until `start` has returned, ms", 0),
    ("start-1000-nofile", "1,000 services listening, under `ulimit -n 1024`, ms", 0),
    ("ready-1000-nofile", "… until `start` has returned, ms", 0),
    ("stop-100", "stop 100 until all are gone, ms", 0),
    ("stopped-100", "… until `stop` has returned, ms", 0),
    ("stop-1000", "stop 1,000 until all are gone, ms", 0),
    ("stopped-1000", "… until `stop` has returned, ms", 0),
    ("memory", "memory of everything that is not a service, 100 idle, PSS MiB", 1),
    ("idle", "CPU at idle over 10 s, 100 services, %", 3),
    ("replace", "SIGKILL of a stable service → its replacement listens, ms", 1),
    ("status", "status command, 100 services, ms", 1),
    ("help", "`--help`, ms", 1),
    ("lines-wall", "1,000,000 lines of 100 bytes until the last is in the log, wall ms", 0),
    ("lines-cpu", "… CPU of everything that is not the service, s", 2),
    ("lines-lost", "… lines not found intact exactly once", 0),
]

# What may be asked for with --only, and the kind of session that answers it.
ROWS = {
    "start-100": 100, "stop-100": 100, "memory": 100, "idle": 100, "replace": 100, "status": 100,
    "start-500": 500, "start-1000": 1000, "stop-1000": 1000, "start-1000-nofile": "nofile",
    "help": "help", "lines": "lines",
}  # fmt: skip


class Reports:
    """What the services say: a datagram each time that one listens or has printed its lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.pids = {}

    def next(self, seconds):
        """The numbers of the next report: port, pid and one or two moments in nanoseconds."""
        self.socket.settimeout(seconds)
        numbers = [int(n) for n in self.socket.recv(256).split()]
        if len(numbers) == 3:
            self.pids[numbers[0]] = numbers[1]
        return numbers

    def listening(self, count, main):
        """Waits for `count` ports; the moment at which the last began to listen. Ends early if `main` has failed."""
        last, deadline = 0, time.monotonic() + PATIENCE
        while len(self.pids) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"only {len(self.pids)} of {count} services listen")
            try:
                last = max(last, self.next(min(left, 1))[2])
            except TimeoutError:
                if main.failed():
                    raise Ended(f"it ended when {len(self.pids)} of {count} services were listening") from None
        return last


class Bench:
    """Carries sessions out; `wanted` are keys of ROWS."""

    def __init__(self, place, folder, reaper, wanted, first_port):
        self.place, self.folder, self.reaper = place, pathlib.Path(folder), reaper
        self.wanted, self.first_port = wanted, first_port
        self.sessions = 0

    def kinds(self, system):
        """The kinds of session that this system takes part in for the wanted rows."""
        kinds = []
        for row in self.wanted:
            kind = ROWS[row]
            # A thousand is a promise of harness alone; the floor tells what the machine can do.
            if kind in (1000, "nofile") and not (system.returns or (kind == 1000 and not system.programs)):
                continue
            if (kind == "help" and not system.help) or (kind == "lines" and not system.logs):
                continue
            if kind not in kinds:
                kinds.append(kind)
        return kinds

    def measure(self, system, kind):
        """One session; figures by their keys."""
        if kind == "help":
            session = self.session(system, 0)
            return {"help": self.time_command(system.help, system.env(session), session)}
        if kind == "lines":
            return self.in_session(system, 1, None, self.lines)
        if kind == "nofile":
            return self.in_session(system, 1000, 1024, self.services, suffix="-nofile")
        return self.in_session(system, kind, None, self.services)

    def session(self, system, count):
        self.sessions += 1
        folder = self.folder / f"s{self.sessions}"
        folder.mkdir()
        session = Session(self.place, folder, count, self.first_port, str(folder / "report"))
        system.prepare(session)
        return session

    def in_session(self, system, count, nofile, body, suffix=""):
        session = self.session(system, count)
        reports = Reports(session.report)
        try:
            main = self.reaper.spawn(system.start_argv(session), system.env(session), session.output, nofile)
            try:
                return body(system, session, reports, main, suffix)
            except Exception as error:
                said = main.text().strip().splitlines()[-5:]
                raise Ended(f"{error}" + "".join(f"\n    {line}" for line in said)) from error
        finally:
            reports.socket.close()
            self.reaper.end_all()
            shutil.rmtree(session.folder, ignore_errors=True)

    def started(self, system, session, reports, main):
        """Waits until everything listens; milliseconds till then, and till `start` has returned."""
        listening = (reports.listening(session.count, main) - main.started) / 1e6
        if not system.returns:
            return listening, None
        ended, code = main.wait(PATIENCE)
        if code != 0:
            raise Ended(f"start ended with {code}")
        return listening, (ended - main.started) / 1e6

    def services(self, system, session, reports, main, suffix):
        count, figures = session.count, {}
        name = f"{count}{suffix}"
        listening, ready = self.started(system, session, reports, main)
        since = time.monotonic()
        figures[f"start-{name}"] = listening
        if ready is not None:
            figures[f"ready-{name}"] = ready
        if count == 100:
            figures |= self.idle(system, session, reports, since)
        if f"stop-{name}" in self.wanted:
            figures |= self.stop(system, session, reports, main)
        return figures

    def idle(self, system, session, reports, since):
        figures = {}
        supervising = system.programs or system.returns
        others = lambda: set(descendants()) - set(reports.pids.values())
        if supervising and self.wanted & {"memory", "idle", "status", "replace"}:
            time.sleep(2)
        if supervising and "memory" in self.wanted:
            figures["memory"] = pss_bytes(others()) / 2**20
        if supervising and "idle" in self.wanted:
            before, at = cpu_seconds(others()), time.monotonic()
            time.sleep(10)
            after = cpu_seconds(others())
            figures["idle"] = cpu_between(before, after) / (time.monotonic() - at) * 100
        status = system.status_argv(session)
        if "status" in self.wanted and status:
            figures["status"] = self.time_command(status, system.env(session), session, lines=session.count)
        if "replace" in self.wanted:
            time.sleep(max(0.0, since + STABLE_SECONDS - time.monotonic()))
            taken = [self.replace(reports, self.first_port + i) for i in (7, 42, 77)]
            figures["replace"] = sorted(taken)[1]
        return figures

    def replace(self, reports, port):
        pid = reports.pids[port]
        at = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        while True:
            report = reports.next(30)
            if report[0] == port:
                return (report[2] - at) / 1e6

    def stop(self, system, session, reports, main):
        if len(reports.pids) != session.count:
            raise Ended(f"{len(reports.pids)} of {session.count} services are there to be stopped")
        at = time.monotonic_ns()
        command = system.stop(session, main, self.reaper)
        figures = {f"stop-{session.count}": (wait_gone(reports.pids.values(), PATIENCE) - at) / 1e6}
        if command:
            ended, code = command.wait(PATIENCE)
            if code != 0:
                raise Ended(f"stop ended with {code}: {command.text()[-400:]}")
            if system.returns:
                figures[f"stopped-{session.count}"] = (ended - at) / 1e6
                # Whatever is still there after `stop` said that it is done would be a leak.
                deadline = time.monotonic() + 2
                while left := descendants():
                    if time.monotonic() > deadline:
                        raise Ended(f"{len(left)} processes are left after stop")
                    time.sleep(0.01)
        return figures

    def time_command(self, argv, env, session, lines=0, times=5):
        """Median milliseconds of a command that must end with 0 and print at least so many lines."""
        taken = []
        for _ in range(times):
            child = self.reaper.spawn(argv, env, session.output + ".command")
            ended, code = child.wait(PATIENCE)
            said = child.text()
            if code != 0 or said.count("\n") < lines:
                raise Ended(f"{' '.join(argv[:4])} … ended with {code}, {said.count(chr(10))} lines:\n{said[-300:]}")
            taken.append((ended - child.started) / 1e6)
        return sorted(taken)[times // 2]

    def lines(self, system, session, reports, main, _):
        self.started(system, session, reports, main)
        time.sleep(1.5)
        port, pid = next(iter(reports.pids.items()))
        others = set(descendants()) - {pid}
        before = cpu_seconds(others)
        with socket.create_connection(("127.0.0.1", port)) as c:
            c.sendall(f"lines {LINES}\n".encode())
        _, _, first, _ = reports.next(PATIENCE)
        last = f"line {LINES - 1:07} ".encode()
        deadline = time.monotonic() + PATIENCE
        while not any(last in tail(file) for file in system.log_files(session)):
            if time.monotonic() > deadline:
                raise TimeoutError("the last line has not come to the log")
            time.sleep(0.001)
        figures = {"lines-wall": (time.monotonic_ns() - first) / 1e6}
        if system.programs or system.returns:
            # The loggers may have a rest to write; what they use for it is theirs too.
            time.sleep(0.3)
            figures["lines-cpu"] = cpu_between(before, cpu_seconds(others))
        figures["lines-lost"] = wrong_lines(system.log_files(session), isinstance(system, Harness))
        return figures


def tail(path):
    try:
        with open(path, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 400))
            return f.read()
    except OSError:
        return b""


def wrong_lines(paths, cri):
    """How many of the lines are missing, doubled or damaged in these files together."""
    seen = bytearray(LINES)
    pattern = re.compile(rb"line (\d{7}) x{86}$", re.M)
    texts = []
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, p.name)):
        texts.append(path.read_bytes())
    text = b"".join(texts)
    if cri:
        # `time stream P|F text`: a P is continued by the next line of its stream.
        text = re.sub(rb"(?m)^\S+ \S+ P (.*)\n(?=\S+ \S+ [PF] )", rb"\1\0", text)
        text = re.sub(rb"\0\S+ \S+ [PF] ", b"", text)
    for match in pattern.finditer(text):
        number = int(match[1])
        if number < LINES:
            seen[number] = min(2, seen[number] + 1)
    return LINES - seen.count(1)
