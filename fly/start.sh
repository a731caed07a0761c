#!/bin/sh
# The first process of a Fly machine: Navigator, with the sidecar kept running beside it.
#
# When Navigator exits the machine ends, and the sidecar with it; it is made for that. When the sidecar exits,
# for whatever reason, it is started again. See fly/README.md for why it is not one of Navigator's managed
# processes.
set -eu

application=${APPLICATION-/rails}
data=${DATA-/data}
run=${RUN-/run/sidecar}
user=${RUN_AS-rails} # empty: as whoever starts this
config=${CONFIG-/etc/sidecar/sidecar.yml}

cd "$application"
owner=${user:-$(id -un)}
# What the sidecar writes to, on the volume and beside the application.
install -d -o "$owner" -m 0755 "$run" "$data/db" "$data/storage" config tmp public
install -d -o "$owner" -m 0700 "$data/sidecar"

# Not root: of its powers only the one to send Navigator a signal.
as_user() {
  if [ -z "$user" ]; then
    "$@"
  else
    setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs \
      --bounding-set=-all,+kill --inh-caps=-all,+kill --ambient-caps=-all,+kill "$@"
  fi
}

(
  while true; do
    as_user sidecar --config "$config" serve || true
    sleep 1
  done
) &

# SIGHUP makes Navigator read the file again that it has at the time; the hook of this one, `sidecar update`,
# makes it go on to navigator.yml, and so does its CGI, which the sidecar asks where the hook could not.
exec navigator config/navigator-maintenance.yml
