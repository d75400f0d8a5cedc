# Stops all that runs under the agent, ends it, and removes all that is its; behind place.sh.
[ -d "$dir" ] || { say none; exit 0; };
bin=$(ls -t "$dir"/bin/harness-* 2>/dev/null | head -n 1);
said=;
if [ -n "$bin" ]; then said=$("$bin" --state-dir "$dir" stop -y 2>&1 </dev/null) || fail stop "$said"; fi;
gone=$(rm -rf "$dir" 2>&1) || fail folder "$gone";
rmdir "$base/agents" "$base" 2>/dev/null;
say removed "$said"
