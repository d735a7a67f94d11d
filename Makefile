# Thin on purpose: every target is one or two cargo commands.

CARGO ?= cargo
# Where cargo builds, whatever sets it.
TARGET = $(shell $(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
PREFIX ?= /usr/local
# How long `make fuzz` looks at each target.
SECONDS ?= 60

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## everything, as it is released
	$(CARGO) build --workspace --release

.PHONY: run
run: ## the demonstration server, in the foreground
	$(CARGO) run --release --bin axum-server

.PHONY: demo
demo: build ## ten hot updates under load, in all three ways, and a table of what clients saw
	$(CARGO) run --release --bin demo

.PHONY: picture
picture: build ## the moving picture of the README, from a real run
	$(CARGO) run --release --bin picture crates/hotctl/watch.svg

ROUNDS ?= 3
BENCH = integration-tests/benches
RESULTS ?= $(TARGET)/bench
BENCH_ALL = $(TARGET)/release/bench all --out $(RESULTS)

.PHONY: bench bench-quick bench-results bench-build
bench: bench-build ## this project and its peers, everything, ROUNDS=3 times, into RESULTS=target/bench: a quarter of an hour
	$(BENCH_ALL) --rounds $(ROUNDS)

bench-quick: bench-build ## the same, once and less of each, in less than five minutes
	$(BENCH_ALL) --quick

bench-results: ## the same as bench, into the repository, and its table into the README
	$(MAKE) bench RESULTS=$(BENCH)/results
	$(TARGET)/release/bench report $(BENCH)/results README.md

# A peer that cannot be built is not measured, and the results say so.
bench-build:
	$(CARGO) build --release -p benches
	-$(CARGO) build --release --locked --workspace --keep-going --manifest-path $(BENCH)/peers/Cargo.toml --target-dir $(TARGET)/peers

HANDOFFS ?= 1000

.PHONY: soak
soak: build ## a thousand handoffs under load (HANDOFFS=1000): nothing fails and nothing grows; a table and a plot of it
	$(CARGO) run --release --bin soak -- --handoffs $(HANDOFFS) --csv $(TARGET)/soak.csv

.PHONY: test
test: ## the tests, of which all failures are shown; what this machine lacks for some of them is listed at the end
	$(CARGO) build --workspace --all-targets
	.ci/skipped $(CARGO) test --workspace --no-fail-fast
	$(CARGO) test --quiet -p hotupdate-tls --no-fail-fast --all-features

.PHONY: test-all
test-all: test ## and the slow ones: campaigns of faults, handoffs and abuse
	.ci/skipped $(CARGO) test --workspace --test campaigns

# Of a version that reads what the compiler writes (rustc -vV); Debian's 19 reads 22.
LLVM_COV ?= /usr/bin/llvm-cov-19
LLVM_PROFDATA ?= /usr/bin/llvm-profdata-19

.PHONY: coverage
coverage: ## lines of both libraries that tests of crates reach; needs `cargo install cargo-llvm-cov` and Debian's llvm-19
	LLVM_COV=$(LLVM_COV) LLVM_PROFDATA=$(LLVM_PROFDATA) $(CARGO) llvm-cov --all-features --no-fail-fast \
		-p hotupdate-proto -p hotupdate -p hotupdate-axum --ignore-filename-regex '/hotupdate-axum/|/testing.rs'

# With debug assertions, but not those of hyper: see the profile of the fuzz crates.
FUZZ = RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --release --sanitizer none --target-dir $(TARGET)/fuzz --fuzz-dir

.PHONY: fuzz
fuzz: ## looks for inputs that break something, SECONDS=60 for each kind; what is found is named and fails
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing, it is installed now"; $(CARGO) install --locked cargo-fuzz; }
	@set -e; for file in $(CURDIR)/crates/*/fuzz/fuzz_targets/*.rs; do \
		fuzz=$${file%/fuzz_targets/*}; target=$$(basename $$file .rs); gained=$(TARGET)/fuzz/corpus/$$target; \
		cp Cargo.lock $$fuzz; mkdir -p $$gained; echo "$$target: $(SECONDS) s"; \
		$(FUZZ) $$fuzz $$target $$gained $$fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -max_len=600 -len_control=1 -timeout=20 -print_final_stats=1 || { \
			echo "make fuzz: $$target fails, see above; again: $(FUZZ) $$fuzz $$target INPUT" >&2; exit 1; }; \
	done

.PHONY: model
model: ## every interleaving of the machines, with more processes, mishaps and orders than the tests have time for
	$(CARGO) test --release -p hotupdate-proto --test model -- --nocapture --include-ignored

.PHONY: fleet
fleet: ## many hosts: four by Ansible over ssh, and three of a swarm; a bad version stops at the first; minutes, as root
	$(CARGO) build --workspace
	.ci/skipped $(CARGO) test -p integration-tests --test fleet -- --nocapture

.PHONY: dist
dist: ## hotctl as it is given away, into target/dist: a static program in an archive and a .deb, an SBOM, sums; installed and run
	.ci/dist $(TARGET)/dist
	HOTUPDATE_DIST=$(TARGET)/dist $(CARGO) test -p integration-tests --test dist

.PHONY: crash
crash: ## a fault at each system call of a handoff, one run for each; and kills while TLS connections migrate: minutes, as root
	$(CARGO) build --workspace
	$(CARGO) run --bin crash -- all
	$(CARGO) run --bin crash -- all --speaks http2
	$(CARGO) run --bin crash -- tls

PUBLISHED = hotupdate-proto hotupdate-h2 hotupdate-heap hotupdate hotupdate-tls hotupdate-axum hotctl

# The files are in .cargo/mutants.toml. Each is tested by its own crate alone: what only whole processes would notice
# is a test that is missing. Only the programs that test a file are built, for there are hundreds of mutants. Each part
# can be run alone; `make -k mutants` runs them all, though mutants of one of them survive. The exit status 3 says
# that with some of them the tests did not end, and no mutant survived: that is noticed, too.
MUTANTS = mkdir -p $(TARGET)/$@ && $(CARGO) mutants --jobs 1 --no-shuffle --colors never --output $(TARGET)/$@
HANGS = || test $$? -eq 3

.PHONY: mutants mutants-protocol mutants-tables mutants-driver
mutants: mutants-protocol mutants-tables mutants-driver ## changes each decision of migration, gate, queue, activity and channel; tests of their crates have to notice

.PHONY: mutants-installed
mutants-installed:
	@$(CARGO) mutants --version >/dev/null 2>&1 || { echo "make mutants: cargo-mutants is missing; install it with: cargo install --locked cargo-mutants" >&2; exit 1; }

mutants-protocol: mutants-installed
	$(MUTANTS) --package hotupdate-proto --cargo-arg=--lib $(HANGS)

mutants-tables: mutants-installed
	$(MUTANTS) --package hotupdate --exclude-re '/driver/' --cargo-arg=--lib $(HANGS)

# What the driver does about migration shows between two processes. Tests of peers that take long and decide nothing
# here are skipped.
mutants-driver: mutants-installed
	$(MUTANTS) --package hotupdate --re '/driver/' $(addprefix --cargo-arg=,--lib --test=connections --test=handoff --test=peers) \
		-- -- $(addprefix --skip ,callers hostile impostor:: leftovers many:: probation) $(HANGS)

.PHONY: check
check: ## format, lints, documentation and dependencies, all without a warning; and what a request costs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	for features in '' http2 ws 'tls ring' 'tls aws-lc-rs http2'; do \
		$(CARGO) clippy --quiet -p hotupdate-axum --no-default-features --features "$$features" -- -D warnings || exit; \
	done
	$(CARGO) clippy --quiet -p hotupdate -- -D warnings
	for features in ring aws-lc-rs; do \
		$(CARGO) clippy --quiet -p hotupdate-tls --all-targets --no-default-features --features "$$features" -- -D warnings || exit; \
	done
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features
	$(CARGO) package --quiet --offline --allow-dirty --no-verify $(addprefix -p ,$(PUBLISHED))
	.ci/minimum-rust
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "make check: cargo-deny is missing; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check licenses bans sources
	CARGO=$(CARGO) .ci/cost

.PHONY: portable
portable: ## macOS and Windows: the workspace builds; services serve and stop where none can hand over
	CARGO=$(CARGO) .ci/portable

.PHONY: cost
cost: ## writes down what a request costs beside axum::serve, which check compares: 3 % more is a failure
	CARGO=$(CARGO) .ci/cost --write

MINIMUM = $(shell sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml)

.PHONY: minimum
minimum: ## whether all of it builds with the oldest Rust that Cargo.toml allows; needs rustup
	rustup toolchain install --profile minimal $(MINIMUM)
	$(CARGO) +$(MINIMUM) check --locked --workspace --all-features --target-dir $(TARGET)/minimum

.PHONY: advisories
advisories: ## known vulnerabilities of what we build on; fetches the database from github.com, so not part of check
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "make advisories: cargo-deny is missing; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check advisories

.PHONY: install
install: ## hotctl, its man page and its completions for bash, fish and zsh, into PREFIX (/usr/local)
	$(CARGO) build --release --bin hotctl
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin share/man/man1 share/bash-completion/completions)
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,fish/vendor_completions.d zsh/site-functions)
	install -m 0755 $(TARGET)/release/hotctl $(DESTDIR)$(PREFIX)/bin/hotctl
	$(TARGET)/release/hotctl man > $(DESTDIR)$(PREFIX)/share/man/man1/hotctl.1
	$(TARGET)/release/hotctl completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hotctl
	$(TARGET)/release/hotctl completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/hotctl.fish
	$(TARGET)/release/hotctl completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_hotctl

.PHONY: clean
clean: ## what cargo built
	$(CARGO) clean
