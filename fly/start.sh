#!/bin/sh
# The first process of a Fly machine, or of a container under Kamal: Navigator, with the sidecar kept running
# beside it.
#
# When Navigator exits the machine ends, and the sidecar with it; it is made for that. When the sidecar exits,
# for whatever reason, it is started again. See fly/README.md for why it is not one of Navigator's managed
# processes.
set -eu

application=${APPLICATION-/rails}
data=${DATA-/data}
demo=${DEMO-/demo}
run=${RUN-/run/sidecar}
user=${RUN_AS-sidecar} # empty: everything as whoever starts this
tenants=${TENANTS-rails} # user and group that run the tenants
config=${CONFIG-/etc/sidecar/sidecar.yml}

cd "$application"
root=$(id -un)
if [ -z "$user" ]; then
  owner=$root tenants=$root group=$(id -gn)
else
  owner=$user group=$tenants
fi

folders() { # owner, mode, folders: each is made, or given to its owner
  own=$1 mode=$2
  shift 2
  install -d -o "$own" -g "$group" -m "$mode" "$@"
}

# Navigator, which is root, runs what navigator.yml names. So nobody but root and the sidecar may write where that
# lies, nor where the sidecar remembers what it has published, nor above.
install -d -o "$root" -g "$(id -gn)" -m 0755 "$data"
for name in db log sidecar storage; do
  # It belonged to the tenants once: a link of theirs would give them what it leads to.
  [ ! -L "$data/$name" ] || rm "$data/$name"
done
folders "$owner" 0755 config public "$run" app/views/event # the last one for the drawn maps
folders "$owner" 0700 "$data/sidecar"
# Both the sidecar and the tenants write there: what is new belongs to their group. Rendering pages writes to the
# application's own db.
folders "$owner" 2775 "$data/db" tmp
folders "$tenants" 2775 "$data/storage" "$data/log" db log "$demo/db" "$demo/storage/demo"
umask 002
# The same for what is there already, made by root, or by the tenants alone.
find "$data/sidecar" public ! -user "$owner" -exec chown -h "$owner:$group" {} +
find "$data/db" -name 'index.sqlite3*' -type f ! -user "$owner" -exec chown -h "$owner:$group" {} +
find "$data/db" "$demo/db" -name '*.sqlite3*' -type f \( ! -group "$group" -o ! -perm -0060 \) \
  -exec chgrp "$group" {} + -exec chmod g+rw {} +

# Not root: of its powers only the one to send Navigator a signal.
as_user() {
  if [ -z "$user" ]; then
    "$@"
  else
    setpriv --reuid "$user" --regid "$group" --init-groups --no-new-privs \
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
