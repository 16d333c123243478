#!/bin/bash
# An experiment on a Slurm cluster, from the root of the checkout; what follows the name are its flags.
# On GPUs: pip install -c constraints.txt -e ".[experiments]" "jax[cuda12]"
#
#   sbatch --array=1-8 experiments/jobs/slurm.sh kernel_distance --preset=paper --dataset=mnist
#       a sweep: eight jobs, each trains its share of the networks; the last to end draws them all
#   sbatch --nodes=4 --ntasks-per-node=8 experiments/jobs/slurm.sh kernel_distance --preset=paper --dataset=mnist
#       one run over several hosts, a task for every GPU
#
# Five minutes before the time limit every task gets SIGTERM, saves and ends with 75, and the job is requeued; so is
# one that a job of higher priority takes the place of (--requeue). A job that is started again repeats nothing.
# To repeat a part of an array: SHARDS=8 sbatch --array=3,5 … with the number that the whole array had.
#SBATCH --job-name=wsn
#SBATCH --output=wsn-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --time=4:00:00
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
set -u

if (($# == 0)); then
  echo "error: name an experiment, as in: sbatch --array=1-8 $0 kernel_distance --preset=paper" >&2
  exit 1
fi
command=(python -m "experiments.$1" "${@:2}")
job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  command+=(--shard="$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}")
  job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

srun --wait=60 "${command[@]}"
code=$?
# 143: it was still loading its data when the signal came. After scancel this shell is gone, and nothing is requeued.
if ((code == 75 || code == 143)); then
  scontrol requeue "$job"
fi
exit "$code"
