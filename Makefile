# The same verbs for people and for CI. Each does its own set-up: a fresh clone needs nothing before it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
KAFKA_LIBS := .kafka/libs
# Brokers of `make chaos`: embedded or apache.
BROKERS ?= embedded

# Processes that run tests: two more than there are cores, since tests with brokers wait much of their time; eight at most (one
# takes up to 2 GB). PYTEST_WORKERS=0: one by one.
PYTEST_WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
PYTEST := $(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS) --maxprocesses 8

# Generated events of each test of `make fuzz`.
FUZZ ?= 2000

.PHONY: install demo test quick fuzz chaos mutants check bench kafka clean help

help:
	@echo "make install  virtual environment with everything ($(VENV))"
	@echo "make demo     embedded broker, two click streams, training, kill -9, replay: one table, one report"
	@echo "make test     checks and all tests (what CI runs)"
	@echo "make quick    the tests without brokers, browsers and long replays, in a minute or two"
	@echo "make fuzz     $(FUZZ) generated events for each test of tests/fuzz, other ones each time; FUZZ=20000: more"
	@echo "make chaos    the long form of the kill -9 test; BROKERS=apache: on three nodes of Apache Kafka, which fail, too"
	@echo "make mutants  small faults in the modules that must not be wrong: at least 85 % fail their tests; MODULES='state.positions': these"
	@echo "make check    ruff, mypy --strict, import-linter"
	@echo "make bench    the benchmarks, short form"
	@echo "make kafka    jars of Apache Kafka for the tests, by Maven ($(KAFKA_LIBS))"
	@echo "make clean    remove what the verbs above made"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/ecdctr demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(PYTEST)

quick: $(STAMP)
	$(PYTEST) -m "not slow and not broker and not browser"

fuzz: $(STAMP)
	FUZZ_EXAMPLES=$(FUZZ) $(PYTEST) --timeout 36000 tests/fuzz

chaos: $(STAMP) $(if $(filter apache,$(BROKERS)),kafka)
	$(BIN)/python -m tests.chaos --brokers $(BROKERS)

mutants: $(STAMP)
	nice -n 10 $(BIN)/python -m tests.mutants $(MODULES)

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py --write

kafka: $(KAFKA_LIBS)/.fetched

$(KAFKA_LIBS)/.fetched: tests/support/kafka/pom.xml
	rm -rf $(KAFKA_LIBS)
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(KAFKA_LIBS)
	@touch $@

clean:
	rm -rf $(VENV) .kafka demo-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
