# Each target sets itself up, in .venv/ and nowhere else: all it takes is a Python >= 3.11.
#
#   make test     build the wheel, check the sources, test the wheel on every CPython >= 3.11
#   make quick    tests/unit alone, in the tree and on one Python, and the checks of the sources
#   make demo     a small service, its incidents, and what `aioaudit why` says of each
#   make lint     the checks of the sources alone
#   make docs     the documentation as a site, in .venv/site
#   make bench    what auditing costs, appended to benchmarks/history.jsonl
#   make clean    take .venv/ and what tools leave behind away
#
# PYTHON=path chooses who runs the tools, PYTHONS="3.12 3.13" who is tested (else all that are found),
# PYTEST_ARGS="-k why" what; PYTEST_ARGS="-m 'not judge'" leaves out CPython's own tests of
# asyncio, which take some minutes.

PYTHON ?=
PYTHONS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
export PYTHONS PYTEST_ARGS BENCH_ARGS

define WITH_PYTHON
	@for python in $(PYTHON) python3 python python3.15 python3.14 python3.13 python3.12 python3.11 \
	    $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.*/bin/python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" -B tools/make.py $@; \
	    fi; \
	done; \
	echo "aioaudit: make $@ needs a Python >= 3.11 and found none; name one: make $@ PYTHON=/path/to/python" >&2; \
	exit 1
endef

.PHONY: test quick demo lint docs bench clean

test quick demo lint docs bench:
	$(WITH_PYTHON)

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
