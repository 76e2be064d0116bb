# make demo    a tiny network learns 4×4 Sudoku here, in minutes
# make demo-regression, make demo-latents    likewise noisy oscillators, and a chaotic system
# make test    make lint, and the test suite; make test-long: those of its tests that take minutes
# make lint    ruff, and mypy as a ratchet; make lint-accept: what mypy finds now is what it may find from here on
# make bench   speed on a CPU, beside the published code with REFERENCE=CHECKOUT: 12 minutes on two idle cores
# make bench-gpu     the same on a GPU, some 15 minutes; make bench-check: are the ratios of both as good as the recorded ones?
# All make the virtual environment they need; SEED=1 gives a demo another seed.
PYTHON ?= python3
SEED ?= 0
REFERENCE ?=
PY := .venv/bin/python
DEMO_DATA := data/demo-sudoku4
DEMO_RUN := checkpoints/demo/seed$(SEED)

.PHONY: demo demo-regression demo-latents lint lint-accept types test test-long bench bench-gpu bench-check clean
demo: .venv/installed
	@test -d $(DEMO_DATA) || $(PY) -m dataset.generate_sudoku --size 4 --train 16000 --test 512 --output-dir data/demo-sudoku4-csv --overwrite
	@test -d $(DEMO_DATA) || $(PY) -m dataset.build_sudoku_dataset --source-dir data/demo-sudoku4-csv --output-dir $(DEMO_DATA)
	@$(PY) pretrain.py experiment=demo_sudoku4 seed=$(SEED) checkpoint.path=$(DEMO_RUN) checkpoint.overwrite=True
	@$(PY) evaluate.py checkpoint=$(DEMO_RUN) evaluators="[{name: sudoku@Sudoku}]" picture=slowest
	@printf '%s\n' '' 'A network of two layers has learned 4x4 Sudoku; it never saw the grids it was just tested on.' \
	  '  curves of the run:            $(DEMO_RUN)/train_vs_val_loss.png' \
	  '  a puzzle solved step by step: $(DEMO_RUN)/evaluation/solution_steps.png' \
	  '  scores:                       $(DEMO_RUN)/evaluation/metrics.json' \
	  '  checkpoints, config, metrics: $(DEMO_RUN)/' \
	  'Next, try' \
	  '  .venv/bin/python evaluate.py checkpoint=$(DEMO_RUN) picture=7      another puzzle' \
	  '  .venv/bin/python pretrain.py experiment=demo_sudoku4 arch.halt_max_steps=1 run_name=no-second-thoughts' \
	  '  your own puzzles: docs/your-own-data.md'

demo-regression: .venv/installed
	@test -d data/demo-oscillators || $(PY) -m dataset.generate_oscillators --output-dir data/demo-oscillators
	@$(PY) pretrain.py experiment=demo_regression seed=$(SEED) checkpoint.path=$(DEMO_RUN)-regression checkpoint.overwrite=True
	@$(PY) evaluate.py checkpoint=$(DEMO_RUN)-regression evaluators="[{name: ridge@Ridge}]" picture=slowest
	@printf '%s\n' '' 'The course of damped oscillators, and how it goes on, from noisy readings with gaps.' \
	  '  against ridge regression (rmse above): $(DEMO_RUN)-regression/evaluation/ridge.png' \
	  '  a course found step by step:           $(DEMO_RUN)-regression/evaluation/solution_steps.png' \
	  'your own series: docs/regression-and-latents.md'

demo-latents: .venv/installed
	@test -d data/demo-lorenz || $(PY) -m dataset.generate_lorenz --output-dir data/demo-lorenz
	@$(PY) pretrain.py experiment=demo_latents seed=$(SEED) checkpoint.path=$(DEMO_RUN)-latents checkpoint.overwrite=True
	@$(PY) evaluate.py checkpoint=$(DEMO_RUN)-latents picture=0
	@printf '%s\n' '' 'The Lorenz system, predicted on and on; the table above has the errors and those of two baselines.' \
	  '  errors by horizon, and one rollout: $(DEMO_RUN)-latents/evaluation/rollouts.png' \
	  'your own episodes: docs/regression-and-latents.md'

lint: .venv/installed types
	@$(PY) -m ruff check --quiet .

# Status 1 of mypy: there are errors. Of them, only those that .mypy-baseline.txt does not list fail.
types: .venv/installed
	@mkdir -p .mypy_cache
	@$(PY) -m mypy --no-error-summary > .mypy_cache/findings.txt; test $$? -le 1 || (cat .mypy_cache/findings.txt; exit 1)
	@$(PY) -m mypy_baseline filter --allow-unsynced < .mypy_cache/findings.txt || (echo 'mypy: mend the new errors above'; exit 1)

lint-accept: .venv/installed
	@$(PY) -m mypy | $(PY) -m mypy_baseline sync

test: lint
	@$(PY) -m pytest -q -n auto --dist worksteal

test-long: .venv/installed
	@$(PY) -m pytest -q -m long -n auto --dist worksteal

bench: .venv/installed
	@$(PY) -m benchmarks.speed cpu $(addprefix --reference ,$(REFERENCE))

bench-gpu: .venv/installed
	@$(PY) -m benchmarks.speed gpu $(addprefix --reference ,$(REFERENCE))

bench-check: .venv/installed
	@$(PY) -m benchmarks.speed.check

# The pinned versions of constraints.txt are the tested ones.
.venv/installed: requirements.txt requirements-extra.txt constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-extra.txt -c constraints.txt
	@touch $@

clean:
	rm -rf .venv data/demo-sudoku4 data/demo-sudoku4-csv data/demo-oscillators data/demo-lorenz checkpoints/demo
