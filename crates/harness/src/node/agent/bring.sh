# Brings the agent up, and becomes its bridge; behind place.sh. To take a program it needs head and sha256sum (or openssl).
new=;
tidy() { [ -z "$new" ] || rm -f "$new"; rmdir "$dir/bin" "$dir" "$base/agents" "$base" 2>/dev/null; };
# Where a session takes its processes with it when it ends, the agent gets a scope of its own.
scope=;
if grep -qs /session- /proc/self/cgroup && command -v busctl >/dev/null; then
user=${SUDO_USER:-$(id -un)};
said=$(busctl --timeout=5 get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager KillUserProcesses KillExcludeUsers 2>/dev/null);
case $said in *" \"$user\""*) ;; "b true"*)
if [ "$(id -u)" = 0 ]; then scope="systemd-run --quiet --scope --";
elif [ -e "/var/lib/systemd/linger/$user" ]; then
XDG_RUNTIME_DIR=/run/user/$(id -u); export XDG_RUNTIME_DIR; scope="systemd-run --user --quiet --scope --";
else fail session "$user"; fi;; esac; fi;
arch=$(uname -m); hash=;
for it in $programs; do [ "${it%%=*}" = "$arch" ] && hash=${it#*=}; done;
[ -n "$hash" ] || fail arch "$arch";
bin=$dir/bin/harness-$(printf %.16s "$hash");
take() {
mask=$(umask); umask 077;
said=$(mkdir -p "$dir/bin" 2>&1) || fail folder "$said";
new=$dir/bin/new-$$;
said=$({ printf "#!/bin/sh\nexit 0\n" >"$new"; } 2>&1) || fail folder "$said";
chmod 700 "$new"; "$new" 2>/dev/null || fail noexec "$dir";
sum=; for it in sha256sum "busybox sha256sum" "openssl dgst -sha256 -r"; do
command -v ${it%% *} >/dev/null && { sum=$it; break; }; done;
[ -n "$sum" ] || fail tools sha256sum;
command -v head >/dev/null || fail tools head;
form=plain; command -v gzip >/dev/null && form=gzip;
set -- $(df -Pk "$dir" 2>/dev/null | sed -n 2p);
say need "$arch" "${4:--}" "$form";
read -r count form || { tidy; exit 1; };
if [ "$form" = gzip ]; then said=$({ head -c "$count" | gzip -dc >"$new"; } 2>&1);
else said=$({ head -c "$count" >"$new"; } 2>&1); fi || fail copy "$said";
found=$($sum <"$new"); [ "${found%% *}" = "$hash" ] || fail hash "${found%% *}";
said=$("$new" --version 2>&1) || fail run "$said";
sync "$new" 2>/dev/null || sync;
# Not over one that somebody else has just put there, and that runs by now. Some file systems have no links.
ln "$new" "$bin" 2>/dev/null || [ -x "$bin" ] || said=$(mv -f "$new" "$bin" 2>&1) || fail folder "$said";
rm -f "$new"; new=; umask "$mask"; say copied;
};
# What killed copies left, and programs that nothing runs any more.
sweep() {
for it in "$dir"/bin/new-*; do [ -e "$it" ] && [ ! -d "/proc/${it##*-}" ] && rm -f "$it"; done;
real=$(cd "$dir/bin" && pwd -P);
for it in "$dir"/bin/harness-*; do
[ "$it" = "$bin" ] || ls -l /proc/[0-9]*/exe 2>/dev/null | grep -Fq "> $real/${it##*/}" || rm -f "$it"; done;
};
if [ -x "$bin" ]; then say have; else take; fi;
sweep;
exec $scope "$bin" daemon bridge --state-dir "$dir" --mark "$mark"
