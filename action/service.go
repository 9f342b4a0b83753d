package main

// What a code is for, and which form it has there.

// defaultService stands in a request that does not say what its code is for.
const defaultService = "generic"

// formats are the forms of codes that services are known to take. A service that
// is not listed takes any code; --format says otherwise for both.
var formats = map[string]string{
	"npm":      "digits:6", // a recovery code has 64 hex digits: --format hex:64
	"rubygems": "digits:6",
}

func formatOf(service string) string {
	if f, ok := formats[service]; ok {
		return f
	}
	return "any"
}
