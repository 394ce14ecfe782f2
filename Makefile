# Two commands need nothing but python3 (3.11 or newer), make and pip: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest/bin
# One more than there are cores: many a test waits.
PROCESSES := $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
GENERATE = -m grpc_tools.protoc -I optimdpb=proto/optimd --python_out=$(1) --pyi_out=$(1) proto/optimd/v1/optimd.proto
DOCKERFILES := $(shell find deploy -name 'Dockerfile*' 2>/dev/null)

.PHONY: demo test test-long check bench examples docs-pictures docs-cli fix proto baseline clean

demo: .venv/stamp
	$(BIN)/optimd demo $(ARGS)

test: .venv/stamp
	$(BIN)/python -m tests.support.kernels
	$(BIN)/pytest -m "not long and not alone" --durations=10 -n $(PROCESSES) --dist worksteal $(ARGS)
	$(BIN)/pytest -m "not long and alone" --durations=10 $(ARGS)

test-long: .venv/stamp
	$(BIN)/pytest -m long --durations=10 $(ARGS)

bench: .venv/stamp
	$(BIN)/python -m tests.bench $(ARGS)

check: .venv/stamp .venv-lowest/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against proto/baseline/optimd.binpb
	$(BIN)/hadolint $(DOCKERFILES)
	$(BIN)/yamllint --strict deploy
	@echo "generated code is fresh?"
	@rm -rf build/proto && mkdir -p build/proto && $(LOWEST)/python $(call GENERATE,build/proto)
	@diff -r -x __init__.py -x __pycache__ build/proto/optimdpb/v1 proto/optimdpb/v1 || (echo "run: make proto"; exit 1)
	@echo "the lowest versions work?"
	@$(LOWEST)/python tests/packaging/smoke.py

# Where their tools are; the tests build what is not built yet.
examples:
	$(MAKE) -C examples/go
	cmake -S examples/cpp -B examples/cpp/build && cmake --build examples/cpp/build -j 2

# A picture of every schedule, and the page around them.
docs-pictures: .venv/stamp
	$(BIN)/python -m tests.support.docs_pictures

# The page of the program's commands, of their help.
docs-cli: .venv/stamp
	$(BIN)/python -m tests.support.docs_cli

fix: .venv/stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

proto: .venv-lowest/stamp
	$(LOWEST)/python $(call GENERATE,proto)

# Move the line that `buf breaking` holds: on purpose, in a commit of its own.
baseline: .venv/stamp
	$(BIN)/buf build -o proto/baseline/optimd.binpb

clean:
	rm -rf .venv .venv-lowest build examples/*/build dist .mypy_cache .ruff_cache .pytest_cache

.venv/stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Every dependency at its floor: generates the code, so that it loads everywhere, and proves that the floors work.
.venv-lowest/stamp: pyproject.toml tests/packaging/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet --disable-pip-version-check -r tests/packaging/lowest.txt hatchling editables
	$(LOWEST)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
