# Supervises a model's container. Sourced, as root, by the scripts that launch.py renders; they have set
#   docker   the docker CLI, as the model's user      reports  /run/spark-models/ID, root's own
#   as_user  in front of what else they run           name     the container's
#   seconds  how long it may take to stop
# and for [docker]     image, and cli: where the CLI may write
#     for [container]  script: what creates it when missing; audit: what says whether that may be run
#
# systemd's SIGTERM reaches every process of the unit, the docker CLI too: newer ones live on and stream the engine's
# last words, older ones end. The container is stopped with `docker stop`, and gets its stop signal only once.
set -u
LC_ALL=C
# The daemon reads what is reported, and nobody else writes it, whatever a drop-in's UMask= gives an engine.
umask 022

asked= stopping= status=
trap '[ -n "$asked" ] || { asked=yes; begin_stop; }' TERM

say() { echo "spark-model-run: $*" >&2; }

# report NAME VALUE
report() { printf '%s\n' "$2" >"$reports/$1"; }

# Ends the unit's process. However a container ends that was told to: that is a clean end.
leave() {
  report exit "$1"
  [ -z "$asked" ] || exit 0
  exit "$1"
}

# It did not end well after all: spark-model-clean@ is to try again.
failed_stop() { asked= status=1; }

# Whether this child still runs. dash takes note of an end only while it waits for something.
runs() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# Waits at most a second for this child to end.
let_end() {
  tries=0
  while runs "$1" && [ $tries -lt 100 ]; do
    sleep 0.01
    tries=$((tries + 1))
  done
}

# Asks for the container's end, once, as soon as there is one: in the trap, so that no wait can miss it.
begin_stop() {
  [ -z "$stopping" ] && [ -e "$reports/container" ] || return 0
  # systemd signals the unit's processes until it finds no new one: a sleep that lives to its end has seen the last.
  until sleep 0.005; do :; done
  $docker stop -t "$seconds" "$name" >/dev/null &
  stopping=$!
}

# Waits for that; asks again if docker could not be asked, or the CLI was hit by the signal all the same. After a while
# without docker it is for spark-model-clean@: the whole machine may be going down.
await_stop() {
  attempts=0
  until wait $stopping; do
    ! runs $stopping || continue  # another signal
    if ! look; then
      [ "$state" != missing ] || break
      attempts=$((attempts + 1))
      [ $attempts -lt 15 ] || { say "docker does not stop $name: $said"; failed_stop; leave 1; }
      sleep 1
    fi
    $docker stop -t "$seconds" "$name" >/dev/null &
    stopping=$!
  done
}

# Its $state, $id, image ($found) and $policy (of restarts). Fails when there is none (missing), or docker is silent.
look() {
  id= found= policy=
  if said=$($docker container inspect \
    --format '{{.State.Status}} {{.Id}} {{.Config.Image}} {{.HostConfig.RestartPolicy.Name}}' "$name" 2>&1); then
    read -r state id found policy <<END
$said
END
    return 0
  fi
  case $said in
    *'No such container'*) state=missing ;;
    *) state=unknown ;;
  esac
  return 1
}

# The same. Who was told to stop does not go away without an answer: docker's own command may have had the signal.
look_hard() {
  attempts=0
  until look; do
    [ "$state" != missing ] && [ -n "$asked" ] && [ $attempts -lt 15 ] || return 1
    attempts=$((attempts + 1))
    sleep 1
  done
}

# Removes the container, and returns when docker knows of none. Fails after a minute, saying why.
remove() {
  attempts=0
  while said=$($docker rm --force --volumes "$name" 2>&1); [ $? -ne 0 ]; do
    case $said in
      *'No such container'*) break ;;
    esac
    attempts=$((attempts + 1))
    if [ $attempts -ge 600 ]; then
      say "the container $name cannot be removed: $said"
      return 1
    fi
    sleep 0.1
  done
  rm -f "$reports/container"
}

# [docker]: "$@" are the options, the image and the command of `docker run`.

run_image() {
  rm -f "$reports/exit"
  report image "$image"
  # How its last run ended was never seen.
  [ ! -e "$reports/container" ] || remove || leave 1
  [ -z "$asked" ] || leave 0
  start_image "$@"
  follow_image
  if [ -z "$asked" ] && [ $status -eq 125 ] && [ ! -e "$reports/container" ] && mended; then
    start_image "$@"
    follow_image
  fi
  if [ -n "$asked" ]; then
    stop_image
  elif [ -e "$reports/container" ]; then
    remove || leave 1
    if [ "$said" = "$name" ]; then
      say "the docker CLI ended ($status) before its container, which is removed"
      leave 1
    fi
  fi
  leave $status
}

