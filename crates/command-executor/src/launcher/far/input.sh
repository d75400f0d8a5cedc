# The program reads what comes in frames: _h_begin; _h_pump | _h_buffer | _h_feed | _h_end. The first takes everything off
# 3 and never waits for the program (the near end sends no more than the pipes hold), so that signals and the end get
# through; the third hands on and acknowledges.
_h_take() {
dd bs="$1" count=1 iflag=fullblock && return;
[ -n "$_hr" ] || { dd bs=1 count=0 iflag=fullblock </dev/null && _hr=y || _hr=n; };
[ "$_hr" = y ] || dd bs=1 count="$1";
};
# Whoever waits for the program is the last child of the first shell.
_h_pass() { read -r _hl </proc/$$/task/$$/children; _hl=${_hl% }; _h_signal "$1" "${_hl##* }"; };
_h_pump() {
exec 2>/dev/null 5>&- 8<&- 9>&-; trap "" PIPE TERM HUP INT; _hr=;
while read -r _ha _hb <&3; do case $_ha in
D) printf "%s\n" "$_hb"; _h_take "$_hb" <&3;;
E) exec >/dev/null;;
S) _h_pass "$_hb";;
esac; done;
exec >/dev/null; _h_pass TERM; sleep 2 </dev/null; _h_pass KILL;
};
_h_buffer() { exec 3<&- 5>&- 8<&- 9>&- 2>/dev/null; exec cat; };
_h_feed() {
exec 2>/dev/null 3<&- 8<&- 9>&-; trap "" PIPE; _hr=;
while read -r _ha; do _h_take "$_ha"; _h_tell "ack $_ha"; done;
};
_h_end() {
trap : TERM HUP INT; _h_wait;
read -r _ho _hq </proc/self/stat; read -r _hl </proc/$$/task/$$/children;
for _hi in $_hl; do [ "$_hi" = "$_ho" ] || kill -KILL "$_hi"; done;
_h_tell "exit $_hc $_hs"; exit "$_hc";
};
