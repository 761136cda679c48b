package backup

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// Access says which repositories there are, and who may do what with them.
type Access struct {
	open  bool
	rules map[string]Rule // by "restic/NAME" and "casync/NAME"
}

// A Rule says who may use one repository, and how much of the store it may take.
type Rule struct {
	// Token lets its owner read and add, and delete unless AppendOnly is set. Empty lets everybody.
	Token string
	// AppendOnly lets nobody but the owner of MaintenanceToken delete or replace anything but restic's locks.
	AppendOnly bool
	// MaintenanceToken lets its owner do everything. Empty is none.
	MaintenanceToken string
	// Quota bounds the bytes of all that is stored. Zero is no bound but the store's.
	Quota int64
}

// Open lets everybody do everything with repositories of any name.
func Open() *Access { return &Access{open: true} }

// Restrict returns the access to the given repositories of restic and stores of casync, and no others.
func Restrict(restic, casync map[string]Rule) *Access {
	a := &Access{rules: map[string]Rule{}}
	for name, r := range restic {
		a.rules["restic/"+name] = r
	}
	for name, r := range casync {
		a.rules["casync/"+name] = r
	}
	return a
}

// rights are what a request may do.
type rights struct {
	delete bool
	quota  int64 // zero is none
}

// of returns the rights of a request. Of a repository that does not exist a stranger is told the same as of
// one that is not his.
func (a *Access) of(kind, name string, r *http.Request) (rights, error) {
	if a.open {
		return rights{delete: true}, nil
	}
	rule, ok := a.rules[kind+"/"+name]
	token := tokenOf(r)
	full := ok && same(token, rule.MaintenanceToken)
	if full || ok && (rule.Token == "" || same(token, rule.Token)) {
		return rights{delete: full || !rule.AppendOnly, quota: rule.Quota}, nil
	}
	return rights{}, refusal.New(http.StatusUnauthorized, "unauthorized: the token of %s/%s is wanted as the password", kind, name)
}

// tokenOf returns the password of basic authentication, whoever the user, or a bearer's token.
func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	return ""
}

// same compares without telling by time how much is right. No token is like none.
func same(got, want string) bool {
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
