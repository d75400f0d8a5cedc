"""The systems that are compared: how each is told what to run, started, asked and stopped.

A system gets a folder of its own for each session and writes its configuration there; that is not part of what is
timed. Service number `i` listens on `first_port + i` and is called `svc0000` and so on.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess

# Logs are rotated at this size, and enough files are kept that nothing is thrown away: lines are counted.
LOG_BYTES = 16 * 1024 * 1024
LOG_FILES = 40


def service_name(i):
    return f"svc{i:04}"


class Session:
    """What a system is to run, and where."""

    def __init__(self, place, folder, count, first_port, report):
        self.place, self.folder, self.count = place, pathlib.Path(folder), count
        self.first_port, self.report = first_port, report
        self.output = str(self.folder / "output")

    def service_argv(self, i):
        return [str(self.place / "service"), str(self.first_port + i), self.report]

    def write(self, name, text, mode=0o600):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path


class System:
    """One column of the table."""

    name = ""
    note = ""
    programs = ()
    logs = True
    supervises = True
    help = None

    def __init__(self, place):
        self.place = place
        path = [place / "root/usr/bin", place / "root/usr/sbin", place / "venv/bin"]
        self.path = os.pathsep.join([*map(str, path), os.environ.get("PATH", os.defpath)])

    def find(self, program):
        return shutil.which(program, path=self.path)

    def missing(self):
        """The programs that it needs and that aren't there."""
        return [p for p in self.programs if not self.find(p)]

    def env(self, session):
        # The user's own environment stays out of it; supervisors pass theirs on to every service.
        return {"PATH": self.path, "HOME": str(session.folder), "LANG": "C.UTF-8"}

    def version(self):
        return ""

    def package_version(self, package):
        """The version of the Debian package that setup has unpacked, or that is installed."""
        for deb in sorted((self.place / "debs").glob(f"{package}_*.deb")):
            return deb.name.split("_")[1]
        run = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
        return run.stdout.strip() or "of this machine"

    def prepare(self, session):
        """Writes the configuration."""

    def start_argv(self, session):
        raise NotImplementedError

    # Whether the command of `start_argv` returns when everything is ready, instead of being the supervisor.
    returns = False

    def stop(self, session, main, reaper):
        """Asks that all services be stopped; `main` is what `start_argv` became. A command that was run, if one was."""
        os.kill(main.pid, signal.SIGTERM)

    def status_argv(self, session):
        return None

    def log_files(self, session):
        return []


class Floor(System):
    name = "floor"
    note = "bare vfork+exec by a C program, restarted when it ends; no supervisor can be faster"
    logs = True  # the service writes the file itself

    def start_argv(self, session):
        argv = [session.service_argv(0)[0], "floor", str(session.count), str(session.first_port), session.report]
        # Into a file of its own, so that the lines row has its floor too.
        return ["/bin/sh", "-c", 'exec "$0" "$@" >"$HOME/lines"', *argv]

    def log_files(self, session):
        return [session.folder / "lines"]


class Runit(System):
    name = "runit"
    programs = ("runsvdir", "runsv", "sv", "svlogd")
    logs = False
    logger = False

    def version(self):
        return self.package_version("runit")

    def prepare(self, session):
        for i in range(session.count):
            service = f"services/{service_name(i)}"
            session.write(f"{service}/run", f"#!/bin/sh\nexec {' '.join(session.service_argv(i))} 2>&1\n", 0o700)
            if self.logger:
                session.write(f"{service}/log/run", "#!/bin/sh\nexec svlogd -tt main\n", 0o700)
                session.write(f"{service}/log/main/config", f"s{LOG_BYTES}\nn{LOG_FILES}\n")

    def start_argv(self, session):
        return [self.find("runsvdir"), str(session.folder / "services")]

    def stop(self, session, main, reaper):
        # HUP: runsvdir sends TERM to every runsv, and each of them ends its service.
        os.kill(main.pid, signal.SIGHUP)

    def status_argv(self, session):
        services = [str(session.folder / "services" / service_name(i)) for i in range(session.count)]
        return [self.find("sv"), "status", *services]


class RunitLogs(Runit):
    name = "runit+svlogd"
    note = "one svlogd -tt (timestamps) for each service"
    logs = logger = True

    def log_files(self, session):
        return list((session.folder / "services").glob("*/log/main/*"))


class S6(System):
    name = "s6"
    programs = ("s6-svscan", "s6-supervise", "s6-svstat", "s6-log")
    logs = False
    logger = False

    def version(self):
        return self.package_version("s6")

    def env(self, session):
        env = super().env(session)
        libraries = next((self.place / "root/usr/lib").glob("*-linux-gnu"), None)
        if libraries:
            env["LD_LIBRARY_PATH"] = str(libraries)
        return env

    def prepare(self, session):
        (session.folder / "services").mkdir()
        (session.folder / "services/.bin").symlink_to(self.place / "root/usr/bin")  # see setup
        for i in range(session.count):
            service = f"services/{service_name(i)}"
            session.write(f"{service}/run", f"#!/bin/sh\nexec {' '.join(session.service_argv(i))} 2>&1\n", 0o700)
            if self.logger:
                argv = f"s6-log n{LOG_FILES} s{LOG_BYTES} T {session.folder}/{service}/log/main"
                session.write(f"{service}/log/run", f"#!/bin/sh\nexec {argv}\n", 0o700)

    def start_argv(self, session):
        return [self.find("s6-svscan"), "-c", str(session.count * 2 + 10), str(session.folder / "services")]

    def status_argv(self, session):
        # s6-svstat answers for one service; there is no command for all.
        loop = 'for d in "$0"/*; do s6-svstat "$d"; done'
        return ["/bin/sh", "-c", loop, str(session.folder / "services")]