# In the foreground of the CLI, our child $running; returns when there is a container, or will be none.
start_image() {
  rm -f "$cli/id"
  $docker run --rm --pull never --sig-proxy=false --name "$name" --cidfile "$cli/id" "$@" </dev/null &
  running=$!
  # The file comes before the container is started; docker has no signal for it.
  until [ -s "$cli/id" ] || [ -n "$asked" ] || ! runs $running; do
    sleep 0.02
  done
  id=
  # Read by whom the folder belongs to: root would read whatever a link in there led to.
  [ ! -s "$cli/id" ] || id=$($as_user head -c 65 "$cli/id" 2>/dev/null)
  case $id in
    *[!0-9a-f]*) ;;
    *) [ ${#id} -ne 64 ] || report container "$id" ;;
  esac
}

follow_image() {
  [ -z "$asked" ] || return 0
  wait $running
  status=$?
}

# The CLI could not even create it: whether what was in the way is gone, and it is worth another try.
mended() {
  if $docker container inspect "$name" >/dev/null 2>&1; then
    say "a container named $name was left over: removing it"
    remove
    return
  fi
  if ! $docker image inspect "$image" >/dev/null 2>&1 && $docker version >/dev/null 2>&1; then
    say "the image $image is not on this machine, and none is pulled by itself: docker pull $image"
  fi
  return 1
}

stop_image() {
  begin_stop
  if [ -z "$stopping" ]; then
    # As far as anybody knows it was not created yet.
    kill -KILL $running 2>/dev/null
    status=0
    remove || failed_stop
    return
  fi
  hearing= waiting= tries=0
  : >"$reports/waited"
  while runs $stopping; do
    if ! runs $running; then
      $docker attach --no-stdin --sig-proxy=false "$name" &
      hearing=$!
      $docker wait "$name" >"$reports/waited" &
      waiting=$!
      break
    fi
    # An old CLI ends at the signal; a busy machine may take its time over that.
    [ $tries -ge 50 ] && sleep 0.05 || sleep 0.01
    tries=$((tries + 1))
  done
  await_stop
  let_end $running
  let_end "$hearing"
  let_end "$waiting"
  if runs $running; then
    status=137
  else
    wait $running
    ended=$?
    # 127: it ended in the very wait that the signal interrupted, and $status is from there.
    [ $ended -eq 127 ] || status=$ended
  fi
  : "${status:=137}"
  # With these it may be the CLI itself that ended; with any other it has seen the container's removal.
  case $status in
    137 | 143)
      read -r waited <"$reports/waited" && status=$waited
      remove || failed_stop
      ;;
    *) rm -f "$reports/container" ;;
  esac
}

# [container]

follow_container() {
  rm -f "$reports/exit" "$reports/container"
  since=$(date +%s.%N)
  if ! look_hard; then
    [ "$state" = missing ] || { say "$said"; failed_stop; leave 1; }
    [ -n "$asked" ] || create
  fi
  case $state in
    running | restarting) say "the container $name runs already: it is taken over as it is" ;;
    paused) $docker unpause "$name" >/dev/null || leave 1 ;;
    created | exited) [ -n "$asked" ] || $docker start "$name" >/dev/null || leave 1 ;;
    *) [ -n "$asked" ] || [ "$state" = fresh ] || { say "the container $name is $state"; leave 1; } ;;
  esac
  [ -z "$id" ] || report container "$id"
  report image "$found"
  report restart "$policy"
  hear
  while [ -z "$asked" ] && await_end; [ -z "$asked" ] && [ -z "$status" ]; do
    sleep 1  # the CLI ended, not the container
  done
  if [ -n "$asked" ]; then
    stop_container
  elif [ "${policy:-no}" != no ]; then
    # Else docker starts it again behind our back.
    $docker stop -t "$seconds" "$name" >/dev/null
  fi
  leave "$status"
}

# Runs the script that creates it, until there is one that runs: such a script may stay to wait for the engine.
create() {
  [ -n "$script" ] || { say "there is no container $name, and no start_script to create it"; leave 1; }
  $audit "$script" || leave 78
  say "there is no container $name: running $script"
  if [ -x "$script" ]; then
    $as_user "$script" </dev/null &
  else
    $as_user /bin/bash "$script" </dev/null &
  fi
  creating=$!
  while [ -z "$asked" ]; do
    sleep 0.1
    over=
    runs $creating || over=yes
    if look && [ "$state" = running ]; then
      state=fresh
      return 0
    fi
    [ -z "$over" ] || break
  done
  [ -z "$asked" ] || return 0
  wait $creating
  status=$?
  [ $status -eq 0 ] || { say "$script ended with $status"; leave $status; }
  [ -n "$id" ] || { say "$script ended well, but there is no container $name"; leave 1; }
}

# The container's words go to the unit's journal. They come from docker's log: a slow reader stalls nobody.
hear() {
  $docker logs --follow --since "$since" "$name" &
  hearing=$!
}

# Waits for its end: $status is empty when only the CLI ended.
await_end() {
  $docker wait "$name" >"$reports/waited" &
  wait $!
  status=
  read -r status <"$reports/waited" || :
  if [ -z "$status" ] && [ -z "$asked" ] && ! look && [ "$state" = missing ]; then
    status=1
  fi
}

stop_container() {
  begin_stop
  if [ -z "$stopping" ]; then
    status=0  # it was never there
    return
  fi
  $docker wait "$name" >"$reports/waited" &
  waiting=$!
  runs $hearing || { since=$(date +%s.%N); hear; }
  await_stop
  let_end $hearing
  let_end $waiting
  read -r status <"$reports/waited" || status=0
}

# spark-model-clean@: the supervisor is gone, the container goes too.

clean_image() { remove; }

clean_container() {
  attempts=0
  while look && [ "$state" != exited ] && [ "$state" != created ] || [ "$state" = unknown ]; do
    attempts=$((attempts + 1))
    if [ $attempts -ge 600 ]; then
      say "the container $name cannot be stopped: it is $state ($said)"
      return 1
    fi
    $docker kill "$name" >/dev/null 2>&1
    sleep 0.05
  done
}
