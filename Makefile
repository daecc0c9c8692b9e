# What CI runs, target by target. Needs `pip install -e '.[test]'`; what is not installed is named and left out.

BIN := $(if $(wildcard .venv/bin/python),.venv/bin/,)

# $(call run,program,arguments): under CI a program that is missing is a failure.
run = @if command -v $(BIN)$(1) >/dev/null; then $(BIN)$(1) $(2); else \
	echo "$(1) is not installed, so this was left out: pip install -e '.[test]'"; test -z "$$CI"; fi

PROGRAMS := chromium node nginx caddy haproxy qpdf bsdtar jbig2dec jq openssl ssh-keygen logrotate curl wget aria2c javac go zsh fish mandoc groff

# What is run once .venv may have been made; BIN is from before.
PYTHON = $$(test -x .venv/bin/python3 && echo .venv/bin/)python3

.PHONY: check lint types test test-long programs docs-check docs venv man site offline format sample pictures bench bench-full

check: lint types programs test docs-check

lint:
	$(call run,ruff,check .)
	$(call run,ruff,format --check .)

types:
	$(call run,mypy,)

programs: # whose absence leaves tests out here; CI has them all
	@for program in $(PROGRAMS); do PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || \
	echo "$$program is not installed: the tests that need it are skipped here."; done

test:
	$(call run,pytest,)

test-long: # the longer ones, some minutes
	$(call run,pytest,-m long)

# Pages with what the program itself says.
WRITTEN = docs/cli.md docs/datasette.md docs/api.md docs/messages.md docs/messages/*.md

docs-check: # the pages that are written from the program say what it says
	$(call run,cog,--check $(WRITTEN))

docs: # write them anew
	$(BIN)cog -r $(WRITTEN)

venv: # the program with its libraries, which the targets below run: a .venv of its own, unless this Python has them
	@$(PYTHON) -c 'import cli' 2>/dev/null || \
	{ python3 -m venv .venv && .venv/bin/pip install --quiet --editable .; }

offline: man # one tar for boxes without a network: wheels for this kind of machine, and install.sh; EXTRAS=notify,postgres
	@$(PYTHON) -m release.offline dist $(EXTRAS)

site: # the documentation as a folder that works without a network
	@test -n "$$(command -v $(BIN)mkdocs)" || { echo "MkDocs is not installed. In this folder, run" \
	"\`python3 -m venv .venv && .venv/bin/pip install -e '.[test]'\`, then make site again."; exit 1; }
	@NO_MKDOCS_2_WARNING=1 $(BIN)mkdocs build --strict --quiet && echo "Open site/index.html."

man: venv # man pages of all commands; a wheel that is built afterwards takes them along
	@$(PYTHON) -m manual.man_pages share/man/man1

format:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

bench: # within five minutes
	$(BIN)python3 -m benchmarks.run --rounds 3

bench-full: # some forty minutes, 40 GB; writes docs/benchmarks.md
	$(BIN)python3 -m benchmarks.run --full --rounds 3 --write docs/benchmarks.md

sample: # print the sample's PDFs anew; needs Chromium
	$(BIN)python3 data/sample/make_sample.py

pictures: # take the pictures of the page anew; needs Chromium
	$(BIN)python3 -m tests.pictures
