#!/bin/sh
# Makes the Go code from worker.proto, bots.proto and snapshot.proto, with Debian's protoc and the generators of tools/go.mod.
set -eu
cd "$(dirname "$0")"
command -v protoc > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends protobuf-compiler; } >&2
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
tools=$(cd ../../tools && pwd)
(cd "$tools" && go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
go run imports.go "$bin/imports"
reapi=github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2
PATH=$bin:$PATH protoc --descriptor_set_in="$bin/imports" --proto_path=.. \
	--go_out=.. --go_opt=paths=source_relative,Mbuild/bazel/remote/execution/v2/remote_execution.proto=$reapi \
	--go-grpc_out=.. --go-grpc_opt=paths=source_relative,Mbuild/bazel/remote/execution/v2/remote_execution.proto=$reapi \
	workerpb/worker.proto botspb/bots.proto snapshotpb/snapshot.proto
