package collect

//lint:file-ignore SA1019 clients of API 2.0 set the old fields

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
)

// A want is what a field of the command, or a link, is about.
type want int

const (
	anything want = iota
	aFile
	aDirectory
)

// An output is one path that the command names.
type output struct {
	field string
	path  string // relative to the working directory, as the client wrote it; the result says it the same way
	at    string // the same, relative to the root: clean, "." is the root
	kind  want
}

// outputsOf returns the outputs of the command, each once, where the working directory is work. output_paths hides the old fields.
func outputsOf(command *repb.Command, work string) ([]output, error) {
	lists := []struct {
		field string
		kind  want
		paths []string
	}{{"output_paths", anything, command.OutputPaths}}
	if len(command.OutputPaths) == 0 {
		lists[0].field, lists[0].kind, lists[0].paths = "output_files", aFile, command.OutputFiles
		lists = append(lists, lists[0])
		lists[1].field, lists[1].kind, lists[1].paths = "output_directories", aDirectory, command.OutputDirectories
	}
	var outputs []output
	seen := map[string]string{}
	for _, list := range lists {
		for i, name := range list.paths {
			field := fmt.Sprintf("command.%s[%d]", list.field, i)
			// "The special value of empty string is allowed, although not recommended."
			if name != "" || list.kind == aFile {
				if err := checkPath(field, name, true); err != nil {
					return nil, err
				}
			}
			at := path.Join(".", work, name)
			if above(at) {
				return nil, fmt.Errorf("%w: %s: %q leads out of the input root", blob.ErrInvalid, field, name)
			}
			if other, ok := seen[name]; ok {
				if other != list.field {
					return nil, fmt.Errorf("%w: %s: %q is in %s too", blob.ErrInvalid, field, name, other)
				}
				continue
			}
			seen[name] = list.field
			outputs = append(outputs, output{field, name, at, list.kind})
		}
	}
	return outputs, nil
}

// workingDirectory returns the working directory relative to the root, "" for the root. Some clients (trexe)
// write "." for that.
func workingDirectory(command *repb.Command) (string, error) {
	if command.WorkingDirectory == "" || command.WorkingDirectory == "." {
		return "", nil
	}
	return command.WorkingDirectory, checkPath("command.working_directory", command.WorkingDirectory, false)
}

// checkPath refuses what is not a plain relative path; dots says whether "." and ".." are plain. The reason names the field.
func checkPath(field, path string, dots bool) error {
	refuse := func(why string) error {
		return fmt.Errorf("%w: %s: %q %s", blob.ErrInvalid, field, path, why)
	}
	switch {
	case path == "":
		return fmt.Errorf("%w: %s: the path is empty", blob.ErrInvalid, field)
	case path[0] == '/':
		return refuse("is absolute")
	case strings.IndexByte(path, 0) >= 0:
		return refuse("has a NUL in it")
	case !utf8.ValidString(path):
		return refuse("is not UTF-8")
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "":
			return refuse("has an empty component")
		case !dots && (part == "." || part == ".."):
			return refuse(fmt.Sprintf("has a component %q", part))
		case len(part) > 255:
			return refuse("has a component of more than 255 bytes")
		}
	}
	return nil
}

// properties are the node properties that the command asks for.
type properties struct{ mtime, mode bool }

// propertiesOf reads output_node_properties. Clients write names of fields as the proto does, or as
// types are written.
func propertiesOf(command *repb.Command) (p properties, err error) {
	for i, name := range command.OutputNodeProperties {
		switch name {
		case "mtime", "MTime":
			p.mtime = true
		case "unix_mode", "UnixMode":
			p.mode = true
		default:
			return p, fmt.Errorf("%w: command.output_node_properties[%d]: %q is not known, only mtime and unix_mode", blob.ErrInvalid, i, name)
		}
	}
	return p, nil
}
