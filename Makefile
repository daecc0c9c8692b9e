# What CI runs, target by target. Needs `pip install -e '.[test]'`.

BIN := $(if $(wildcard .venv/bin/python),.venv/bin/,)

.PHONY: check lint types test docs-check docs format sample pictures bench bench-full

check: lint types test docs-check

lint:
	$(BIN)ruff check .
	$(BIN)ruff format --check .

types:
	$(BIN)mypy

test:
	$(BIN)pytest

docs-check: # docs/cli.md says what the program says
	$(BIN)cog --check docs/cli.md

docs: # write docs/cli.md anew
	$(BIN)cog -r docs/cli.md

format:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

bench: # within five minutes
	$(BIN)python -m benchmarks.run --rounds 3

bench-full: # some forty minutes, 40 GB; writes docs/benchmarks.md
	$(BIN)python -m benchmarks.run --full --write docs/benchmarks.md

sample: # print the sample's PDFs anew; needs Chromium
	$(BIN)python data/sample/make_sample.py

pictures: # take the pictures of the page anew; needs Chromium
	$(BIN)python -m tests.pictures
