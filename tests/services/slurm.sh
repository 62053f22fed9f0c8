#!/bin/bash
# slurm.sh start|stop : private one-node Slurm without systemd, as root, on ports of its own.
# Needs slurmctld, slurmd and munged (Debian: slurm-wlm munge).
set -euo pipefail
BASE=${SLURM_BASE:-${TMPDIR:-/tmp}/lode-slurm}
CTLD_PORT=${SLURM_CTLD_PORT:-16817}; SLURMD_PORT=${SLURM_SLURMD_PORT:-16818}
export SLURM_CONF=$BASE/slurm.conf
case "${1:-start}" in
start)
  mkdir -p "$BASE"/{state,spool,log}
  # munge: own key, socket, log and pid under BASE; runs as the current user (root: --force)
  mkdir -p "$BASE/munge"; chmod 700 "$BASE/munge"
  [ -s "$BASE/munge/key" ] || { dd if=/dev/urandom of="$BASE/munge/key" bs=1 count=1024 status=none; chmod 600 "$BASE/munge/key"; }
  munged --force --key-file="$BASE/munge/key" --socket="$BASE/munge/sock" --pid-file="$BASE/munge/pid" \
         --log-file="$BASE/munge/log" --seed-file="$BASE/munge/seed"
  HOST=$(hostname -s); CPUS=$(nproc); MEM=$(( $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) - 1024 ))
  cat > "$SLURM_CONF" <<C
ClusterName=lode
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CTLD_PORT
SlurmdPort=$SLURMD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$BASE/munge/sock
CredType=cred/munge
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool
SlurmctldPidFile=$BASE/slurmctld.pid
SlurmdPidFile=$BASE/slurmd.pid
SlurmctldLogFile=$BASE/log/slurmctld.log
SlurmdLogFile=$BASE/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
ReturnToService=2
InactiveLimit=0
MinJobAge=600
KillWait=5
DefMemPerCPU=512
MaxArraySize=${SLURM_MAX_ARRAY:-10001}
MaxJobCount=20000
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM State=UNKNOWN
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
C
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N "$HOST"
  for _ in $(seq 300); do
    state=$(sinfo -h -o %T 2>/dev/null || true); [ "$state" = idle ] && break; sleep 0.1; done
  [ "$state" = idle ] || { echo "slurm did not come up: $state" >&2; tail -5 "$BASE"/log/*.log >&2; exit 1; }
  echo "export SLURM_CONF=$SLURM_CONF";;
stop)
  for p in slurmd slurmctld; do [ -s "$BASE/$p.pid" ] && kill "$(cat "$BASE/$p.pid")" 2>/dev/null || true; done
  sleep 1; [ -s "$BASE/munge/pid" ] && kill "$(cat "$BASE/munge/pid")" 2>/dev/null || true;;
esac
