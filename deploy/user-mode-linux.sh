#!/bin/bash
# Runs a command as root in a user-mode Linux: a kernel that is one process of yours and has netem, where this machine's has not.
#
#   deploy/user-mode-linux.sh COMMAND [ARGUMENT]...
#
# The command begins in the checkout with your environment. It sees this machine's files; what it changes of them is kept
# in memory and gone at the end, what it prints comes out. It has one CPU, and a network without any way out.
#
# The exit code is the command's; 124: the command took longer than LIMIT_S (of the environment, 1800), 125: it was not run.
# Needs linux.uml with its modules (Debian's package user-mode-linux), modprobe (package kmod), and no root; where the
# processor has AMX, also a C compiler, for user-mode-linux.c.
set -euo pipefail

MODULES=/usr/lib/uml/modules
MEMORY_GIB=6 # of which what is used is taken
LIMIT_S=${LIMIT_S:-1800}
PATH=$PATH:/usr/sbin:/sbin

# The first process there, called by its name in the folder that `outside` made.
inside() {
  local folder=${0%/*} code=0
  exec > /dev/tty0 2>&1
  mount -t proc proc /proc
  trap 'stty sane < /dev/tty0; echo o > /proc/sysrq-trigger; sleep infinity' EXIT # its output first, then power off
  stty -opost < /dev/tty0
  mount -t tmpfs tmpfs /run
  mkdir /run/{changes,work,root,folder}
  mount -t hostfs -o "$folder" hostfs /run/folder
  modprobe -d /run/folder -a overlay sch_netem sch_tbf veth bridge
  mount -t overlay -o lowerdir=/,upperdir=/run/changes,workdir=/run/work overlay /run/root
  cd /run/root
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount -t tmpfs tmpfs run
  mount -t devtmpfs devtmpfs dev
  mkdir -p dev/pts dev/shm
  mount -t devpts devpts dev/pts
  mount -t tmpfs tmpfs dev/shm
  ip link set dev lo up
  chroot . /bin/bash "$folder/command" < /dev/null || code=$?
  echo "$code" > /run/folder/code
}

refuse() {
  echo "${0##*/}: $1" >&2
  exit 125
}

# What the command is, for `inside`.
command_of() {
  export -p
  # A page there is a mapping of this machine, of which a process may have vm.max_map_count; neighbours are one, and memory
  # that is one heap, and never given back, has most of them.
  echo 'export PYTHONMALLOC=malloc MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=10000000000'
  printf 'cd %q\n' "$1"
  shift
  printf 'exec'
  printf ' %q' "$@"
  echo
}

outside() {
  local checkout script memory=/dev/shm preloaded=''
  [ $# -gt 0 ] || refuse "which one? ${0##*/} COMMAND [ARGUMENT]..."
  command -v linux.uml > /dev/null || refuse 'there is no linux.uml: install the package user-mode-linux'
  [ -d "$MODULES" ] || refuse "there is no $MODULES: install the package user-mode-linux"
  command -v modprobe > /dev/null || refuse 'there is no modprobe: install the package kmod'
  script=$(realpath "${BASH_SOURCE[0]}")
  checkout=$(dirname "$(dirname "$script")")

  folder=$(mktemp -d) machine='' clock=''
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir "$folder/lib"
  ln -s "$MODULES" "$folder/lib/modules"
  ln -s "$script" "$folder/init"
  command_of "$checkout" "$@" > "$folder/command"
  if grep -qw amx_tile /proc/cpuinfo; then
    command -v cc > /dev/null || refuse 'there is no cc, which a processor with AMX asks for: install the package gcc'
    preloaded=$folder/registers.so
    cc -shared -fPIC -O1 -o "$preloaded" "${script%.sh}.c"
  fi
  [ "$(df --output=avail -B1G "$memory" | tail -n 1)" -ge "$MEMORY_GIB" ] || memory=$folder # as in containers

  ulimit -n "$(ulimit -Hn)" # a file that it has read stays open
  LD_PRELOAD=$preloaded TMPDIR=$memory linux.uml "mem=${MEMORY_GIB}G" root=/dev/root rootfstype=hostfs rootflags=/ ro "init=$folder/init" \
    "uml_dir=$folder/uml" con=null con0=fd:0,fd:1 con1=null,fd:2 console=tty1 quiet < /dev/null 2> "$folder/said" &
  machine=$!
  sleep "$LIMIT_S" > /dev/null 2>&1 &
  clock=$!
  wait -n "$machine" "$clock" 2> /dev/null || true
  if grep -q 'ran out of memory on the host side' "$folder/said"; then
    echo "${0##*/}: processes were killed there: vm.max_map_count of this machine ($(< /proc/sys/vm/max_map_count)) is too low" >&2
  fi
  if [ -s "$folder/code" ]; then
    exit "$(cat "$folder/code")"
  elif ! kill -0 "$clock" 2> /dev/null; then
    echo "${0##*/}: not done in $LIMIT_S s" >&2
    exit 124
  fi
  cat "$folder/said" >&2
  refuse 'the user-mode Linux ended before the command did'
}

# Leaves nothing. The kernel makes itself the leader of a session, which the processes that it runs are in.
finish() {
  exec 2> /dev/null # where the shell would tell of what was killed
  [ -z "$machine" ] || kill -KILL "$clock" "$machine" "-$machine" || true
  wait
  rm -rf "$folder"
}

if [ "${0##*/}" = init ]; then inside; else outside "$@"; fi
