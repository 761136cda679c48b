package httpcache

// serveGradle serves Gradle's HttpBuildCache, whose url is http://HOST/gradle/NAMESPACE/ with the slash at its end.
// Gradle takes 200 and 404 to a GET, any 2xx and 413 to a PUT; after anything else it uses no remote cache until
// the build ends. Keys are hexadecimal. Two builds with one key made the same, so the last may win.
func serveGradle(x *exchange, rest []string) error {
	if len(rest) != 1 {
		return x.unknown()
	}
	path, err := pathOf(rest)
	if err != nil {
		return err
	}
	return x.entry(path)
}
