# Where the agent of a project is or will be, and what it is. $1: the project's id. $2: y where it is root's.
say() { [ -n "$2" ] && printf '%s %s\n' "$1" "$(printf %s "$2" | tr '\n' ' ')"; }

# As in agent/place.sh. Without sudo's permission it is looked at as who is logged in.
if [ "$2" = y ] && [ "$(id -u)" = 0 ]; then HOME=~root; unset XDG_STATE_HOME; fi
case $XDG_STATE_HOME in /*) ;; *) XDG_STATE_HOME=$HOME/.local/state ;; esac
folder=$XDG_STATE_HOME/harness
say folder "$folder"

agent=$folder/agents/$1
# shellcheck disable=SC2012 # names are ours
program=$(ls -t "$agent"/bin/harness-* 2>/dev/null | head -n 1)
if [ -n "$1" ] && [ -n "$program" ]; then
    say agent "${program##*/harness-}"
    say agent_version "$("$program" --version 2>&1 | sed -n '1s/^harness //p')"
    read -r _ pid _ 2>/dev/null <"$agent/daemon.lock"
    pid=${pid%,}
    grep -q "$agent" "/proc/$pid/cmdline" 2>/dev/null && say agent_pid "$pid"
fi

# The folder, or the nearest one above it that is there.
while [ ! -d "$folder" ] && [ "$folder" != / ]; do folder=$(dirname "$folder"); done
say folder_there "$folder"
room() { printf %s "$4"; }
# shellcheck disable=SC2046 # words are what is wanted
say free_kib "$(room $(df -Pk "$folder" 2>/dev/null | sed -n 2p))"
if trial=$(mktemp "$folder/.harness-check.XXXXXX" 2>&1); then
    trap 'rm -f "$trial"' EXIT
    say writable yes
    printf '#!/bin/sh\nexit 0\n' >"$trial" && chmod 700 "$trial" && "$trial" 2>/dev/null && say executable yes
else
    say write_error "$trial"
fi
