# Thin on purpose: every target is one or two cargo commands.

CARGO ?= cargo
PREFIX ?= /usr/local

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## everything, as it is released
	$(CARGO) build --workspace --release

.PHONY: run
run: ## the demonstration server, in the foreground
	$(CARGO) run --release -p example-axum-server

.PHONY: demo
demo: build ## ten hot updates under load, in all three ways, and a table of what clients saw
	target/release/demo

.PHONY: bench
bench: ## how long 1 to 15,000 live connections take to move, and what that costs
	$(CARGO) build --release -p example-axum-server
	$(CARGO) run --release -p integration-tests --bin moves

.PHONY: test
test: ## every test: builds the programs first, because the tests start them
	$(CARGO) build --workspace
	$(CARGO) test --workspace

.PHONY: model
model: ## every interleaving of the machines, with more processes, mishaps and orders than the tests have time for
	$(CARGO) test --release -p hotupdate-proto --test model -- --nocapture --include-ignored

.PHONY: check
check: ## format, lints and documentation, all without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features

.PHONY: install
install: ## hotctl, its man page and its completions, into PREFIX (/usr/local)
	$(CARGO) build --release -p hotctl
	install -D -m 0755 target/release/hotctl $(DESTDIR)$(PREFIX)/bin/hotctl
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	target/release/hotctl man > $(DESTDIR)$(PREFIX)/share/man/man1/hotctl.1
	target/release/hotctl completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hotctl

.PHONY: clean
clean: ## what cargo built
	$(CARGO) clean
