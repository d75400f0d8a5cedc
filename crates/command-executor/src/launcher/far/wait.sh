# Waits for the line of a command that may come, but not for ever: nobody may come back to a session that was made ready.
( exec </dev/null >/dev/null 2>&1; sleep 20 & _hp=$! ; trap "kill $_hp; exit" TERM; wait "$_hp"; kill $$ ) & _hr=$! ;
IFS= read -r _hs || exit; kill "$_hr"; eval "$_hs"
