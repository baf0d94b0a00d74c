#!/bin/sh
# Compose on the demo's file: v2 where it is there, else docker-compose 1.29.
set -eu
export COMPOSE_PROJECT_NAME="${COMPOSE_PROJECT_NAME:-lrpilot}" DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
file=$(dirname "$0")/compose.yaml
if docker compose version >/dev/null 2>&1; then
    exec docker compose --file "$file" "$@"
fi
exec docker-compose --file "$file" "$@"
