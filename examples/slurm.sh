#!/bin/bash
# Trains on several machines with SLURM: sbatch examples/slurm.sh runs/sudoku --preset sudoku
# The first argument is the run's folder, on a disk that all machines share; the others are those of trm-fast train.
# A process that dies comes back and the run continues from its newest checkpoint (--max-restarts). A job that is started
# again, after its time limit for example, resumes the run.
#SBATCH --job-name=trm-fast
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
run=$1
shift
if [ -e "$run/config.yaml" ]; then
  set -- --resume "$run"
else
  set -- "$@" --out "$run"
fi
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # a line for each
exec srun torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="${hosts%%$'\n'*}:29500" \
  -m trm_fast.cli train "$@"
