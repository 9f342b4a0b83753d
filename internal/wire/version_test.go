package wire

import (
	"errors"
	"strings"
	"testing"
)

func TestAnAudienceOfAnotherVersionIsToldFromAWrongOne(t *testing.T) {
	t.Parallel()
	for aud, want := range map[string]string{
		Audience("relay.example.com", PublicKey(jobKey)): "",
		UnboundAudience("relay.example.com"):             "",
		"cfa:v2:relay.example.com:U":                     "version 2: this program speaks version 1; upgrade this program",
		"cfa:v0:relay.example.com":                       "version 0: this program speaks version 1; upgrade the other side",
		"cfa:v02:relay.example.com":                      "",
		"cfa:v-2:relay.example.com":                      "",
		"cfa:v+2:relay.example.com":                      "",
		"cfa:v2":                                         "",
		"cfa:v:relay.example.com":                        "",
		"cfa:v99999999999999999999:relay.example.com":    "",
		"https://github.com/example":                     "",
		"x:cfa:v2:relay.example.com":                     "",
	} {
		err := CheckAudience(aud)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", aud, err)
		}
	}
}

// A later version has fields that this one has never heard of. Whoever reads it
// is told to upgrade, and which side, rather than that something is malformed.
func TestAnotherVersionIsSaidBeforeItsUnknownFields(t *testing.T) {
	t.Parallel()
	const later = `{"v":2,"kind":"request","alg":"x","body":"AA==","sig":"AA=="}`
	for name, c := range map[string]struct {
		data string
		into any
		want string // "": malformed, and no version
	}{
		"a later reply":                         {`{"v":2,"status":{"is":"new"}}`, &Reply{}, "unknown protocol version 2: this program speaks version 1; upgrade this program"},
		"an older reply":                        {`{"v":0,"status":{}}`, &Reply{}, "unknown protocol version 0: this program speaks version 1; upgrade the other side"},
		"a later envelope":                      {later, &Envelope{}, "upgrade this program"},
		"one in a message":                      {`{"request":` + later + `,"token":"a.b.c"}`, &RequestMessage{}, "upgrade this program"},
		"one in a message with something new":   {`{"request":` + later + `,"token":"a.b.c","proofs":[]}`, &RequestMessage{}, "upgrade this program"},
		"a step":                                {`{"step":` + later + `}`, &StepMessage{}, "upgrade this program"},
		"of another type in it":                 {`{"v":2,"state":7}`, &Reply{}, "upgrade this program"},
		"null in it":                            {`{"v":2,"state":null}`, &Reply{}, "upgrade this program"},
		"this version with an unknown field":    {`{"v":1,"status":{}}`, &Reply{}, ""},
		"a version that is no number":           {`{"v":"2","state":7}`, &Reply{}, ""},
		"no version":                            {`{"status":{}}`, &Reply{}, ""},
		"an object with a v and no signature":   {`{"request":{"v":2},"token":1}`, &RequestMessage{}, ""},
		"a list":                                {`[{"v":2}]`, &Reply{}, ""},
		"not JSON":                              {`{"v":2`, &Reply{}, ""},
		"another version beyond the size limit": {`{"v":2,"x":"` + strings.Repeat("x", MaxMessage) + `"}`, &Reply{}, ""},
	} {
		err := Decode([]byte(c.data), MaxMessage, c.into)
		switch {
		case c.want == "" && (!errors.Is(err, ErrMalformed) || errors.Is(err, ErrVersion)):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}
