package main

import _ "github.com/sarsen-build/sarsen/compiler/launch"
