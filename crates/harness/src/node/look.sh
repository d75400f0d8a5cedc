# What this machine is. Prints lines of a key and a value, changes nothing, and needs no more than a POSIX shell: whatever
# isn't there is left out. Read by facts.rs.
#
# $1: the project's id. $2: y where its agent is root's. $3: what is run as the agent's user, folder.sh.
say() { [ -n "$2" ] && printf '%s %s\n' "$1" "$(printf %s "$2" | tr '\n' ' ')"; }
bounded() { if command -v timeout >/dev/null; then timeout 10 "$@"; else "$@"; fi; }

# First: it is compared with the clock of whoever asks.
say time "$(date +%s.%N)"
say user "$(id -un)"
say hostname "$(uname -n)"
say kernel "$(uname -r)"
say arch "$(uname -m)"
say os "$(. /etc/os-release 2>/dev/null && printf %s "$PRETTY_NAME")"
say cpus "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
say memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
say open_files "$(ulimit -Hn)"

# What the agent is to do, it will do as its user.
as=
if [ "$(id -u)" = 0 ]; then
    say sudo yes
elif command -v sudo >/dev/null; then
    if refusal=$(bounded sudo -n true 2>&1); then
        say sudo yes
        [ "$2" = y ] && as="sudo -n"
    else
        say sudo_error "$refusal"
    fi
fi

if [ -d /run/systemd/system ]; then
    say systemd "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
    say systemd_state "$(systemctl is-system-running 2>/dev/null)"
fi
command -v portablectl >/dev/null && say portablectl yes

# What becomes of a user's things when the last session ends.
[ -e "/var/lib/systemd/linger/$(id -un)" ] && say linger yes
if [ "$(id -u)" != 0 ] && grep -qs /session- /proc/self/cgroup && command -v busctl >/dev/null; then
    login1() {
        busctl --timeout=5 get-property org.freedesktop.login1 /org/freedesktop/login1 \
            org.freedesktop.login1.Manager "$1" 2>/dev/null
    }
    login1 KillExcludeUsers | grep -qF " \"$(id -un)\"" || say ends_processes "$(login1 KillUserProcesses)"
    say ends_memory "$(login1 RemoveIPC)"
fi

if command -v docker >/dev/null; then
    if version=$(bounded $as docker version --format '{{.Server.Version}}' 2>&1); then
        say docker "$version"
        compose=$(bounded $as docker compose version --short 2>/dev/null) ||
            compose=$(bounded $as docker-compose version --short 2>/dev/null)
        say compose "$compose"
    else
        say docker_error "$version"
    fi
fi

if [ -c /dev/net/tun ]; then
    if [ -w /dev/net/tun ]; then say tun yes; else say tun denied; fi
fi

$as sh -c "$3" sh "$1" "$2"

# Ports that somebody listens on: state 0A is LISTEN (proc_net_tcp(5)).
say listening "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    sed -n 's/^ *[0-9]*: [0-9A-F]*:\([0-9A-F]*\) [0-9A-F]*:[0-9A-F]* 0A .*/\1/p' | sort -u)"
