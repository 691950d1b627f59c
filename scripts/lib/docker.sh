#!/usr/bin/env bash
# A Docker engine for the benchmarks, where one answers or can be started: source setup.sh and this file, then call
# start_docker, and stop_docker at the end. Nothing is installed for it but the tool that makes its image.
# Sets and exports either REPOCELL_BENCH_IMAGE (and DOCKER_HOST for an engine of our own) or REPOCELL_BENCH_NO_DOCKER,
# the reason. Only the engine that was started here is stopped, by its own process id.
set -euo pipefail

docker_folder=$root/.cache/docker
docker_image=repocell-bench:base
docker_pid=
docker_imported=

start_docker() {
  local why
  why=$(docker_unusable)
  if [[ -z $why ]] && ! docker_engine; then
    why=${docker_why:-"the engine did not start; its log is in .cache/docker"}
  fi
  if [[ -n $why ]]; then
    export REPOCELL_BENCH_NO_DOCKER=$why
    say "docker is left out of the benchmarks: $why"
  else
    export REPOCELL_BENCH_IMAGE=$docker_image
  fi
}

# Prints why no engine can be had; nothing when one may.
docker_unusable() {
  if ! command -v docker >/dev/null; then
    echo "docker is not installed (Debian: docker.io)"
  elif ! docker version >/dev/null 2>&1; then
    if ! command -v dockerd >/dev/null; then
      echo "no engine answers, and there is no dockerd to start (Debian: docker.io)"
    elif ((EUID != 0)); then
      echo "no engine answers, and only root can start one"
    fi
  fi
}

# An engine that answers, with our image in it.
docker_engine() {
  docker version >/dev/null 2>&1 || docker_own_engine || return 1
  docker image inspect "$docker_image" >/dev/null 2>&1 && return
  docker_base || { docker_why="its image could not be made"; return 1; }
  docker import --change 'ENV PATH=/usr/bin:/bin' "$docker_folder/base.tar" "$docker_image" >/dev/null ||
    { docker_why="its image could not be imported"; return 1; }
  docker_imported=1
}

# No network, no firewall rules: nothing of the machine's is changed, and no container can send anything out.
docker_own_engine() {
  local run
  mkdir -p "$docker_folder"
  run=$(mktemp -d) # a path of a socket has at most 107 bytes
  export DOCKER_HOST=unix://$run/docker.sock
  say "starting a Docker engine of our own"
  dockerd --host "$DOCKER_HOST" --data-root "$docker_folder/data" --exec-root "$run/exec" --pidfile "$run/pid" \
    --bridge none --iptables=false --ip6tables=false >"$docker_folder/log" 2>&1 &
  docker_pid=$!
  docker_run=$run
  for _ in {1..150}; do
    docker version >/dev/null 2>&1 && return
    kill -0 "$docker_pid" 2>/dev/null || break
    sleep 0.2
  done
  return 1
}

# The smallest Debian that has bash and Python, as a cell has.
docker_base() {
  [[ -f $docker_folder/base.tar ]] && return
  need_packages mmdebstrap:mmdebstrap
  mkdir -p "$docker_folder"
  say "making an image for Docker with mmdebstrap"
  mmdebstrap --variant=essential --include=python3-minimal "$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")" \
    "$docker_folder/new.tar" >"$docker_folder/image.log" 2>&1 && mv "$docker_folder/new.tar" "$docker_folder/base.tar"
}

# Our own engine keeps the image for the next run; somebody's engine is left as it was.
stop_docker() {
  if [[ -z $docker_pid ]]; then
    [[ -z $docker_imported ]] || docker image rm "$docker_image" >/dev/null || true
    return 0
  fi
  kill "$docker_pid" 2>/dev/null || true
  wait "$docker_pid" 2>/dev/null || true
  rm -rf "${docker_run:?}"
}
