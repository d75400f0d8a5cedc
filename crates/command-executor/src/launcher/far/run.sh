# Functions for the shell that starts a program for the near end, stays with it and tells what becomes of it. They are
# one line when they travel: comments and indentation go, so every line must end where a space may follow. They
# may stand in single quotes before a login shell of any kind: no single quotes, no exclamation marks, no backslash before
# another or at the end of a word.
#
# Set for each command: $_hj begins every marker, $_hv is the program's name, _h_enter goes into the folder and sets
# the variables, _h_exec executes the program, $_hf is y where what it leaves in its group lives on. 3 is what comes from the near end, 5 its stderr, 8 and 9 the two ends of
# a pipe to ourselves: the shell says there by which signal a program died, which $? doesn't tell from an exit code.
_h_tell() { printf "$_hj%s;" "$1" >&5; };
_h_begin() {
_hn=${IFS#??};
[ -z "$BASH_VERSION" ] || set +o posix;
exec 3<&0 5>&2 </dev/null;
eval "exec 8<<_h${_hn}i${_hn}_h$_hn";
[ -e /proc/self/fd/8 ] && exec 9>/proc/self/fd/8 2>&9;
_h_tell hop;
if [ -x /usr/bin/setsid ]; then _ht="/usr/bin/setsid --";
elif command -v setsid >/dev/null; then _ht="setsid --";
else _ht=; fi;
printf "$_hj;";
# What ends the near end's group must not end this shell before the program.
trap : TERM HUP INT;
};
_h_program() {
read -r _hp _hq </proc/self/stat; printf "p %s\n" "$_hp" >&9;
exec 2>&5 3<&- 5>&- 8<&- 9>&-;
_h_enter;
printf "${_hj}pid %s;" "$_hp" >&2;
_h_exec;
};
# In whichever process reads 3: sends signal $1 to the group of the program, or of what will become it, a child of
# process $2.
_h_signal() {
read -r _ho _hq </proc/self/stat; read -r _hl </proc/$2/task/$2/children;
for _hi in $_hl; do [ "$_hi" = "$_ho" ] || kill "-$1" "-$_hi" || kill "-$1" "$_hi"; done;
};
_h_wait() {
( _h_program ); _hc=$?;
printf "e\n" >&9; _hp=; _hs=;
while read -r _ha _hb <&8; do case $_ha in i) ;; p) _hp=$_hb;; e) break;; *) _hs=s;; esac; done;
[ -z "$_hp" ] || [ "$_hf" = y ] || kill -KILL "-$_hp" 2>/dev/null;
case $_hc in 126|127) ( _h_look );; esac;
};
# Whether the program could be run at all. Only looked at when it says what a shell says where it can not.
_h_look() {
_h_enter; set -f; _he=missing;
case $_hv in
*/*) [ -e "$_hv" ] && _he=denied; [ -f "$_hv" ] && [ -x "$_hv" ] && _he=;;
*) IFS=:; for _hi in $PATH; do
[ -f "${_hi:-.}/$_hv" ] || continue; _he=denied;
[ -x "${_hi:-.}/$_hv" ] && { _he=; _hv=${_hi:-.}/$_hv; break; };
done;;
esac;
if [ -z "$_he" ] && read -r _hi <"$_hv"; then case $_hi in "#$(printf "\041")"*)
IFS=" "; set -- ${_hi#??}; [ -x "$1" ] || _he=missing;; esac; fi;
[ -z "$_he" ] || _h_tell "fail $_he";
};
