# Brands a model's run, before anything of the model is executed. Sourced by the scripts that launch.py renders, as
# root; they have set
#   uid      who runs the model        reports  /run/spark-models/ID, root's own
#
# A process can leave its unit: a scope or a session of its own, a double fork, an emptied environment, a title written
# over it. Its resource limits it keeps, and so do its children; it can lower them, and nobody but root can put one on
# somebody else's process. So the brand is a limit: on the CPU time of real-time tasks, in microseconds, and at over a
# hundred thousand years it limits nothing. Each model has one until the machine restarts, from the random number of its
# first run. The record says also who runs the model, and when that first run began, in ticks since boot. By it
# spark-model-sweep@ ends what outlived its unit.

branded=
[ ! -r "$reports/brand" ] || IFS=' ' read -r brand branded began <"$reports/brand" || branded=
run=${INVOCATION_ID-}
case $run in
  *[!0-9a-f]*) run= ;;
esac
if [ "$branded" != "$uid" ] && [ ${#run} -eq 32 ]; then
  brand=$((0x4000000000000000 | 0x${run%?????????????????}))
  read -r began </proc/$$/stat
  # The name, in brackets, may have anything in it; the start is the 20th field after it.
  began=$(set -f; set -- ${began##*) }; shift 19; echo "$1")
  # Whatever a user's own umask is: what others may write is not gone by.
  (umask 022; printf '%s %s %s\n' "$brand" "$uid" "$began" >"$reports/brand") && branded=$uid
fi
# A run that cannot be branded is a run all the same: what escapes from it is named, not ended.
[ "$branded" != "$uid" ] || /usr/bin/prlimit --pid $$ --rttime="$brand:$brand" ||
  echo "spark-model-run: this run has no brand" >&2
