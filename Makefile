# Every target makes .venv and installs what it needs with pip alone.
#   make train ARGS="--dataset digits --epochs 3"
#   make test  ARGS="-k truncation"
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
WORKERS ?= 2

# Tests run by `pytest`, not `python -m pytest`: that puts the root on the path, where bare `import mpc` would work.
# One thread for each test worker: two workers fill two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train infer test test-big bench bench-network bench-peers bench-federated lint check docs clean

help:
	@echo "make train   train on secret-shared MNIST, with a plaintext twin beside it"
	@echo "make infer   private inference"
	@echo "make test    all tests, but those that need much memory"
	@echo "make test-big  tests with tensors of 1 GiB"
	@echo "make lint    ruff and mypy --strict"
	@echo "make check   lint and test"
	@echo "make bench   benchmarks, results in benchmarks/results"
	@echo "make bench-network   benchmarks between processes, beside CrypTen; ARGS goes to bench_network.py"
	@echo "make bench-peers     the same work on CrypTen and SPU, and how time grows; ARGS goes to against_peers.py"
	@echo "make bench-federated federated accuracy, attacks, sums nobody sees; ARGS goes to bench_federated.py"
	@echo "make docs    build the documentation, warnings are errors"
	@echo "make clean   remove what was built, .venv too"
	@echo 'ARGS="..." passes more options to the script, pytest or Sphinx.'

$(PY):
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra of pyproject.toml.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

# All extras by one call of pip: eight calls take eight times as long.
EXTRAS := dev examples data docs dp flower plots tensorboard
EMPTY :=
COMMA := ,
.PHONY: everything
everything: $(VENV)/.installed-all
$(VENV)/.installed-all: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[$(subst $(EMPTY) $(EMPTY),$(COMMA),$(EXTRAS))]'
	@touch $(EXTRAS:%=$(VENV)/.installed-%) $@

train: $(VENV)/.installed-examples
	$(PY) examples/encrypted_mnist.py --epochs 1 --plain $(ARGS)

infer: $(VENV)/.installed-examples
	$(PY) examples/private_inference.py --plain $(ARGS)

test: $(VENV)/.installed-all
	$(ONE_THREAD) $(VENV)/bin/pytest tests docs/tutorials --nbmake -n $(WORKERS) --dist worksteal --durations=15 $(ARGS)

test-big: $(VENV)/.installed-dev $(VENV)/.installed-examples $(VENV)/.installed-data
	$(ONE_THREAD) $(VENV)/bin/pytest tests -m big $(ARGS)

bench: $(VENV)/.installed-dev $(VENV)/.installed-examples
	mkdir -p benchmarks/results
	$(VENV)/bin/pytest benchmarks --benchmark-only --benchmark-json=benchmarks/results/latest.json $(ARGS)
	$(PY) benchmarks/table.py benchmarks/results/latest.json docs/benchmarks_table.md

bench-network: $(VENV)/.installed-dev $(VENV)/.installed-examples
	$(PY) benchmarks/bench_network.py --json benchmarks/results/network-latest.json $(ARGS)
	$(PY) benchmarks/bench_transports.py --json benchmarks/results/network-transports.json
	$(PY) benchmarks/network_table.py benchmarks/results/network-latest.json benchmarks/results/network-transports.json docs/benchmarks_network.md

bench-peers: $(VENV)/.installed-dev
	$(PY) benchmarks/peers/install.py
	$(PY) benchmarks/against_peers.py --json benchmarks/results/peers-latest.json $(ARGS)
	$(PY) benchmarks/scaling.py --json benchmarks/results/scaling-latest.json
	$(PY) benchmarks/peers_page.py benchmarks/results/peers-latest.json benchmarks/results/scaling-latest.json docs/benchmarks_peers.md

bench-federated: $(VENV)/.installed-all
	$(PY) benchmarks/bench_federated.py --json benchmarks/results/federated-latest.json --table docs/benchmarks_federated.md $(ARGS)

lint: $(VENV)/.installed-all
	$(PY) -m ruff check .
	$(PY) tests/packaging/make_links.py
	MYPYPATH=.links $(PY) -m mypy --strict --explicit-package-bases -p sharetorch

check: lint test

docs: $(VENV)/.installed-docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

clean:
	rm -rf $(VENV) .links build dist docs/_build benchmarks/results/latest.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -rf *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
