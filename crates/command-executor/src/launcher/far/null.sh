# The program reads nothing: what comes are signals, and the end. Whoever watches for them ignores what is sent to the near
# end's group from its first moment on: the program may be up, and the end come, before it has run at all.
_h_run() {
_h_begin;
trap "" TERM HUP INT;
( exec >/dev/null 2>&1 5>&- 8<&- 9>&-;
while read -r _ha _hb <&3; do case $_ha in S) _h_signal "$_hb" $$;; esac; done;
_h_signal TERM $$; sleep 2 </dev/null; _h_signal KILL $$ ) &
_hr=$! ;
trap : TERM HUP INT;
_h_wait;
kill -KILL "$_hr";
_h_tell "exit $_hc $_hs"; exit "$_hc";
};