class S6Logs(S6):
    name = "s6+s6-log"
    note = "one s6-log T (timestamps) for each service"
    logs = logger = True

    def log_files(self, session):
        return list((session.folder / "services").glob("*/log/main/*"))


class Supervisord(System):
    name = "supervisord"
    note = "logs to files, without timestamps"
    programs = ("supervisord", "supervisorctl")

    def version(self):
        run = subprocess.run([self.find("supervisord"), "--version"], capture_output=True, text=True)
        return run.stdout.strip()

    @property
    def help(self):
        return [self.find("supervisorctl"), "--help"]

    def prepare(self, session):
        f = session.folder
        session.write("logs/empty", "")
        text = [
            f"[supervisord]\nnodaemon=true\nlogfile={f}/supervisord.log\npidfile={f}/supervisord.pid\n"
            f"childlogdir={f}/logs\nminfds={session.count * 8 + 1024}\n"
            f"[unix_http_server]\nfile={f}/sock\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{f}/sock\n"
        ]
        for i in range(session.count):
            text.append(
                f"[program:{service_name(i)}]\ncommand={' '.join(session.service_argv(i))}\n"
                f"redirect_stderr=true\nautorestart=true\nstdout_logfile={f}/logs/{service_name(i)}\n"
                f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_FILES}\n"
            )
        session.write("supervisord.conf", "".join(text))

    def ctl(self, session, *words):
        return [self.find("supervisorctl"), "-c", str(session.folder / "supervisord.conf"), *words]

    def start_argv(self, session):
        return [self.find("supervisord"), "-c", str(session.folder / "supervisord.conf")]

    def stop(self, session, main, reaper):
        return reaper.spawn(self.ctl(session, "stop", "all"), self.env(session), session.output + ".stop")

    def status_argv(self, session):
        return self.ctl(session, "status")

    def log_files(self, session):
        return list((session.folder / "logs").glob("svc*"))


class Circus(System):
    name = "circus"
    note = "logs to files (FileStream), without timestamps"
    programs = ("circusd", "circusctl")

    def version(self):
        run = subprocess.run([self.find("circusd"), "--version"], capture_output=True, text=True)
        return (run.stdout + run.stderr).strip()

    @property
    def help(self):
        return [self.find("circusctl"), "--help"]

    def prepare(self, session):
        f = session.folder
        session.write("logs/empty", "")
        text = [f"[circus]\nendpoint = ipc://{f}/ctl\npubsub_endpoint = ipc://{f}/pub\nstatsd = False\n"]
        for i in range(session.count):
            text.append(
                f"[watcher:{service_name(i)}]\ncmd = {' '.join(session.service_argv(i))}\n"
                f"stdout_stream.class = FileStream\nstdout_stream.filename = {f}/logs/{service_name(i)}\n"
                f"stdout_stream.max_bytes = {LOG_BYTES}\nstdout_stream.backup_count = {LOG_FILES}\n"
            )
        session.write("circus.ini", "".join(text))

    def ctl(self, session, *words):
        return [self.find("circusctl"), "--endpoint", f"ipc://{session.folder}/ctl", "--timeout", "60", *words]

    def start_argv(self, session):
        return [self.find("circusd"), str(session.folder / "circus.ini")]

    def stop(self, session, main, reaper):
        return reaper.spawn(self.ctl(session, "stop"), self.env(session), session.output + ".stop")

    def status_argv(self, session):
        return self.ctl(session, "status")

    def log_files(self, session):
        return list((session.folder / "logs").glob("svc*"))


class Harness(System):
    name = "harness"
    note = "timestamps and rotation; ready once every process has been exec'ed"
    returns = True
    check = ""

    def __init__(self, place):
        super().__init__(place)
        self.program = place.parent / "release/harness"

    def missing(self):
        return [] if self.program.exists() else [str(self.program)]

    def version(self):
        run = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        return re.sub(r"^harness ", "", run.stdout.strip())

    @property
    def help(self):
        return [str(self.program), "--help"]

    def env(self, session):
        return super().env(session) | {"XDG_STATE_HOME": str(session.folder / "state")}

    def prepare(self, session):
        text = ['version: "1.0"\nname: bench\nservices:\n']
        for i in range(session.count):
            binary, *args = session.service_argv(i)
            port = session.first_port + i
            text.append(
                f"  {service_name(i)}:\n    type: process\n    binary: {binary}\n"
                f"    args: [{', '.join(f'{a!r}' for a in args)}]\n    ports: [{port}]\n"
                f"    logs: {{max_size: {LOG_BYTES}, keep_files: {LOG_FILES}}}\n"
            )
            if self.check:
                text.append(f"    health_check: {{tcp: {port}}}\n")
        session.write("services.yaml", "".join(text))

    def ctl(self, session, *words):
        return [str(self.program), "-c", str(session.folder / "services.yaml"), *words]

    def start_argv(self, session):
        return self.ctl(session, "start")

    def stop(self, session, main, reaper):
        return reaper.spawn(self.ctl(session, "stop", "-y"), self.env(session), session.output + ".stop")

    def status_argv(self, session):
        return self.ctl(session, "status")

    def log_files(self, session):
        return list((session.folder / "state").rglob("*.log*"))


class HarnessChecks(Harness):
    name = "harness+checks"
    note = "the same with `health_check: {tcp: PORT}` on each service; ready once every check has passed"
    check = True


ALL = (Harness, HarnessChecks, Runit, RunitLogs, S6, S6Logs, Supervisord, Circus, Floor)
