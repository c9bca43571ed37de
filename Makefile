PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs figures benchmarks bench-quick clean

# The main job: theory over measurement for LayerNorm, DyT and Derf, on two photographs (two to three minutes on two cores).
demo: .venv/ready
	$(BIN)/criticality compare timm:vit_base_patch16_224 --norm ln,dyt,derf --alpha 0.5,1,2 \
	  --depth 24 --width 384 --seeds 4 --samples 8 --init own,fan-in --workers 2 --out demo
	@echo "open demo/report.html"

# Two processes of one thread each: threads of their own would wait for each other on two cores.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --durations=20 --durations-min=5

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, offline, into build/site: warnings are errors, every notebook is executed (about two minutes).
docs: .venv/ready
	$(BIN)/sphinx-build -W --keep-going -b html docs build/site
	@echo "open build/site/index.html"

# The article's figures from stored results, and a check that random parts of these are computed to the same values.
figures: .venv/ready
	$(BIN)/python examples/paper/paper.py
	$(BIN)/python examples/paper/paper.py --check 12

benchmarks: .venv/ready
	for file in apjn_profile theory_cost scaling normalizers phase_maps monitor sweeps laboratory_cost start_up description_cost; do $(BIN)/python benchmarks/$$file.py; done

# Ratios beside those stored last, in under two minutes: is something slower than it was?
bench-quick: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/quick.py

# pip, not uv: see CONTRIBUTING.md. Half of an installation is bytecode, which pip makes on one core: compileall takes all of them.
.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # packages ship a few files that are not of this Python
	touch $@

clean:
	rm -rf .venv demo
