# Where the agent of a project is on this machine, or will be. It travels as one line with what follows, so every line must
# end where a space may follow. What is said is read by bring.rs; it needs no more than a POSIX shell.
#
# Set before it: $mark begins every word, $id is the project's, $programs has ARCH=SHA256 for each program that can be
# sent, $root is y where the agent is root's.
say() { printf "\n%s %s\n" "$mark" "$(printf %s "$*" | tr "\n" " ")"; };
tidy() { :; };
fail() { tidy; say fail "$@"; exit 1; };
unset HARNESS_CONFIG HARNESS_HOST HARNESS_PROFILES HARNESS_TIMEOUT;
case $id in ""|.*|*/*) fail id "$id";; esac;
# sudo takes the variable away, but not from itself.
[ -n "$SSH_CONNECTION" ] || SSH_CONNECTION=$(tr "\0" "\n" 2>/dev/null <"/proc/$PPID/environ" | sed -n s/^SSH_CONNECTION=//p);
say link $SSH_CONNECTION;
# Some sudoers keep the home of who calls.
[ "$root" = y ] && { HOME=~root; unset XDG_STATE_HOME; };
case $XDG_STATE_HOME in /*) ;; *) XDG_STATE_HOME=$HOME/.local/state;; esac;
case $XDG_STATE_HOME in /*) ;; *) fail home "neither HOME nor XDG_STATE_HOME is set";; esac;
base=$XDG_STATE_HOME/harness; dir=$base/agents/$id;
