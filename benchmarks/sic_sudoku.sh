#!/usr/bin/env bash
# SiC's baseline (Muon with momentum 0.6, 3 Newton–Schulz steps) at T 3, n 6 on 88 positions: docs/LOG.md, 2026-11-26.
#   bash benchmarks/sic_sudoku.sh PUZZLES [SETTING=VALUE …]      PUZZLES: a folder with train.csv and test.csv
# A part ends after PART_S seconds; the same command goes on with it, until step 8,000. The exact accuracy on test.csv
# after each 500 steps is in RUN/metrics.jsonl. RUN, PART_S and PYTHON are variables of the environment.
set -euo pipefail
puzzles=$1; shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} data=data/sic-sudoku run=${RUN:-checkpoints/sic-sudoku}
[ -d "$data" ] ||
  "$python" -m dataset.build_sudoku_dataset --source-dir "$puzzles" --output-dir "$data" --subsample-size 1000 --num-aug 1000
status=0
timeout -s INT "${PART_S:-560}" "$python" pretrain.py experiment=sic_sudoku "data_paths=[$data]" augment=null \
  arch.H_cycles=3 arch.L_cycles=6 arch.register_tokens=0 arch.puzzle_emb_ndim=512 arch.puzzle_emb_len=7 \
  eval_interval=192 checkpoint.path="$run" checkpoint.resume=auto checkpoint.monitor=val/exact_accuracy \
  checkpoint.mode=max evaluators=[] use_wandb=false "$@" || status=$?
grep -h exact_accuracy "$run/metrics.jsonl" | grep val/ || true
exit "$status"
