#!/bin/bash
# A Ray cluster on four nodes of Slurm, for one job; nobody has run it.
#   sbatch config/cluster_slurm.sh /project/photos /project/masks
# Both folders lie where all nodes see them. A job that ran out of time goes on where it was: send it again.
#SBATCH --job-name=skysky
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --exclusive
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((6379 + SLURM_JOB_ID % 1000))   # several jobs may share a machine
srun ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    skysky cluster mask "$1" -o "$2" --address auto --resume
