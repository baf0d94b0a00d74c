#!/bin/sh
# Makes a database for LRPilot at the first start, then serves it. Demo only: a real one is run by those who know how.
set -eu
cluster=/var/lib/postgresql/data/cluster
if [ ! -d "$cluster" ]; then
    # Under another name until it is whole: a start that was cut short leaves nothing that looks like a database.
    rm -rf "$cluster.new"
    initdb --pgdata="$cluster.new" --encoding=UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256 >/dev/null
    echo 'host all all all scram-sha-256' >>"$cluster.new/pg_hba.conf"
    postgres --single -D "$cluster.new" postgres >/dev/null <<SQL
CREATE ROLE lrpilot LOGIN PASSWORD '${LRPILOT_DB_PASSWORD:?}'
CREATE DATABASE lrpilot OWNER lrpilot
SQL
    mv "$cluster.new" "$cluster"
fi
exec postgres -D "$cluster" -c listen_addresses='*' -c unix_socket_directories=
