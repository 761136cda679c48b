# A small C program of many files, for compiler caches. It is sourced after lib.sh.
# shellcheck shell=sh disable=SC2154 # lib.sh sets the names

files=12

# sources SALT writes them anew, which SALT changes.
sources() {
	rm -rf "$work/project"
	mkdir -p "$work/project"
	i=0
	while [ $i -lt $files ]; do
		printf '#include "all.h"\nint f%d(int x) { return x + %d; }\n' $i $i >"$work/project/f$i.c"
		echo "int f$i(int);"
		i=$((i + 1))
	done >"$work/project/all.h"
	# A declaration, since a macro that nobody uses is gone before ccache looks.
	printf '#define SALT "%s"\nint salt_%s(void);\n' "$1" "$(echo "$1" | tr -c 'a-z\n' _)" >>"$work/project/all.h"
	{
		printf '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%%s %%d\\n", SALT, 0'
		i=1
		while [ $i -lt $files ]; do
			printf ' + f%d(0)' $i
			i=$((i + 1))
		done
		echo '); return 0; }'
	} >"$work/project/f0.c"
	salt=$1
}

# compile WRAPPER VARIABLES... builds the program with the wrapper before the compiler, and runs it.
compile() {
	wrapper=$1
	shift
	cat >"$work/project/Makefile" <<-'END'
		.RECIPEPREFIX = >
		OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
		program: $(OBJECTS)
		> gcc -o $@ $^
		%.o: %.c
		> $(WRAPPER) gcc -O1 -c $< -o $@
	END
	timeout -k 5 300 chroot "$root" /usr/bin/env -i --chdir=/tmp/project PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C \
		"$@" make -s -j2 WRAPPER="$wrapper" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		fail "$salt: the build failed"
	}
	got=$(inside /tmp/project/program)
	[ "$got" = "$salt $((files * (files - 1) / 2))" ] || fail "$salt: the program says '$got'"
}
