#!/usr/bin/python3
"""Writes a file in capitals: once, or again and again as a persistent worker of either protocol."""
import json
import os
import sys
import time


def upper(arguments):
    source, out = arguments
    with open(source) as f:
        text = f.read()
    if "wrong" in text:
        return 1, f"{source} is wrong\n"
    with open(out, "w") as f:
        f.write(text.upper())
    time.sleep(0.1)  # work, so that something can happen in the middle of it
    return 0, ""


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def read_varint(read):
    n = shift = 0
    while True:
        b = read(1)
        if not b:
            sys.exit(0)
        n |= (b[0] & 127) << shift
        shift += 7
        if b[0] < 128:
            return n


def serve_proto():
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while True:
        body = stdin.read(read_varint(stdin.read))
        at, arguments = 0, []

        def take(n):
            nonlocal at
            at += n
            return body[at - n : at]

        while at < len(body):
            tag = read_varint(take)  # arguments are field 1, inputs field 2; all fields are bytes
            value = take(read_varint(take))
            if tag == 1 << 3 | 2:
                arguments.append(value.decode())
        code, output = upper(arguments)
        answer = b""
        if code:
            answer += b"\x08" + varint(code)
        if output:
            answer += b"\x12" + varint(len(output.encode())) + output.encode()
        stdout.write(varint(len(answer)) + answer)
        stdout.flush()


def serve_json():
    for line in sys.stdin:
        request = json.loads(line)
        code, output = upper(request["arguments"])
        print(json.dumps({"exitCode": code, "output": output, "requestId": request["requestId"]}), flush=True)


flags = sys.argv[1:]
if "--persistent_worker" in flags:
    serve_json() if "--json" in flags else serve_proto()
else:
    with open(flags[-1][1:]) as f:
        code, output = upper(f.read().splitlines())
    sys.stderr.write(output)
    os._exit(code)
