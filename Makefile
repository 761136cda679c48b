# `make` lists the verbs. docs/testing.md says what each harness is for.

GO ?= go
STATICCHECK = $(GO) tool -modfile=tools/go.mod staticcheck

.DEFAULT_GOAL := help

help: ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## build ./sarsen, static and stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o sarsen ./cmd/sarsen

test: lint unit mutants explore faults clients crashes ## everything that CI runs

lint: ## formatting, go vet, staticcheck, and the house rules
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags mutant ./...
	$(GO) vet -tags clients ./test/clients
	$(GO) vet -tags crash ./test/crash
	$(STATICCHECK) -tags crash ./test/crash
	GOOS=darwin $(GO) vet ./internal/vfs ./segment ./httpcache ./worker/... ./cmd/sarsen
	$(STATICCHECK) ./...
	$(GO) test -count=1 ./internal/tidy

generate: ## make the Go code of our own protocols from internal/*/*.proto (installs protoc)
	internal/workerpb/generate.sh

# Without GORACE every process that a test starts of its own binary would sleep for a second before it ends.
unit: ## unit, conformance, seeded and script tests, with the race detector
	GORACE=atexit_sleep_ms=0 $(GO) test -race -short -timeout 20m $$($(GO) list ./... | grep -v -e /test/ -e /internal/tidy) -skip '^TestEvery(OperationFails|CrashImage)$$'
	$(GO) test ./test/hitratio
	$(GO) test -count=1 ./test/script # it runs a program that it builds, of which go test's cache knows nothing

mutants: ## make each mistake of internal/mutant and see it caught
	$(GO) test -count=1 -v ./test/mutants

# Two processes of one core each are faster than one of two: a schedule is one goroutine at a time.
SCHEDULES ?= 200000
SEEDED = GOMAXPROCS=1 GOGC=400 SARSEN_SCHEDULES=$(SCHEDULES) $(GO) test -count=1 -v -timeout 24h ./segment -run '^TestSeeded$$'
EXHAUSTIVE = $(GO) test -count=1 -v -timeout 1h ./segment -run '^TestExhaustive$$'
explore: ## a million schedules of the store (SCHEDULES of each of five scenarios), every one of four tasks, every state of the rules
	$(GO) test -count=1 ./test/ringmodel
	$(GO) test -count=1 -v ./s3 -run '^TestExhaustive$$' # every collection beside servers that crash and stop
	$(EXHAUSTIVE) -skip '^TestExhaustive$$/^put_put_rotate' & $(EXHAUSTIVE) -run '^TestExhaustive$$/^put_put_rotate' && wait $$!
	SARSEN_SHARD=0/2 $(SEEDED) & SARSEN_SHARD=1/2 $(SEEDED) && wait $$!

FAULTS ?=
faults: ## every file operation fails, every crash image, every structure damaged; FAULTS=all for six errors and 16 images each
	SARSEN_FAULTS=$(FAULTS) $(GO) test -count=1 -v -timeout 24h ./segment -run '^(TestEvery|TestFlip|TestCuts)'

clients: ## Bazel, buildbox, BuildStream, Go, ccache, Gradle and many more against the real binary (root; 60 s and 1.5 GB of packages the first time)
	$(GO) test -tags clients -count=1 -v -timeout 75m ./test/clients

CRASH = $(GO) test -tags crash -count=1 -v -timeout 24h ./test/crash -run
crashes: ## kills and power cuts, as many as CI has time for (root; installs xfsprogs the first time)
	$(CRASH) 'TestForgetful|TestPortable|TestBackupKill'
	$(CRASH) TestKill -args -n 2000 -budget 2m
	$(CRASH) TestPowerCut -args -n 200 -budget 2m
	$(CRASH) TestBucketKill -args -n 100 -budget 60s

LEASE ?= 0
LEDGER ?= docs/runs.md
export SERVER
kill: ## kill -9 a server under load N times, ask for all it acknowledged, note it in LEDGER; SERVER='a shell command' tries another
	$(CRASH) TestKill -args -n $(or $(N),2000) -ledger '$(LEDGER)' -server "$$SERVER" -lease $(LEASE)

powercut: ## cut the power under a server's file system N times, as kill does
	$(CRASH) TestPowerCut -args -n $(or $(N),200) -ledger '$(LEDGER)' -server "$$SERVER" -lease $(LEASE)

FUZZTIME ?= 30s
fuzz: ## run every fuzz target for FUZZTIME
	@for f in $$(git grep -ohE '^func Fuzz[A-Za-z]+' -- '*_test.go' | sed 's/func //' | sort -u); do \
		for p in $$(git grep -lE "^func $$f\(" -- '*_test.go' | xargs -n1 dirname); do \
			echo "$$f in ./$$p"; $(GO) test ./$$p -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) || exit 1; done; done

.PHONY: help build test lint unit mutants explore faults clients crashes kill powercut fuzz
