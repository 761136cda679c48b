package httpcache

// serveMetro serves Metro's HttpStore, whose endpoint is http://HOST/metro/NAMESPACE. To a GET it takes 200 and 404;
// anything else fails the bundle. To a PUT it takes 200. Metro doesn't wait for that, and in many versions nobody
// catches its failure, which then ends the process: so 200 is what it gets whatever became of the entry.
func serveMetro(x *exchange, rest []string) error {
	if len(rest) != 1 {
		return x.unknown()
	}
	path, err := pathOf(rest)
	if err != nil {
		return err
	}
	return x.entry(path)
}
