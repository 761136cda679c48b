package args

import (
	"strings"
	"testing"
)

// projects are command lines in the style of well-known builds. All of them can be cached.
var projects = []struct {
	name    string
	dialect Dialect
	line    string
}{
	{"Linux", GCC, `-Wp,-MMD,kernel/.x.o.d -nostdinc -I./arch/x86/include -I./include/uapi -include ./include/linux/kconfig.h
		-D__KERNEL__ -fmacro-prefix-map=./= -std=gnu11 -fshort-wchar -funsigned-char -fno-common -fno-PIE -mno-sse -m64 -falign-jumps=1 -falign-loops=1
		-mno-80387 -mpreferred-stack-boundary=3 -mskip-rax-setup -mtune=generic -mno-red-zone -mcmodel=kernel -Wno-sign-compare -fno-asynchronous-unwind-tables
		-mindirect-branch=thunk-extern -mindirect-branch-register -mfunction-return=thunk-extern -fno-jump-tables -mharden-sls=all -fpatchable-function-entry=16,16
		-fno-delete-null-pointer-checks -O2 -fno-allow-store-data-races -fstack-protector-strong -fno-stack-clash-protection -fzero-call-used-regs=used-gpr -fconserve-stack
		-Wframe-larger-than=2048 --param=allow-store-data-races=0 -DKBUILD_MODFILE="kernel/x" -c -o kernel/x.o kernel/x.c`},
	{"Linux assembly", GCC, `-Wp,-MMD,lib/.x.o.d -nostdinc -I./include -D__KERNEL__ -D__ASSEMBLY__ -fno-PIE -m64 -DCC_USING_FENTRY -g -gdwarf-5 -Wa,-gdwarf-5 -c -o lib/x.o lib/x.S`},
	{"CMake", GXX, `-DNDEBUG -Dx_EXPORTS -I/src/include -isystem /usr/include/x -O3 -std=gnu++17 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -flto=auto
		-fno-fat-lto-objects -Winvalid-pch -MD -MT CMakeFiles/x.dir/a.cpp.o -MF CMakeFiles/x.dir/a.cpp.o.d -o CMakeFiles/x.dir/a.cpp.o -c /src/a.cpp`},
	{"libtool", GCC, `-DHAVE_CONFIG_H -I. -I.. -D_REENTRANT -g -O2 -MT x.lo -MD -MP -MF .deps/x.Tpo -c ../x.c -fPIC -DPIC -o .libs/x.o`},
	{"Meson", GCC, `-Ilib/x.p -Ilib -I../lib -fdiagnostics-color=always -D_FILE_OFFSET_BITS=64 -Wall -Winvalid-pch -Wextra -std=c11 -O0 -g -fPIC -pthread
		-MD -MQ lib/x.p/a.c.o -MF lib/x.p/a.c.o.d -o lib/x.p/a.c.o -c ../lib/a.c`},
	{"Bazel", GCC, `-U_FORTIFY_SOURCE -fstack-protector -Wall -Wunused-but-set-parameter -Wno-free-nonheap-object -fno-omit-frame-pointer -std=c++17 -MD -MF out/a.pic.d
		-frandom-seed=out/a.pic.o -fPIC -DBAZEL_CURRENT_REPOSITORY="" -iquote . -iquote out/bin -iquote external/x -isystem external/x/include -c a.cc -o out/a.pic.o
		-fno-canonical-system-headers -Wno-builtin-macro-redefined -D__DATE__="redacted" -D__TIMESTAMP__="redacted"`},
	{"cgo", GCC, `-I . -fPIC -m64 -pthread -fmessage-length=0 -fdebug-prefix-map=/tmp/b001=/tmp/go-build -gno-record-gcc-switches -I /tmp/b001 -g -O2 -frandom-seed=abc -o /tmp/b001/_x001.o -c x.c`},
	{"Debian", GCC, `-g -O2 -Werror=implicit-function-declaration -ffile-prefix-map=/build/x=. -fstack-protector-strong -fstack-clash-protection -Wformat -Werror=format-security
		-fcf-protection -Wdate-time -D_FORTIFY_SOURCE=2 -c -o x.o x.c`},
	{"Fedora", GCC, `-O2 -flto=auto -ffat-lto-objects -fexceptions -g -grecord-gcc-switches -pipe -Wall -Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=3 -Wp,-D_GLIBCXX_ASSERTIONS
		-specs=/usr/lib/rpm/redhat/redhat-hardened-cc1 -fstack-protector-strong -specs=/usr/lib/rpm/redhat/redhat-annobin-cc1 -m64 -march=x86-64 -mtune=generic -fasynchronous-unwind-tables -c x.c`},
	{"Chromium", ClangXX, `-MMD -MF obj/x.o.d -DUSE_UDEV -D_FILE_OFFSET_BITS=64 -I../.. -Igen -Wimplicit-fallthrough -Wno-builtin-macro-redefined -D__DATE__= -fno-delete-null-pointer-checks
		-fno-ident -fno-strict-aliasing -fstack-protector -funwind-tables -fPIC -pthread -fcolor-diagnostics -fmerge-all-constants -fcrash-diagnostics-dir=../../tools/clang/crashreports
		-mllvm -instcombine-lower-dbg-declare=0 -mllvm -split-threshold-for-reg-with-hint=0 -ffp-contract=off -fcomplete-member-pointers -m64 -msse3 -ffile-compilation-dir=. -no-canonical-prefixes
		-fno-omit-frame-pointer -g2 -gdwarf-4 -gsplit-dwarf -ggnu-pubnames -Xclang -fuse-ctor-homing -fvisibility=hidden -Xclang -add-plugin -Xclang find-bad-constructs
		-Xclang -plugin-arg-find-bad-constructs -Xclang check-ipc -Wheader-hygiene -O2 -fdata-sections -ffunction-sections -fno-unique-section-names -ftrivial-auto-var-init=pattern
		-nostdinc++ -isystem../../buildtools/libc++/include -std=c++20 -fno-exceptions -fno-rtti --sysroot=../../build/linux/sysroot -c ../../x.cc -o obj/x.o`},
	{"Firefox", ClangXX, `-o x.o -c -I/o/dist/stl_wrappers -DNDEBUG=1 -I/o -include /o/mozilla-config.h -DMOZILLA_CLIENT -Qunused-arguments -Wall -Wno-range-loop-analysis -fno-sized-deallocation
		-fno-aligned-new -fcrash-diagnostics-dir=/s/build/crash -fPIC -fno-math-errno -pthread -pipe -gdwarf-4 -Xclang -load -Xclang /o/build/libclang-plugin.so -Xclang -add-plugin -Xclang moz-check
		-O2 -fno-omit-frame-pointer -funwind-tables -MD -MP -MF .deps/x.o.pp /s/x.cpp`},
	{"Android", ClangXX, `-c -Wa,--noexecstack -fPIC -D_USING_LIBCXX -DANDROID -fmessage-length=0 -fdebug-default-version=5 -Werror=date-time -O2 -fdebug-prefix-map=/proc/self/cwd= -ftrivial-auto-var-init=zero
		-target aarch64-linux-android10000 -nostdlibinc -march=armv8-a -mcpu=cortex-a53 -fvisibility=hidden -flto=thin -fsplit-lto-unit -std=gnu++20 -MD -MF out/x.o.d -o out/x.o x.cpp`},
	{"CMake and cl", MSVC, `/nologo /TP -DWIN32 -external:IC:\x\include -external:W0 /D_WINDOWS /EHsc /O2 /Ob2 /DNDEBUG -std:c++17 -MD /showIncludes /FoCMakeFiles\x.dir\a.cpp.obj
		/FdCMakeFiles\x.dir\ /FS -c C:\src\a.cpp`},
	{"MSBuild", MSVC, `/c /IC:\src /I.. /Z7 /nologo /W3 /WX- /diagnostics:column /sdl /O2 /Oi /GL /D NDEBUG /D _CONSOLE /Gm- /EHsc /MD /GS /Gy /fp:precise /permissive- /Zc:wchar_t /Zc:forScope
		/Zc:inline /Fox64\Release\ /Fdx64\Release\vc143.pdb /external:W3 /Gd /TP /FC /errorReport:queue /MP a.cpp b.cpp`},
	{"qmake", MSVC, `-c -nologo -Zc:wchar_t -FS -Zc:rvalueCast -Zc:inline -Zc:strictStrings -Zc:throwingNew -permissive- -Zc:__cplusplus -Zc:externConstexpr -O2 -MD -std:c++17 -utf-8 -W3
		-w34100 -w34189 -wd4577 -EHsc -DUNICODE -I. -Forelease\ a.cpp`},
	{"Chromium and clang-cl", ClangCL, `/nologo /showIncludes:user /X -imsvcC:\vc\include /winsysroot../../vs -DUSE_AURA=1 -I../.. -fcolor-diagnostics -fmerge-all-constants
		-mllvm -instcombine-lower-dbg-declare=0 /clang:-ffp-contract=off -m64 -msse3 /Brepro /Gy /FS /bigobj /utf-8 /Zc:sizedDealloc- /D__WRL_ENABLE_FUNCTION_STATICS__ /Oy- /Z7 -ftrivial-auto-var-init=pattern
		/WX /O2 /Ob2 /Gw /MT -Xclang -add-plugin -Xclang blink-gc -Xclang -fuse-ctor-homing /std:c++20 /TP /GR- /wd4091 /c ../../x.cc /Foobj/x.obj /Fdobj/x_cc.pdb`},
	{"CMake and clang-cl", ClangCL, `/nologo -TP -DX --target=x86_64-pc-windows-msvc -fuse-ld=lld-link /DWIN32 /EHsc /O2 -MD -clang:-MD -clang:-MTx.obj -clang:-MFx.obj.d /Fox.obj /Fdx.dir/ -c -- /src/a.cpp`},
}

func TestProjects(t *testing.T) {
	for _, p := range projects {
		c, err := Parse(p.dialect, strings.Fields(p.line), world{})
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		if len(c.Sources) == 1 && c.Outputs[0].Path != c.Output {
			t.Errorf("%s: the first output is %s, want %s", p.name, c.Outputs[0].Path, c.Output)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	argv := strings.Fields(projects[0].line)
	for b.Loop() {
		if _, err := Parse(GCC, argv, world{}); err != nil {
			b.Fatal(err)
		}
	}
}
