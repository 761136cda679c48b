package pbs

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// Rights are what somebody may do in a datastore or namespace.
type Rights uint8

// The rights. A backup that one may make is one to read, too.
const (
	Read   Rights = 1 << iota // list, verify and restore everything
	Backup                    // back up, and list and restore the groups that one owns
	Prune                     // forget, prune, protect and annotate what one may see; make and remove namespaces
)

// A Grant gives rights in a namespace of a datastore, and in all below it.
type Grant struct {
	Datastore, Namespace string
	Rights               Rights
}

// An Account is a user ("name@realm"), who can log in, or a user's token ("name@realm!token").
type Account struct {
	Name   string
	Secret [32]byte // SHA-256 of the password or of the token's secret
	Grants []Grant
}

// An Access is all accounts.
type Access struct{ Accounts []Account }

// SecretOf returns what an Account has of a secret.
func SecretOf(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

func (a *Account) isToken() bool { return strings.Contains(a.Name, "!") }

// may reports whether a has all of the rights.
func (a *Account) may(store, ns string, want Rights) bool {
	var have Rights
	for _, g := range a.Grants {
		if g.Datastore == store && (g.Namespace == "" || ns == g.Namespace || strings.HasPrefix(ns, g.Namespace+"/")) {
			have |= g.Rights
		}
	}
	return have&want == want
}

// sees reports whether a has any right in a datastore, wherever.
func (a *Account) sees(store string) bool {
	return slices.ContainsFunc(a.Grants, func(g Grant) bool { return g.Datastore == store })
}

// owns reports whether a group's owner is a, or a token of a.
func (a *Account) owns(owner string) bool {
	return owner == a.Name || !a.isToken() && strings.HasPrefix(owner, a.Name+"!")
}

// mayRead reports whether a may see a group of that owner.
func (a *Account) mayRead(store, ns, owner string) bool {
	return a.may(store, ns, Read) || a.may(store, ns, Backup) && a.owns(owner)
}

// mayPrune reports whether a may change a group of that owner.
func (a *Account) mayPrune(store, ns, owner string) bool {
	return a.may(store, ns, Prune) && (a.may(store, ns, Read) || a.owns(owner))
}

var errNoAuth = refusal.New(http.StatusUnauthorized, "authentication failed - invalid credentials")

func forbidden(what string) error {
	return refusal.New(http.StatusForbidden, "permission check failed - %s is not granted", what)
}

func (s *Server) account(name string) *Account {
	accounts := s.access.Accounts
	i := slices.IndexFunc(accounts, func(a Account) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return &accounts[i]
}

// login returns the account of that name and secret, or nil, in the same time.
func (s *Server) login(name, secret string) *Account {
	a := s.account(name)
	got, want := SecretOf(secret), [32]byte{}
	if a != nil {
		want = a.Secret
	}
	if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && a != nil {
		return a
	}
	return nil
}

// cookies are the names under which clients send a ticket, old and new.
var cookies = []string{"PBSAuthCookie", "__Host-PBSAuthCookie"}

// authenticate returns who sent a request: by a token in the header, or a ticket in a cookie.
func (s *Server) authenticate(r *http.Request) (*Account, error) {
	header := r.Header.Get("Authorization")
	for _, scheme := range []string{"PBSAPIToken=", "PBSAPIToken "} {
		if credentials, ok := strings.CutPrefix(header, scheme); ok {
			name, secret, _ := strings.Cut(strings.TrimSpace(credentials), ":")
			if a := s.login(name, secret); a != nil && a.isToken() {
				return a, nil
			}
			// The official client sends secrets percent-encoded.
			if plain, err := url.PathUnescape(secret); err == nil && plain != secret {
				if a := s.login(name, plain); a != nil && a.isToken() {
					return a, nil
				}
			}
			return nil, errNoAuth
		}
	}
	for _, name := range cookies {
		c, err := r.Cookie(name)
		if err != nil {
			continue
		}
		text, err := url.PathUnescape(c.Value)
		if err != nil {
			return nil, errNoAuth
		}
		a := s.ofTicket(text)
		if a == nil {
			return nil, errNoAuth
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !s.verify("csrf", a.Name, r.Header.Get("CSRFPreventionToken")) {
			return nil, refusal.New(http.StatusUnauthorized, "authentication failed - invalid CSRF prevention token")
		}
		return a, nil
	}
	return nil, refusal.New(http.StatusUnauthorized, "authentication failed - no authentication credentials provided.")
}

// ticketLife is how long a ticket is good for. Clients take a new one with the old one as the password.
const ticketLife = 2 * time.Hour

// ticket returns a ticket: PBS:USER:TIME::SIGNATURE.
func (s *Server) ticket(user string) string {
	stamp, mac := s.sign("ticket", user, time.Now())
	return "PBS:" + user + ":" + stamp + "::" + mac
}

// ofTicket returns whose valid ticket a text is, or nil.
func (s *Server) ofTicket(text string) *Account {
	head, mac, ok := strings.Cut(text, "::")
	parts := strings.Split(head, ":")
	if !ok || len(parts) != 3 || parts[0] != "PBS" || !s.verify("ticket", parts[1], parts[2]+":"+mac) {
		return nil
	}
	return s.account(parts[1])
}

// csrf returns what a client has to send with each change: TIME:SIGNATURE.
func (s *Server) csrf(user string) string {
	stamp, mac := s.sign("csrf", user, time.Now())
	return stamp + ":" + mac
}

// sign signs a time for a user as long as the user's secret is the same.
func (s *Server) sign(purpose, user string, at time.Time) (stamp, mac string) {
	var secret [32]byte
	if a := s.account(user); a != nil {
		secret = a.Secret
	}
	stamp = fmt.Sprintf("%08X", at.Unix())
	h := hmac.New(sha256.New, s.identity.ticketKey)
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%x", purpose, user, stamp, secret)
	return stamp, base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}

// verify reports whether text is the stamp and signature of a time that is not too long ago.
func (s *Server) verify(purpose, user, text string) bool {
	stamp, mac, _ := strings.Cut(text, ":")
	seconds, err := strconv.ParseInt(stamp, 16, 64)
	if err != nil {
		return false
	}
	at := time.Unix(seconds, 0)
	_, want := s.sign(purpose, user, at)
	age := time.Since(at)
	return hmac.Equal([]byte(mac), []byte(want)) && age < ticketLife && age > -5*time.Minute
}
