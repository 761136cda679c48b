// Package script runs the real program as a user would: each .txt file is a script whose first word
// says what it is about. Read them as documentation. Run one with
//
//	go test ./test/script -run Script/up_ready -v
//
// Beside testscript's own commands, the scripts have these:
//
//	start ARGS...        run "sarsen ARGS..." in the background until it says that it is ready, and
//	                     set $grpc and $http to the addresses that it prints
//	signal SIGNAL        send TERM, INT, HUP or KILL to it; but for KILL, wait until it says so
//	hangup TEXT          send HUP to it, and wait until its log has TEXT
//	ended                wait for its end; "! ended" wants an exit status other than 0
//	shutdown             signal TERM, then ended
//	httpget URL [FILE]   GET; what comes goes to stdout, and to FILE. "! httpget" wants an error status
//	await URL REGEXP     GET until what comes matches
//	httpput URL FILE     PUT the file; "! httpput" wants an error status
//	httppost URL FILE    POST it
//	httpbegin URL FILE   begin to PUT the file, and hold back its second half
//	httpend              send the second half and wait for the answer; "! httpend" wants no success
//	grpcbegin ADDR FILE  begin to write the file with ByteStream, and hold back its second half
//	grpcend              send the second half and wait for the answer
//	tinydisk DIR SIZE    make DIR a disk of its own of that size, where [mount] holds
//	fill FILE SIZE SEED  write SIZE bytes that look random and depend on SEED only
//	flip DIR FILE        turn over a bit in the middle of FILE's bytes, wherever DIR's segments have them
//	jsonlines FILE       check that each line of FILE, or of stdout, is a JSON object
//	digest NAME FILE     set $NAME to the file's digest (HASH/SIZE), $NAME_hash and $NAME_size
//	encode TYPE IN OUT   write IN, a REAPI message as text with variables, to OUT as bytes
//
// Every HTTP command prints the status code as the last line of stderr, and fails after $patience.
package script
