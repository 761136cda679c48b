package httpcache

// serveNx serves Nx's self-hosted remote cache, whose server is http://HOST/nx/NAMESPACE. Nx takes 200 and 404 to a
// GET; to a PUT exactly 200, 409 for what is there and 403 for who may not write. What is there stays, as Nx's
// specification wants: nobody can slip something else under a hash that was used.
func serveNx(x *exchange, rest []string) error {
	if len(rest) != 3 || rest[0] != "v1" || rest[1] != "cache" {
		return x.unknown()
	}
	path, err := pathOf(rest[2:])
	if err != nil {
		return err
	}
	return x.entry(path)
}
