package httpcache

// serveMaven serves the Maven build cache extension, whose remote url is http://HOST/maven/NAMESPACE. It makes
// paths of its own, like v1.1/GROUP/ARTIFACT/CHECKSUM/buildinfo.xml. All that is not 2xx is a miss to it. Nothing here
// says DAV, or Maven's transport would send MKCOL first.
func serveMaven(x *exchange, rest []string) error {
	path, err := pathOf(rest)
	if err != nil {
		return err
	}
	return x.entry(path)
}
