#!/bin/sh
# The demo in containers: two training jobs of different kinds share a tuner on PostgreSQL. Their schedules and reports, as
# the tuner has them, go into the directory that is named, out/compose by default. All but the jobs goes on running, to be
# looked at. Fails when a job does, or when the tuner does not have its schedule.
set -eu
cd "$(dirname "$0")/.."
out=${1:-out/compose}
jobs="digits text"
compose=docker/compose.sh

$compose --profile export build
$compose up --detach tuner prometheus
cat <<TEXT

  dashboard    http://127.0.0.1:${LRPILOT_HTTP_PORT:-8080}
  its token    $($compose exec -T tuner cat /run/lrpilot/person)
  Prometheus   http://127.0.0.1:${LRPILOT_PROMETHEUS_PORT:-9090}

TEXT
# Not once more what they depend on: it runs.
$compose up --detach --no-deps $jobs
$compose logs --follow $jobs
for job in $jobs; do
    code=$(docker wait "$($compose ps --all --quiet "$job")")
    if [ "$code" != 0 ]; then
        echo "job $job ended with exit code $code" >&2
        exit 1
    fi
done
mkdir -p "$out"
# Through a file: a shell without pipefail would not see that the export failed.
$compose run --rm --no-deps -T export >"$out/export.tar"
tar -x --no-same-owner -f "$out/export.tar" -C "$out"
rm "$out/export.tar"
ls -l "$out"
echo "What the tuner has is in $out. The dashboard stays until 'make compose-down'."
